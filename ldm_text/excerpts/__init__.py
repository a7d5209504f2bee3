"""Small excerpts of public data sets, so that every command can be tried without a download."""

from pathlib import Path

_FOLDER = Path(__file__).parent
_SUFFIX = ".jsonl.xz"


def excerpt_path(name: str) -> Path:
    """Return the file of an excerpt.

    Args:
        name: File name without its suffixes, such as ``e2e_train``.

    Raises:
        FileNotFoundError: If there is no such excerpt; the message lists those there are.
    """
    names = sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))
    if name not in names:
        raise FileNotFoundError(f"No excerpt {name!r}; there are {', '.join(names)}.")
    return _FOLDER / f"{name}{_SUFFIX}"
