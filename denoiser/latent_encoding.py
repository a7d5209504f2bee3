"""Fill a latent cache, each process of a training with its share."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from denoiser.latent_cache import LatentCache

BATCHES_PER_MARK = 64


def open_latent_cache(
    loader: DataLoader, weights: dict[str, Tensor], setting: str, folder: str | None
) -> LatentCache:
    """Open the cache of a data set; a folder holds one cache for each content.

    Args:
        loader: Loader of the rows.
        weights: Weights of the autoencoder, which decide the latents.
        setting: What else decides their last bits, such as the precision.
        folder: Folder of all caches; ``None`` keeps the latents in memory.

    Raises:
        ValueError: If a folder is given for a data set that cannot tell its content.
    """
    dataset, batch_size = loader.dataset, loader.batch_size or 1
    num_rows = len(dataset)  # pyrefly: ignore [bad-argument-type]
    if folder is None:
        return LatentCache(num_rows, batch_size)
    content = getattr(dataset, "fingerprint", None)
    if content is None:
        raise ValueError(
            f"`latent_cache_dir` needs rows with a fingerprint, as TextDataModule makes them; "
            f"{type(dataset).__name__} has none. Leave it out to keep the latents in memory."
        )
    digest = hashlib.sha256(f"1 {content} {batch_size} {setting}".encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return LatentCache(num_rows, batch_size, Path(folder).expanduser() / digest.hexdigest()[:32])


def fill(
    cache: LatentCache,
    loader: DataLoader,
    encode: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    trainer: Trainer,
) -> None:
    """Encode what is missing, in the order of the rows.

    A row's neighbours in its batch can change its latents in the last bit: the batches are those of
    the unshuffled data, whoever encodes them. Processes that share a folder take turns; what is
    missing after that, because each machine has a folder of its own, is shared by its processes.

    Args:
        cache: Cache to fill.
        loader: Loader of the rows.
        encode: Gives the latents ``(B, L, D)`` of each column of a batch.
        trainer: The trainer, which knows the processes.
    """
    rank_zero_info(f"Encoding {cache.num_rows} training rows, once for all epochs.")
    if cache.folder is None:
        shares = [(0, 1)]
    else:
        shares = [
            (trainer.global_rank, trainer.world_size),
            (trainer.local_rank, max(1, trainer.num_devices)),
        ]
    for number, count in shares:
        missing = cache.missing()
        trainer.strategy.barrier()  # all have looked before anyone fills
        batches = [batch for batch in missing if batch % count == number]
        in_order = DataLoader(
            loader.dataset,
            # pyrefly: ignore [bad-argument-type] - a range is a list that takes no memory
            batch_sampler=[cache.rows_of(batch) for batch in batches],
            collate_fn=loader.collate_fn,
        )
        done = []
        for batch_number, batch in zip(batches, in_order, strict=True):
            for column, latents in encode(batch).items():
                cache.put(column, batch["row"], latents)
            done.append(batch_number)
            if len(done) == BATCHES_PER_MARK:
                cache.mark(done)
                done = []
        cache.mark(done)
        trainer.strategy.barrier()
