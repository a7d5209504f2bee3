import resource

import pytest

from ldm_text.whole_lines import WholeLinesFile, check_output_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "out.jsonl.partial"


def test_the_file_has_its_name_only_when_it_is_complete(path, partial):
    with WholeLinesFile(path) as file:
        file.write_lines(["a", "\u00e9"])
        assert not path.exists()
        assert partial.read_text(encoding="utf-8") == "a\n\u00e9\n"
        file.write_lines(["c"])
    assert path.read_text(encoding="utf-8") == "a\n\u00e9\nc\n"
    assert not partial.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_file_keeps_its_whole_lines_and_says_so(path, partial, error):
    def write():
        with WholeLinesFile(path) as file:
            file.write_lines(["a", "b"])
            raise error

    with pytest.raises(error) as caught:
        write()
    assert partial.read_text() == "a\nb\n"
    assert not path.exists()
    assert caught.value.__notes__ == [f"`{partial}` holds the 2 lines written until then."]


def test_lines_that_no_longer_fit_leave_no_trace(path, partial):
    """As on a full disk: the system takes a part of the lines and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write():
        with WholeLinesFile(path) as file:
            file.write_lines(["first", "second"])
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
            try:
                file.write_lines(["third", "fourth"])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(OSError, match="too large"):
        write()
    assert partial.read_text() == "first\nsecond\n"
    assert not path.exists()


def test_a_full_disk_leaves_no_file(path, partial):
    partial.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"), WholeLinesFile(path) as file:
        file.write_lines(["a"])
    assert not path.exists()


def test_an_earlier_file_stays_until_the_new_one_is_complete(path, partial):
    path.write_text("old\n")
    with WholeLinesFile(path) as file:
        file.write_lines(["new"])
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n"
    assert not partial.exists()


def test_an_earlier_part_of_a_file_is_begun_anew(path, partial):
    partial.write_text("left over\n")
    with WholeLinesFile(path) as file:
        file.write_lines(["new"])
    assert path.read_text() == "new\n"


def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path):
    check_output_file("--output", tmp_path / "new.jsonl")
    with pytest.raises(FileNotFoundError, match=r"`--output`: there is no folder `.*nowhere`"):
        check_output_file("--output", tmp_path / "nowhere" / "new.jsonl")
    with pytest.raises(ValueError, match=r"`--output`: `.*` is no regular file"):
        check_output_file("--output", tmp_path)
