"""The last step of a training, whose checkpoint is written whatever the intervals are."""

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def is_last_step(trainer: Trainer) -> bool:
    """Tell at the end of a batch, or of the validation after it, whether the training ends."""
    loop = trainer.fit_loop
    is_last_batch = loop.epoch_loop.batch_progress.is_last_batch
    if is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs:
        return True
    if trainer.should_stop and loop._can_stop_early:
        return True
    return trainer.global_step == trainer.max_steps


def is_validation_due(trainer: Trainer) -> bool:
    """Tell at the end of a batch whether a validation follows."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)


def validate_now(trainer: Trainer) -> None:
    """Run a validation apart from those that Lightning runs in a training."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    trainer.validating = True
    loop.restarting = False
    loop.run()
    trainer.training = True


def save_last_step(trainer: Trainer, is_validation_to_come: bool) -> None:
    """Write the checkpoints of this step that the intervals of the callbacks leave out.

    Lightning would leave the weights of some step before it, at a learning rate in mid-course. A
    callback that monitors a metric decides by itself on its best checkpoints; only its last one is
    written here, and after the validation, since a step that is saved is not looked at again.

    Args:
        trainer: The trainer, at the end of the last batch or of the validation after it.
        is_validation_to_come: Whether a validation follows.
    """
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback._should_skip_saving_checkpoint(trainer):
            continue
        candidates = callback._monitor_candidates(trainer)
        if callback.monitor is None:
            callback._save_topk_checkpoint(trainer, candidates)
        elif is_validation_to_come or callback.every_n_epochs:
            continue
        callback._save_last_checkpoint(trainer, candidates)
