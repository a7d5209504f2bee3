import random
import zipfile

import pytest
import torch

from autoencoder.checkpoint_file import check_checkpoint_file

CONTENT = {"global_step": 3, "state_dict": {"weight": torch.arange(40.0)}, "name": "x"}


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def test_a_whole_file_passes(path):
    check_checkpoint_file(path)


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -30])
def test_a_cut_file_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"run\.ckpt` is damaged or cut, or no checkpoint: "):
        check_checkpoint_file(path)


def test_a_flipped_bit_is_found_or_changes_nothing(path):
    """PyTorch compares no checksum: it loads most of these files with other weights."""
    whole, draw, found = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        place = draw.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            check_checkpoint_file(path)
            loaded = torch.load(path, weights_only=True)  # a bit of the padding between the parts
        except (ValueError, RuntimeError):  # PyTorch does look at the archive's directory
            found += 1
            continue
        assert torch.equal(loaded["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
        assert loaded | {"state_dict": {}} == CONTENT | {"state_dict": {}}
    assert found > 100


def test_parts_that_unpack_to_more_than_the_file_are_not_unpacked(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        check_checkpoint_file(path)
