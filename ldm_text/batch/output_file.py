"""An output file that a job fills chunk by chunk, exactly once.

While the job runs there stand beside ``NAME``: ``NAME.partial`` with the chunks until now,
``NAME.rejects.jsonl.partial`` if rows were rejected, and the journal ``NAME.job.json``. A commit
brings both files to the disk and then replaces the journal, so that whatever moment a run ends at,
the next one cuts the files back to the journal and goes on. ``NAME`` appears when all is there.
"""

import fcntl
import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

from ldm_text.batch.chunk_file import EncodedChunk, has_chunks, remove_chunk_folders
from ldm_text.batch.encoding import Encoding, encode_lines
from ldm_text.batch.journal import JobState, Journal, differences, read_journal
from ldm_text.whole_lines import sync_folder, write_all


def journal_path(path: Path) -> Path:
    """Return where the journal of an output file stands."""
    return path.with_name(path.name + ".job.json")


def earlier_journal(path: Path) -> Journal | None:
    """Return the journal of an earlier run that has left rows of an output file.

    A run that ended before its first rows has left nothing that another command could differ from.

    Raises:
        ValueError: If the journal is damaged.
    """
    journal = read_journal(journal_path(path))
    if journal is None or not (journal.state.num_chunks or has_chunks(path)):
        return None
    return journal


class OutputFile:
    """The output of a job, to be used as a context.

    Args:
        path: The output file, in an existing folder.
        encoding: Its format.
        settings: All that decides its content, as JSON.
        chunk_slots: Slots a chunk, if the job is begun.
        start_over: Forget what an earlier run has done.

    Raises:
        ValueError: If an earlier run had other settings, its files are not as it left them, or
            another process is at work on the file.
    """

    def __init__(
        self,
        path: Path,
        encoding: Encoding,
        settings: dict[str, Any],
        chunk_slots: int,
        *,
        start_over: bool = False,
    ) -> None:
        self.path, self.encoding = path, encoding
        self.partial = path.with_name(path.name + ".partial")
        self.rejects = path.with_name(path.name + ".rejects.jsonl")
        self.rejects_partial = self.rejects.with_name(self.rejects.name + ".partial")
        # Compared as they come out of a file: a tuple is a list there.
        settings = json.loads(json.dumps(settings))
        self.journal = Journal(journal_path(path), settings, JobState(chunk_slots))
        self.start_over = start_over
        self._files = ExitStack()

    @property
    def state(self) -> JobState:
        """How far the job is."""
        return self.journal.state

    @property
    def job_key(self) -> str:
        """What tells this job from others with the same output."""
        content = json.dumps([self.journal.settings, self.state.chunk_slots], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._files.close()
            raise
        return self

    def _open(self) -> None:
        earlier = None if self.start_over else earlier_journal(self.path)
        if earlier is not None:
            self._check_settings(earlier)
            self.journal = earlier
        if self.state.is_complete:  # a run ended between two steps of `complete`
            if self.partial.exists():
                self._open_locked(self.partial)
            return
        self.file = self._open_locked(self.partial)
        self.rejects_file: BinaryIO | None = None
        if earlier is None:
            self.journal.write()
            remove_chunk_folders(self.path)
        if self.state.num_reject_bytes:
            self.rejects_file = self._open_rejects()
        else:
            self.rejects_partial.unlink(missing_ok=True)
        for file, size in self._sizes():
            if file.seek(0, os.SEEK_END) < size:
                raise ValueError(
                    f"`{file.name}` is shorter than the {size} bytes that `{self.journal.path}` "
                    "tells of; `--start_over` begins the job anew."
                )
            file.truncate(size)
            file.seek(size)

    def _open_locked(self, path: Path) -> BinaryIO:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        file = self._files.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"`--output`: another process is writing `{path}`; wait for it, or name another "
                "file."
            ) from error
        return file

    def _check_settings(self, earlier: Journal) -> None:
        if found := differences(earlier.settings, self.journal.settings):
            raise ValueError(
                f"`--output`: `{self.partial}` holds {earlier.state.num_records} rows of a job "
                f"that differs in {', '.join(found)}. Give what it was begun with to go on, "
                "`--start_over` to discard these rows, or another file."
            )

    def _sizes(self) -> list[tuple[BinaryIO, int]]:
        files = [(self.file, self.state.num_bytes)]
        if self.rejects_file is not None:
            files.append((self.rejects_file, self.state.num_reject_bytes))
        return files

    def commit(self, chunk: EncodedChunk, stream: tuple[int, str] | None = None) -> None:
        """Append the next chunk for good: after a return it is on the disk, else not at all.

        Args:
            chunk: The chunk.
            stream: Rows read of a stream, and their hash.

        Raises:
            OSError: If the disk is full or fails; the files then end with the chunk before.
        """
        assert chunk.number == self.state.num_chunks, "chunks come in order"
        try:
            write_all(self.file, chunk.content)
            if chunk.rejects and self.rejects_file is None:
                self.rejects_file = self._open_rejects()
            if self.rejects_file is not None:
                write_all(self.rejects_file, encode_lines(chunk.rejects))
            for file, _ in self._sizes():
                os.fsync(file.fileno())
        except BaseException:
            for file, size in self._sizes():
                file.truncate(size)
            raise
        # Not cut back from here on: the journal may be replaced before an interrupt arrives.
        state = self.state
        self.journal.write(
            num_chunks=state.num_chunks + 1,
            num_slots=state.num_slots + chunk.num_slots,
            num_records=state.num_records + chunk.num_records,
            num_rejects=state.num_rejects + len(chunk.rejects),
            num_bytes=self.file.tell(),
            num_reject_bytes=0 if self.rejects_file is None else self.rejects_file.tell(),
            stream=stream,
        )

    def _open_rejects(self) -> BinaryIO:
        mode = "r+b" if self.state.num_reject_bytes else "wb"
        return self._files.enter_context(self.rejects_partial.open(mode, buffering=0))

    def complete(self) -> None:
        """Give the files their names and forget the journal; the job is done."""
        if not self.state.is_complete:
            self.journal.write(is_complete=True)
        if self.rejects_partial.exists() and self.state.num_rejects:
            os.replace(self.rejects_partial, self.rejects)
        elif not self.state.num_rejects:
            self.rejects.unlink(missing_ok=True)  # of an earlier job
        if self.partial.exists():
            self.encoding.complete(self.partial, self.path)
        sync_folder(self.path.parent)
        remove_chunk_folders(self.path)
        self.journal.remove()

    def __exit__(self, error_type: type | None, error: BaseException | None, _: object) -> None:
        self._files.close()
        if error is not None and self.journal.path.exists():
            error.add_note(
                f"`{self.partial}` holds the {self.state.num_records} rows written until then; the "
                "same command goes on behind them."
            )
