"""What a job has committed, in a small file that is replaced as a whole.

The journal is the truth: what an output file holds beyond it was not committed and is cut off when
the job goes on. It is written after the output has reached the disk, and before the next chunk.
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ldm_text.whole_lines import sync_folder


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Attributes:
        chunk_slots: Slots a chunk, chosen when the job was begun.
        num_chunks: Chunks that are committed.
        num_slots: Slots that they held.
        num_records: Records that were written.
        num_rejects: Rows that were rejected, and texts that could not be written.
        num_bytes: Size of the output that is committed.
        num_reject_bytes: Size of the rejects file that is committed.
        stream: For a stream, the rows read and their hash.
        is_complete: Whether all chunks are committed.
    """

    chunk_slots: int
    num_chunks: int = 0
    num_slots: int = 0
    num_records: int = 0
    num_rejects: int = 0
    num_bytes: int = 0
    num_reject_bytes: int = 0
    stream: tuple[int, str] | None = None
    is_complete: bool = False


@dataclass
class Journal:
    """The journal of a job.

    Attributes:
        path: Its file.
        settings: All that decides the output, as JSON.
        state: How far the job is.
    """

    path: Path
    settings: dict[str, Any]
    state: JobState = field(default_factory=lambda: JobState(1))

    def write(self, **changes: Any) -> None:
        """Replace the file by one with a changed state, at once.

        A power cut may bring the earlier one back: the chunk behind it is then done again.
        """
        state = replace(self.state, **changes)
        content = json.dumps({"settings": self.settings, "state": asdict(state)}, indent=2) + "\n"
        successor = self.path.with_name(self.path.name + ".new")
        with successor.open("wb") as file:
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(successor, self.path)
        self.state = state

    def remove(self) -> None:
        """Forget the job."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def read_journal(path: Path) -> Journal | None:
    """Read the journal of an earlier run, if there is one.

    Raises:
        ValueError: If the file is no journal.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = content["state"]
        stream = state.pop("stream")
        return Journal(
            path,
            content["settings"],
            JobState(**state, stream=None if stream is None else (stream[0], stream[1])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"`{path}` is no journal of a job, or is damaged; `--start_over` begins the job anew."
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say which settings differ, with their values where these are short."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = json.dumps(old.get(name)), json.dumps(new.get(name))
        if before != after:
            values = f" ({before}, now {after})" if len(before) + len(after) < 80 else ""
            found.append(f"`{name}`{values}")
    return found
