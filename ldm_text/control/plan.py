"""What a text is made of, known tokens and gaps, and how long the gaps may be."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from random import Random

from transformers import PreTrainedTokenizerFast

from ldm_text.control.template import Gap, Part
from ldm_text.tokenizer import encode_text

LONGEST_FREE_GAP = 16  # tokens, of a gap of free length with known text behind it
MOST_COMBINATIONS = 4096

Lengths = tuple[int, ...]  # of the gaps, in their order


@dataclass(frozen=True)
class PlacedGap:
    """A gap, and whether its first token begins with the space that stood before it.

    The gap in which a text goes on may have no token at all.
    """

    gap: Gap
    has_space: bool


@dataclass(frozen=True)
class Plan:
    """Known token ids and gaps in their order, and how long the whole may be.

    Attributes:
        pieces: Known token ids, and gaps.
        shortest: Least number of tokens of the text.
        longest: Largest number of tokens of the text.
    """

    pieces: tuple[list[int] | PlacedGap, ...]
    shortest: int
    longest: int

    @property
    def num_known(self) -> int:
        """Number of known tokens."""
        return sum(len(piece) for piece in self.pieces if isinstance(piece, list))

    @property
    def gaps(self) -> list[Gap]:
        """The gaps in their order."""
        return [piece.gap for piece in self.pieces if isinstance(piece, PlacedGap)]

    def asks_nothing(self, num_positions: int) -> bool:
        """Whether the text is free altogether."""
        is_free = self.gaps == [Gap(0)] and not self.num_known
        return is_free and self.shortest <= 1 and self.longest >= num_positions - 1

    @property
    def is_open(self) -> bool:
        """Whether the model chooses where the text ends, in a gap that stands last."""
        last = self.pieces[-1]
        return isinstance(last, PlacedGap) and not last.gap.is_fixed


def make_plan(
    tokenizer: PreTrainedTokenizerFast,
    parts: Sequence[Part],
    length_tokens: tuple[int, int] | None,
    max_tokens: int,
) -> Plan:
    """Tokenize the known parts of a text and check that the whole is possible.

    A space before a gap goes over to the gap, whose first token then begins with one: words are
    tokens with the space before them.

    Args:
        tokenizer: The model's tokenizer.
        parts: Known texts and gaps.
        length_tokens: Least and largest number of tokens of the text; ``None`` for any.
        max_tokens: Longest text of the model, without its end token.

    Raises:
        ValueError: If no text of the model is like that.
    """
    pieces: list[list[int] | PlacedGap] = []
    has_space = False
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        if isinstance(part, Gap):
            if has_space and part.shortest == 0:
                part = Gap(1, part.longest)
            pieces.append(PlacedGap(part, has_space))
            has_space = False
            continue
        has_space = part.endswith(" ") and isinstance(following, Gap)
        ids = encode_text(tokenizer, part[:-1] if has_space else part)
        pieces += [ids] if ids else []
    shortest, longest = length_tokens or (1, max_tokens)
    plan = Plan(tuple(pieces), shortest, min(longest, max_tokens))
    check_plan(plan, length_tokens, max_tokens)
    return plan


def check_plan(plan: Plan, length_tokens: tuple[int, int] | None, max_tokens: int) -> None:
    """Refuse a plan that no text of the model can follow.

    Raises:
        ValueError: If it is such a one.
    """
    least = plan.num_known + sum(gap.shortest for gap in plan.gaps)
    if least > max_tokens:
        raise ValueError(
            f"The known text and the gaps need at least {least} tokens, the model's texts have at "
            f"most {max_tokens}: shorten them."
        )
    if length_tokens is None:
        return
    shortest, longest = length_tokens
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"`length_tokens` must be a length of at least 1 or a range of two, got {shortest} to "
            f"{longest}."
        )
    if shortest > max_tokens:
        raise ValueError(
            f"`length_tokens` asks for {shortest} tokens, the model's texts have at most "
            f"{max_tokens}."
        )
    if least > longest:
        raise ValueError(
            f"`length_tokens` allows {longest} tokens, the known text and the gaps need at least "
            f"{least}."
        )
    bounds = [gap.longest for gap in plan.gaps if gap.longest is not None]
    most = plan.num_known + sum(bounds)
    if len(bounds) == len(plan.gaps) and most < shortest:
        raise ValueError(
            f"`length_tokens` asks for at least {shortest} tokens, the known text and the gaps "
            f"have at most {most}."
        )


def gap_lengths(
    plan: Plan,
    num_lengths: int,
    seed: int,
    fits: Callable[[Lengths], bool] = lambda lengths: True,
) -> list[Lengths]:
    """Choose lengths for the gaps whose length is not fixed, up to ``num_lengths`` combinations.

    A gap in which the text may end has no length here: the model ends the text there. Others are
    tried at lengths up to ``LONGEST_FREE_GAP`` where they are free.

    Args:
        plan: The plan.
        num_lengths: Largest number of combinations.
        seed: Which ones are taken where there are more.
        fits: Whether what else is asked of the text goes with a combination; only those with which
            it does are taken.

    Returns:
        Lengths of the gaps with known text behind them, and of the last one if it is fixed.
    """
    inner = plan.gaps[:-1] if plan.is_open else plan.gaps
    rest = plan.gaps[-1].shortest if plan.is_open else 0
    room = plan.longest - plan.num_known - rest
    others = sum(gap.shortest for gap in inner)
    needed = plan.shortest - plan.num_known
    if plan.is_open:
        longest_rest = plan.gaps[-1].longest
        needed = 0 if longest_rest is None else needed - longest_rest
    ranges: list[range] = []
    for gap in inner:
        top = max(LONGEST_FREE_GAP, gap.shortest, needed - (others - gap.shortest))
        longest = min(gap.longest or top, room - (others - gap.shortest))
        ranges.append(range(gap.shortest, longest + 1))
    free = [index for index, choices in enumerate(ranges) if len(choices) > 1]
    rng = Random(seed)
    if prod(map(len, ranges)) > MOST_COMBINATIONS:
        return _drawn(ranges, needed, room, num_lengths, rng, fits)
    found = [lengths for lengths in product(*ranges) if needed <= sum(lengths) <= room]
    if len(free) == 1 and needed <= others:
        found = list(filter(fits, found))
        chosen = spread([lengths[free[0]] for lengths in found], num_lengths)
        return [lengths for lengths in found if lengths[free[0]] in chosen]
    if len(found) > num_lengths:
        # Those that fit are looked for in random order: to try them all would take long.
        return sorted(islice(filter(fits, _shuffled(found, num_lengths, rng)), num_lengths))
    return list(filter(fits, found))


def _shuffled(found: list[Lengths], num_first: int, rng: Random) -> Iterator[Lengths]:
    """Yield combinations in random order."""
    first = rng.sample(found, num_first)
    yield from first
    others = sorted(set(found) - set(first))
    rng.shuffle(others)
    yield from others


def _drawn(
    ranges: list[range],
    needed: int,
    room: int,
    num_lengths: int,
    rng: Random,
    fits: Callable[[Lengths], bool],
) -> list[Lengths]:
    """Draw up to ``num_lengths`` combinations that fit."""
    found = dict.fromkeys(_draw(ranges, needed, room, rng) for _ in range(num_lengths))
    if all(map(fits, found)):
        return list(found)
    for index, choices in enumerate(ranges):  # a long phrase wants a gap at its longest
        stretched = [*ranges[:index], choices[-1:], *ranges[index + 1 :]]
        found |= dict.fromkeys(_draw(stretched, needed, room, rng) for _ in range(num_lengths))
    return list(islice(filter(fits, found), num_lengths))


def _draw(ranges: list[range], needed: int, room: int, rng: Random) -> Lengths:
    """Draw lengths within their ranges whose sum is neither below ``needed`` nor above ``room``."""
    lengths = [choices[0] for choices in ranges]
    total = rng.randint(max(needed, sum(lengths)), min(room, sum(c[-1] for c in ranges)))
    while sum(lengths) < total:
        index = rng.randrange(len(ranges))
        lengths[index] += lengths[index] < ranges[index][-1]
    return tuple(lengths)


def spread(choices: Sequence[int], number: int) -> Sequence[int]:
    """Take up to ``number`` of ascending lengths, close together at the short end."""
    if len(choices) <= number:
        return choices
    if number == 1:
        return choices[:1]
    ratio = (choices[-1] / choices[0]) ** (1 / (number - 1))
    steps = [round(choices[0] * ratio**index) for index in range(number)]
    for index in range(1, number):
        steps[index] = min(max(steps[index], steps[index - 1] + 1), choices[-1])
    return sorted(set(steps))
