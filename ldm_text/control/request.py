"""What is asked of one text, and what came out."""

from dataclasses import dataclass

from ldm_text.control.constraints import Constraints, check_required
from ldm_text.control.layout import Layout, lay_out
from ldm_text.control.placement import place_phrases
from ldm_text.control.plan import Lengths, Plan, gap_lengths, make_plan
from ldm_text.control.template import Gap, Part
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline

Length = int | tuple[int, int]


@dataclass(frozen=True)
class TextRequest:
    """One text to write.

    Attributes:
        parts: Known texts and gaps in their order, as ``parse_template`` gives them; by default the
            whole text is free.
        source: What the text is conditioned on, if anything.
        length_tokens: Number of tokens of the text, or the least and the largest.
        row: Number of the row, of which the noise is made.
        sample: Number of the sample of this row, likewise.
    """

    parts: tuple[Part, ...] = (Gap(0),)
    source: str | None = None
    length_tokens: Length | None = None
    row: int = 0
    sample: int = 0


@dataclass(frozen=True)
class WrittenText:
    """One text that came out.

    Attributes:
        text: The text.
        num_tokens: Number of its tokens.
        num_candidates: Number of texts among which it was chosen.
        score: Mean log-probability of its tokens by the model, in nats, if it was computed.
        num_network_calls: Calls of the network that it took, where texts stop early; other
            candidates and drafts do not count.
    """

    text: str
    num_tokens: int
    num_candidates: int
    score: float | None = None
    num_network_calls: int | None = None


@dataclass(frozen=True)
class PlannedText:
    """A request that has been checked, and the layouts to try for it."""

    request: TextRequest
    layouts: tuple[Layout, ...]


def around_gap(prefix: str = "", suffix: str = "") -> tuple[Part, ...]:
    """Return the parts of a text that begins with ``prefix`` and ends with ``suffix``."""
    parts = (prefix, Gap(1) if suffix else Gap(0), suffix)
    return tuple(part for part in parts if part != "")


def plan_text(
    pipeline: TextPipeline,
    request: TextRequest,
    constraints: Constraints,
    num_lengths: int,
    seed: int = 0,
) -> PlannedText:
    """Check a request, before any computation, and lay out its text.

    Args:
        pipeline: The model to write it.
        request: The request.
        constraints: What else the text must satisfy.
        num_lengths: Largest number of lengths to try where the gaps have no fixed ones.
        seed: Which lengths are taken where there are more.

    Raises:
        ValueError: If the request is impossible, or nothing that this model can do.
    """
    tokenizer, num_positions = pipeline.tokenizer, pipeline.config.max_length_tokens
    max_tokens = num_positions - 1  # and the end
    plan = make_plan(tokenizer, request.parts, length_range(request.length_tokens), max_tokens)
    check_support(pipeline, plan, constraints)
    known = [part for part in request.parts if isinstance(part, str)]
    longest_token = max(map(len, tokenizer.get_vocab()))
    constraints.check(known, longest_token * max_tokens)
    check_required(tokenizer, constraints.required, plan.longest - plan.num_known)

    def layout(lengths: Lengths) -> Layout:
        return lay_out(plan, lengths, num_positions, tokenizer.eos_token_id)

    def fits(lengths: Lengths) -> bool:
        return place_phrases(layout(lengths), constraints.required, tokenizer) is not None

    layouts = tuple(map(layout, gap_lengths(plan, num_lengths, seed, fits)))
    if not layouts:
        raise ValueError(
            f"`required` does not fit into the gaps: {', '.join(constraints.required)} need longer "
            "ones, or fewer words."
        )
    return PlannedText(request, layouts)


def length_range(length: Length | None) -> tuple[int, int] | None:
    """Write a length as a range."""
    return (length, length) if isinstance(length, int) else length


def check_support(pipeline: TextPipeline, plan: Plan, constraints: Constraints) -> None:
    """Refuse known tokens at places where a model cannot keep them.

    Raises:
        ValueError: If it cannot.
    """
    model = pipeline if isinstance(pipeline, LatentTextPipeline) else pipeline.token_model
    support = model.known_token_support
    if plan.asks_nothing(pipeline.config.max_length_tokens) and not constraints.required:
        return
    name = type(model).__name__
    if support == "none":
        raise ValueError(
            f"{name} cannot keep known tokens: use a latent or a masked model for prompts, gaps, "
            "lengths and required words."
        )
    inside = any(isinstance(piece, list) for piece in plan.pieces[1:]) or len(plan.gaps) > 1
    if support == "prefix" and (inside or constraints.required):
        raise ValueError(
            f"{name} writes from left to right and keeps no known text behind a gap: use a latent "
            "or a masked model for suffixes, gaps and required words."
        )
