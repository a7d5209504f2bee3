"""From a plan to known tokens: where known text stands when the gaps have these lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerFast

from ldm_text.control.plan import Plan
from ldm_text.control.token_sets import Only, token_sets
from ldm_text.known_tokens import KnownTokens


@dataclass
class Layout:
    """One text of ``S`` positions, some of them known.

    Attributes:
        ids: Token id of each position, ``None`` where it is open.
        only: What may stand at each position, a union of ``Only``.
        last: Position behind which no text may stand.
    """

    ids: list[int | None]
    only: list[int] = field(default_factory=list)
    last: int = 0

    def runs(self) -> list[range]:
        """List the stretches of open positions in which text may stand."""
        runs, start = [], None
        for place, token in enumerate([*self.ids[: self.last], 0]):
            if token is None and start is None:
                start = place
            if token is not None and start is not None:
                runs.append(range(start, place))
                start = None
        return runs


def lay_out(plan: Plan, lengths: tuple[int, ...], num_positions: int, end_token_id: int) -> Layout:
    """Write the known tokens of a plan into a row of ``num_positions``."""
    if plan.asks_nothing(num_positions):
        return Layout([None] * num_positions, [0] * num_positions, num_positions - 1)
    ids: list[int | None] = []
    only: list[int] = []
    remaining = list(lengths)
    for piece in plan.pieces:
        if isinstance(piece, list):
            ids += piece
            only += [0] * len(piece)
            continue
        length = remaining.pop(0) if remaining else piece.gap.shortest
        first = Only.TEXT | Only.SPACE if piece.has_space else Only.TEXT
        ids += [None] * length
        only += [first, *[Only.TEXT] * (length - 1)][:length]
    last = len(ids)
    if plan.is_open:
        gap = plan.gaps[-1]
        before = len(ids) - gap.shortest
        longest = num_positions if gap.longest is None else before + gap.longest
        last = min(longest, plan.longest)
        least = max(len(ids), plan.shortest)
        ids += [None] * (last - len(ids))
        only += [Only.TEXT] * (least - len(only)) + [0] * (last - least)
    if last < num_positions:
        # A known end closes all positions before it, so one that comes at the latest here is not
        # known but the only choice.
        is_latest = plan.is_open and only[-1] == 0
        ids.append(None if is_latest else end_token_id)
        only.append(Only.END if is_latest else 0)
    num_behind = num_positions - len(ids)
    ids += [None] * num_behind
    only += [0] * num_behind
    return Layout(ids, only, last)


def known_tokens_of(
    layouts: Sequence[Layout], tokenizer: PreTrainedTokenizerFast, forbidden: torch.Tensor | None
) -> KnownTokens:
    """Join layouts to the known tokens of a batch."""
    ids, only = [], []
    for layout in layouts:
        row = list(layout.ids)
        if tokenizer.eos_token_id in row:  # known pads behind a known end
            end = row.index(tokenizer.eos_token_id)
            row[end + 1 :] = [tokenizer.pad_token_id] * (len(row) - end - 1)
        ids.append(row)
        only.append(layout.only)
    is_known = torch.tensor([[token is not None for token in row] for row in ids])
    tokens = torch.tensor([[token or 0 for token in row] for row in ids])
    choice = torch.tensor(only)
    choice = choice.masked_fill(choice == 0, -1)
    return KnownTokens(tokens, is_known, forbidden, token_sets(tokenizer), choice)
