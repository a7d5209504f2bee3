"""What a job reads and writes, as the command line says it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ldm_text.batch.line_inputs import STANDARD_STREAM, PromptsFormat
from ldm_text.whole_lines import check_output_file

OnError = Literal["stop", "reject"]


@dataclass(frozen=True)
class JobOptions:
    """What a job reads and writes; each name is that of the command line's option.

    Attributes:
        prompts: Input rows, see ``inputs.open_input``; ``None`` for one row without fields.
        output: File to write, ``-`` for standard output, ``None`` to hand records to a function.
        prompts_format: Kind of input where its name does not say it.
        columns: Columns of the input to carry through.
        on_error: Whether a row that cannot be used ends the job or goes to the rejects file.
        shard: ``i/n``, the i-th of n parts of the job, counted from 1.
        start_over: Forget what an earlier run has done.
        batch_size: Slots that go through the networks together.
    """

    prompts: Path | None = None
    output: Path | None = None
    prompts_format: PromptsFormat | None = None
    columns: tuple[str, ...] = ()
    on_error: OnError = "stop"
    shard: str | None = None
    start_over: bool = False
    batch_size: int = 64

    @property
    def file(self) -> Path | None:
        """The output where it is a file, which can be gone on with."""
        return None if self.output == STANDARD_STREAM else self.output

    def check(self) -> None:
        """Check what can be checked without reading anything.

        Raises:
            ValueError: If an option is out of range or without effect, or the job would write over
                its own input.
            FileNotFoundError: If the folder of the output is missing.
        """
        if self.batch_size < 1:
            raise ValueError(f"`--batch_size` must be at least 1, got {self.batch_size}.")
        if self.file is not None:
            check_output_file("--output", self.file)
            self._check_prompts_stay(self.file)
        elif self.start_over:
            raise ValueError("`--start_over` has no effect without `--output FILE`.")
        elif self.on_error == "reject":
            raise ValueError("`--on_error reject` needs `--output FILE`, beside which rejects go.")
        if self.columns and self.prompts is None:
            raise ValueError("`--columns` has no effect without `--prompts`.")
        self.part()

    def _check_prompts_stay(self, file: Path) -> None:
        prompts = None if self.prompts is None else self.prompts.expanduser()
        if prompts is None or not prompts.exists():
            return
        for ending in ("", ".partial", ".rejects.jsonl", ".rejects.jsonl.partial"):
            path = file.with_name(file.name + ending)
            if path.exists() and path.samefile(prompts):
                raise ValueError(
                    f"`--output`: the job would write over `{self.prompts}`, the file of "
                    "`--prompts`; name another one."
                )

    def part(self) -> tuple[int, int]:
        """Return which part of how many the shard is, from 1.

        Raises:
            ValueError: If the shard is not written that way.
        """
        if self.shard is None:
            return 1, 1
        part, _, num_parts = self.shard.partition("/")
        if not (part.isdecimal() and num_parts.isdecimal() and 1 <= int(part) <= int(num_parts)):
            raise ValueError(
                f"`--shard` takes i/n with i from 1 to n, such as 2/8; got {self.shard}."
            )
        return int(part), int(num_parts)
