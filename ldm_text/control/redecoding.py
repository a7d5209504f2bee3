"""Take forbidden words of several tokens out of a text, by decoding its latents again."""

import torch
from torch import Tensor

from ldm_text.control.constraints import Constraints, find_forbidden
from ldm_text.generation import GenerationOutput
from ldm_text.known_tokens import KnownTokens
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline

MOST_ROUNDS = 50


def without_forbidden(
    pipeline: TextPipeline, output: GenerationOutput, known: KnownTokens, constraints: Constraints
) -> tuple[list[str], Tensor]:
    """Decode again until no forbidden word is left.

    In each round one token of each occurrence, the least certain of those that are not known, is
    barred from its place. A discrete model has no latents: its texts are left as they are, and
    those with a forbidden word fall away.

    Args:
        pipeline: What wrote the texts.
        output: The texts.
        known: Their known tokens.
        constraints: With the forbidden words.

    Returns:
        Texts, and ids ``(B, S)`` with pads from the end on.
    """
    texts, sequences = list(output.texts), output.sequences
    assert sequences is not None, "texts come with their tokens"
    latents = output.latents
    if not isinstance(pipeline, LatentTextPipeline) or not constraints.forbidden or latents is None:
        return texts, sequences
    with torch.no_grad():
        logits = pipeline.token_logits(latents, known)
    for _ in range(MOST_ROUNDS):
        found = [find_forbidden(text, constraints.forbidden) for text in texts]
        if not any(found):
            break
        for row, occurrence in enumerate(found):
            if occurrence is not None:
                bar(pipeline, logits[row], known.is_known[row], sequences[row], occurrence[1:])
        sequences = decode(pipeline, logits, known)
        texts = pipeline.texts_of(sequences)
    return texts, sequences


def decode(pipeline: LatentTextPipeline, logits: Tensor, known: KnownTokens) -> Tensor:
    """Take the best tokens of logits ``(B, S, V)``: ids ``(B, S)``, the pad from the end on."""
    config = pipeline.autoencoder.config
    ids = known.put(logits.argmax(dim=-1))
    ended = (ids == config.end_token_id).cumsum(dim=1) > 0
    return ids.masked_fill(ended, config.pad_token_id)


def bar(
    pipeline: LatentTextPipeline,
    logits: Tensor,
    is_known: Tensor,
    ids: Tensor,
    characters: tuple[int, int],
) -> None:
    """Forbid one token of an occurrence, ``characters`` from and to, in the logits ``(S, V)``."""
    first, last = characters
    places = []
    text = ""
    for place, token in enumerate(ids.tolist()):
        before, text = len(text), pipeline.texts_of(ids[None, : place + 1])[0]
        if before < last and len(text) > first and not is_known[place]:
            places.append((float(logits[place].softmax(dim=0)[token]), place, token))
    if places:  # all known: nothing can be done, and the candidate falls away
        _, place, token = min(places)
        logits[place, token] = -torch.inf
