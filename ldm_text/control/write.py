"""Write texts with known parts, lengths and constraints, and choose among candidates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from ldm_text.batch.work import RowError
from ldm_text.control.candidates import (
    Candidate,
    WriteOptions,
    batches,
    check_options,
    write_candidates,
)
from ldm_text.control.layout import Layout, known_tokens_of
from ldm_text.control.request import PlannedText, TextRequest, WrittenText, plan_text
from ldm_text.control.scoring import check_has_score, text_scores
from ldm_text.control.template import parse_template
from ldm_text.loading import TextPipeline
from ldm_text.precision import autocast


@dataclass(frozen=True)
class Written:
    """What came out for a candidate.

    Attributes:
        text: Its text.
        ids: Its ids ``(S,)``.
        layout: The layout it was given.
        num_network_calls: Calls of the network it took, where texts stop early.
    """

    text: str
    ids: Tensor
    layout: Layout
    num_network_calls: int | None


def write_texts(
    pipeline: TextPipeline,
    requests: Sequence[TextRequest],
    options: WriteOptions | None = None,
) -> list[WrittenText]:
    """Write a text for each request.

    Requests that ask for nothing give the texts of ``pipeline.generate`` with the same noise.

    Args:
        pipeline: The model.
        requests: What is asked.
        options: How.

    Returns:
        The texts, in the order of the requests. Known text stands in them token for token, and the
        constraints hold.

    Raises:
        ValueError: Before any computation if a request is impossible; afterwards if no candidate of
            a request satisfies the constraints.
    """
    options = options or WriteOptions()
    options.check()
    planned = [plan_request(pipeline, request, options) for request in requests]
    texts = []
    for written in write_planned(pipeline, planned, options):
        if isinstance(written, RowError):
            raise written
        texts.append(written)
    return texts


def write_or_reject(
    pipeline: TextPipeline, requests: Sequence[TextRequest], options: WriteOptions
) -> list[WrittenText | RowError]:
    """Write a text for each request; one that is impossible does not end the others.

    Neither does one whose candidates all fall away.

    Args:
        pipeline: The model.
        requests: What is asked.
        options: How.

    Returns:
        The texts as of ``write_texts``, and in place of some the reason why there is none.

    Raises:
        ValueError: Before any computation if an option is out of range.
    """
    options.check()
    plans: list[PlannedText | RowError] = []
    for request in requests:
        try:
            plans.append(plan_request(pipeline, request, options))
        except ValueError as error:
            plans.append(RowError(str(error)))
    possible = [plan for plan in plans if isinstance(plan, PlannedText)]
    written = iter(write_planned(pipeline, possible, options))
    return [plan if isinstance(plan, RowError) else next(written) for plan in plans]


def plan_request(
    pipeline: TextPipeline, request: TextRequest, options: WriteOptions
) -> PlannedText:
    """Check a request, before any computation, and lay out its text as it is written.

    Raises:
        ValueError: If it is impossible, or the model cannot choose among its candidates.
    """
    seed = options.settings.seed + request.row
    planned = plan_text(pipeline, request, options.constraints, options.num_lengths, seed)
    if options.choose_by == "score" and count_candidates(planned, options) > 1:
        check_has_score(pipeline)
    return planned


def count_candidates(planned: PlannedText, options: WriteOptions) -> int:
    """Count the texts that are written for a request: each of its layouts is tried."""
    return max(options.num_candidates, len(planned.layouts))


def write_planned(
    pipeline: TextPipeline, planned: Sequence[PlannedText], options: WriteOptions
) -> list[WrittenText | RowError]:
    """Write a text for each plan of ``plan_request``; see ``write_or_reject``."""
    if not planned:
        return []
    requests = [plan.request for plan in planned]
    pipeline.check_inputs(
        [request.source for request in requests], 1, **check_options(pipeline, options)
    )
    pipeline.tokenize_prompts([request.source for request in requests], options.settings.truncate)
    candidates = [
        Candidate(index, number, plan.layouts[number % len(plan.layouts)])
        for index, plan in enumerate(planned)
        for number in range(count_candidates(plan, options))
    ]
    found: list[list[Written]] = [[] for _ in requests]
    for batch in batches(candidates, options.batch_size):
        output = write_candidates(pipeline, planned, batch, options)
        assert output.sequences is not None, "texts come with their tokens"
        calls = output.row_network_calls or [None] * len(batch)
        entries = zip(output.texts, output.sequences, calls, strict=True)
        for candidate, (text, ids, num_calls) in zip(batch, entries, strict=True):
            found[candidate.index].append(Written(text, ids, candidate.layout, num_calls))
    return [
        choose(pipeline, plan, texts, options) for plan, texts in zip(planned, found, strict=True)
    ]


def infill(
    pipeline: TextPipeline,
    template: str,
    source: str | None = None,
    options: WriteOptions | None = None,
) -> WrittenText:
    """Fill the gaps of one text such as ``The [MASK:3-8] sat on [MASK].``; see ``write_texts``.

    Raises:
        ValueError: If the template is none, or impossible.
    """
    request = TextRequest(tuple(parse_template(template)), source)
    return write_texts(pipeline, [request], options)[0]


def choose(
    pipeline: TextPipeline,
    planned: PlannedText,
    found: Sequence[Written],
    options: WriteOptions,
) -> WrittenText | RowError:
    """Keep the best of the candidates that satisfy the constraints, or say that none does."""
    request = planned.request
    kept = [entry for entry in found if options.constraints.matches(entry.text)]
    if not kept:
        return RowError(
            f"None of {len(found)} candidates of row {request.row} satisfies the constraints; the "
            f"first reads {found[0].text!r}. Raise `num_candidates`, or change the constraints."
        )
    best, scores = 0, None
    if len(kept) > 1 and options.choose_by == "agreement":
        best = most_agreed([entry.text for entry in kept])
    elif len(kept) > 1:
        sequences = torch.stack([entry.ids for entry in kept])
        counted = None
        if len(planned.layouts) > 1:
            layouts = [entry.layout for entry in kept]
            known = known_tokens_of(layouts, pipeline.tokenizer, None)
            counted = known.is_known.to(sequences.device)
        with autocast(pipeline.device, options.settings.precision):
            scores = text_scores(pipeline, [request.source] * len(kept), sequences, counted)
        best = max(range(len(kept)), key=scores.__getitem__)
    chosen = kept[best]
    num_tokens = int((chosen.ids != pipeline.tokenizer.pad_token_id).sum())
    score = None if scores is None else round(scores[best], 4)
    return WrittenText(chosen.text, num_tokens, len(found), score, chosen.num_network_calls)


def most_agreed(texts: Sequence[str]) -> int:
    """Return the number of the text with the largest mean chrF to the others; ties to the first."""
    chrf = CHRF()
    gains = [
        sum(chrf.sentence_score(text, [other]).score for j, other in enumerate(texts) if j != i)
        for i, text in enumerate(texts)
    ]
    return max(range(len(texts)), key=gains.__getitem__)
