import pytest
import torch

from ldm_text import training_guards
from ldm_text.training_guards import AtomicCheckpointIO


def step_in(path):
    return AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["step"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_checkpoint_replaces_another_which_is_kept(tmp_path, monkeypatch, has_links):
    def no_link(*_):
        raise OSError("Operation not supported")

    if not has_links:
        monkeypatch.setattr(training_guards.os, "link", no_link)
    path, previous = tmp_path / "new" / "last.ckpt", tmp_path / "new" / "last.previous.ckpt"
    for step in (1, 2, 3):
        AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.ones(3)}, path)
        assert step_in(path) == step
        assert sorted(path.parent.iterdir()) == ([path] if step == 1 else [path, previous])
    assert step_in(previous) == 2
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not list(path.parent.iterdir())


def test_a_checkpoint_written_again_at_its_step_leaves_the_one_before(tmp_path):
    """As the autoencoder's is, with the statistics that its validation has measured."""
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    for number, global_step in enumerate((1, 2, 2)):
        io.save_checkpoint({"step": number, "global_step": global_step}, path)
    assert step_in(path) == 2
    assert step_in(tmp_path / "last.previous.ckpt") == 0


def test_a_write_cut_short_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def cut_short(checkpoint, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(training_guards.torch, "save", cut_short)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert step_in(path) == 1
    AtomicCheckpointIO().save_checkpoint({"step": 3}, path)
    assert step_in(path) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


def test_storage_options_are_refused_as_in_lightning(tmp_path):
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt", storage_options={})
