"""How long a generator takes: for one text, and for as many at once as still pay.

Only tokens of the texts are counted, up to their end token and without it: what a network computes
behind the end of a text is no output. Wall times are medians or sums of real calls of ``generate``,
tokenization of the prompts and decoding included.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean, median
from typing import Any

import torch

from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.evaluation.sweep_options import SweepPoint
from ldm_text.generated_rows import row_generator
from ldm_text.known_tokens import nothing_known
from ldm_text.loading import TextPipeline
from ldm_text.precision import Precision, autocast

GAIN = 1.05  # a larger batch must be faster by 5 % to be worth its memory


@dataclass(frozen=True)
class TimingOptions:
    """How speed is measured.

    Args:
        num_rows: Texts that are written one by one.
        batch_sizes: Sizes to try for the saturated batch, growing; the search ends where a larger
            one writes less than 5 % more tokens a second. One size alone is taken as it is; none
            leaves the saturated batch out.
    """

    num_rows: int = 8
    batch_sizes: tuple[int, ...] = (16, 64, 256)

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"`num_rows` must be at least 1, got {self.num_rows}.")
        if list(self.batch_sizes) != sorted({*self.batch_sizes}) or min((1, *self.batch_sizes)) < 1:
            raise ValueError(
                f"`batch_sizes` must be 1 or larger and growing, got {list(self.batch_sizes)}."
            )


@dataclass(frozen=True)
class TimedCall:
    """One call of ``generate``.

    Attributes:
        seconds: Until all texts were there.
        seconds_to_first_text: Until the first token, or block of tokens, was final.
        num_tokens: Tokens of the texts.
        num_network_calls: How often the network ran.
    """

    seconds: float
    seconds_to_first_text: float
    num_tokens: int
    num_network_calls: int


class Stopwatch:
    """Time calls of ``generate`` of one generator at one setting.

    Args:
        pipeline: The generator.
        prompts: Prompts to take turns with.
        point: The setting.
        precision: Type the networks compute in.
        length_tokens: All texts have exactly so many tokens, and no end token; by default they end
            where they end, and are at most as long as the pipeline's.
    """

    def __init__(
        self,
        pipeline: TextPipeline,
        prompts: Sequence[str | None],
        point: SweepPoint,
        precision: Precision,
        length_tokens: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.prompts = prompts
        self.point = point
        self.precision = precision
        self.length_tokens = length_tokens

    def now(self) -> float:
        """Read the clock once all work is done."""
        if self.pipeline.device.type == "cuda":
            torch.cuda.synchronize(self.pipeline.device)
        return time.perf_counter()

    def time_batch(self, batch_size: int, seed: int, first_row: int = 0) -> TimedCall:
        """Write one text for each of ``batch_size`` prompts, in one batch."""
        rows = range(first_row, first_row + batch_size)
        prompts = [self.prompts[row % len(self.prompts)] for row in rows]
        generators = [row_generator(seed, row, 0, self.pipeline.device) for row in rows]
        ends: list[float] = []  # of the calls of the network
        hook = self.pipeline.network.register_forward_hook(lambda *_: ends.append(self.now()))
        options = self.point.options() | self.length_options(batch_size)
        sampling = options.pop("sampling")
        try:
            with texts_of_length(self.pipeline, self.length_tokens):
                start = self.now()
                with autocast(self.pipeline.device, self.precision):
                    output = self.pipeline.generate(prompts, 1, generators, **options, **sampling)
                seconds = self.now() - start
                # Every pipeline puts pad tokens in place of the end token and of what follows it.
                lengths = (output.sequences != self.pipeline.tokenizer.pad_token_id).sum(dim=1)
                num_pieces = count_pieces(self.pipeline, sampling, int(lengths.max()) + 1)
        finally:
            hook.remove()
        first = seconds
        if num_pieces > 1:
            first = ends[ceil(len(ends) / num_pieces) - 1] - start
        return TimedCall(seconds, first, int(lengths.sum()), len(ends))

    def length_options(self, batch_size: int) -> dict[str, Any]:
        """Forbid the end where texts have a given length: options of ``generate``."""
        if self.length_tokens is None:
            return {}
        forbidden = torch.zeros(len(self.pipeline.tokenizer), dtype=torch.bool)
        forbidden[[self.pipeline.tokenizer.eos_token_id, self.pipeline.tokenizer.pad_token_id]] = (
            True
        )
        known = nothing_known(batch_size, self.length_tokens)
        return {"known_tokens": replace(known, forbidden=forbidden)}

    def time_single(self, num_rows: int, seed: int) -> dict[str, float]:
        """Write texts one by one, for prompts at equal distances, as data are often sorted.

        Returns:
            ``network_calls`` a text, ``seconds_per_text`` and ``seconds_to_first_text`` (medians),
            and ``tokens_per_second`` of all texts together.
        """
        distance = max(1, len(self.prompts) // num_rows)
        calls = [self.time_batch(1, seed, row * distance) for row in range(num_rows)]
        num_tokens = sum(call.num_tokens for call in calls)
        return {
            "network_calls": fmean(call.num_network_calls for call in calls),
            "seconds_per_text": median(call.seconds for call in calls),
            "seconds_to_first_text": median(call.seconds_to_first_text for call in calls),
            "tokens_per_second": num_tokens / sum(call.seconds for call in calls),
        }

    def time_saturated(self, batch_size: int, seed: int) -> dict[str, float]:
        """Write a large batch of texts.

        Returns:
            ``saturated_seconds_per_text`` (of the batch, over its size), the times from its start
            ``saturated_seconds_to_first_text`` and ``saturated_seconds_to_full_text``, and
            ``saturated_tokens_per_second``.
        """
        call = self.time_batch(batch_size, seed)
        return {
            "saturated_seconds_per_text": call.seconds / batch_size,
            "saturated_seconds_to_first_text": call.seconds_to_first_text,
            "saturated_seconds_to_full_text": call.seconds,
            "saturated_tokens_per_second": call.num_tokens / call.seconds,
        }

    def find_saturated_batch(self, batch_sizes: Sequence[int]) -> int | None:
        """Find the batch from which on a larger one hardly writes more tokens a second.

        Each size is tried twice, and the faster one counts: what delays a run is no part of it.

        Args:
            batch_sizes: Sizes to try, growing.

        Returns:
            The size; ``None`` if there are none to try.
        """
        best, most = None, 0.0
        if len(batch_sizes) == 1:
            return batch_sizes[0]
        for batch_size in batch_sizes:
            calls = [self.time_batch(batch_size, seed) for seed in (0, 1)]
            rate = max(call.num_tokens / call.seconds for call in calls)
            if best is not None and rate < GAIN * most:
                break
            best, most = batch_size, rate
        return best


@contextmanager
def texts_of_length(pipeline: TextPipeline, length_tokens: int | None) -> Iterator[None]:
    """Let a pipeline write texts of another length than its own, until the context ends."""
    own = pipeline.config.max_length_tokens
    pipeline.register_to_config(max_length_tokens=length_tokens or own)
    try:
        yield
    finally:
        pipeline.register_to_config(max_length_tokens=own)


def count_pieces(pipeline: TextPipeline, sampling: dict[str, Any], longest: int) -> int:
    """Count the pieces that a batch of texts becomes final in, one after the other.

    Args:
        pipeline: The generator.
        sampling: Options of its sampler.
        longest: Tokens of the longest text of the batch, its end token included.

    Returns:
        1 where all tokens become final together, at the last call of the network.
    """
    if not isinstance(pipeline, TokenPipeline):
        return 1
    width = pipeline.config.max_length_tokens
    longest = min(longest, width)
    model = pipeline.token_model
    if not model.takes_num_inference_steps:
        return longest  # token by token
    if block_length := model.config.get("block_length"):
        return ceil(longest / block_length)  # block by block, until all texts have ended
    if block_length := sampling.get("block_length"):
        return ceil(width / int(block_length))  # block by block, the padding too
    return 1
