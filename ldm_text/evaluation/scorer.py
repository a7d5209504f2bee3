"""Score texts under a causal language model, for generative perplexity."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from autoencoder.frozen_encoder import progress_bars_hidden
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.evaluation.likelihood import arrange_texts
from ldm_text.evaluation.words import words_of
from ldm_text.loading import load_pipeline
from ldm_text.tokenizer import encode_texts


class Row(NamedTuple):
    """A text as it is scored.

    Attributes:
        given: Token ids that stand before it.
        scored: Token ids that are scored.
        num_words: Words of what is scored.
    """

    given: list[int]
    scored: list[int]
    num_words: int


@dataclass(frozen=True)
class TextScores:
    """Scores of texts, one entry a text.

    Attributes:
        nats: Negative log-probability ``(N,)``.
        num_tokens: Tokens of the scorer that were scored ``(N,)``.
        num_words: Words of what was scored, as ``words_of`` splits them ``(N,)``.
    """

    nats: np.ndarray
    num_tokens: np.ndarray
    num_words: np.ndarray

    def figures(self) -> dict[str, float]:
        """Compute perplexities over all texts; one without anything to divide by is left out."""
        units = {"generative_perplexity": self.num_tokens.sum()}
        units["generative_perplexity_per_word"] = self.num_words.sum()
        # Past 700 nats the exponential function leaves the range of float64.
        nats = {name: self.nats.sum() / unit for name, unit in units.items() if unit}
        return {name: exp(min(value, 700.0)) for name, value in nats.items()}


class Scorer(ABC):
    """A causal language model that scores texts.

    Attributes:
        name: Folder or hub id.
        kind: What the nats are, in words.
        sees_source: Whether texts are scored given their sources.
        max_length_tokens: Longest row that the model reads; longer texts are scored up to there.
    """

    kind = ""
    sees_source = False
    name: str
    max_length_tokens: int

    @classmethod
    def from_pretrained(cls, path: str | Path, sees_source: bool = True) -> "Scorer":
        """Load a folder of this project with an autoregressive model, or a Hugging Face model.

        Weights are read from safetensors only, and no code that comes with a model is run.

        Args:
            path: Folder that ``ldm-text export`` wrote, folder of a Hugging Face causal language
                model, or the hub id of one, such as ``gpt2-large``.
            sees_source: Score texts given their sources, where they have any; a Hugging Face model
                never does.

        Raises:
            FileNotFoundError: If a part of the folder is missing.
            ValueError: If it holds no model with an exact likelihood.
        """
        if (Path(path) / "model_index.json").is_file():
            pipeline = load_pipeline(Path(path))
            if not isinstance(pipeline, TokenPipeline):
                raise ValueError(
                    f"`{path}` is a latent pipeline: it has no likelihood to score by."
                )
            return PipelineScorer(pipeline, str(path), sees_source)
        options = {"trust_remote_code": False, "local_files_only": Path(path).is_dir()}
        try:
            with progress_bars_hidden():
                model = AutoModelForCausalLM.from_pretrained(
                    path, dtype=torch.float32, use_safetensors=True, **options
                )
                tokenizer = AutoTokenizer.from_pretrained(path, **options)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`{path}` is neither a folder of `ldm-text export` nor a causal language model of "
                f"Hugging Face with safetensors: {error}"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return CausalLMScorer(model.to(device).eval(), tokenizer, str(path))

    def describe(self) -> dict[str, Any]:
        """Tell what scores depend on, beside the weights."""
        return {"name": self.name, "kind": self.kind, "sees_source": self.sees_source}

    @abstractmethod
    def rows(self, texts: Sequence[str], sources: Sequence[str | None]) -> list[Row]:
        """Tokenize texts, and what they are scored given."""

    @abstractmethod
    def nats(self, rows: list[Row]) -> Tensor:
        """Compute the negative log-probability of the tokens of each row, ``(B,)``."""

    @torch.no_grad()
    def score(
        self,
        texts: Sequence[str],
        sources: Sequence[str | None] | None = None,
        batch_size: int = 16,
    ) -> TextScores:
        """Score texts in float32.

        Args:
            texts: The texts.
            sources: The source of each, or ``None`` if none has one.
            batch_size: Texts that go through the network together; no score depends on it.
        """
        rows = self.rows(texts, [None] * len(texts) if sources is None else sources)
        nats = np.zeros(len(rows))
        # Rows of equal length together, so that there is little padding.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].scored))
        for start in range(0, len(order), batch_size):
            batch = [index for index in order[start : start + batch_size] if rows[index].scored]
            if batch:
                nats[batch] = self.nats([rows[index] for index in batch]).double().cpu().numpy()
        num_tokens = np.array([len(row.scored) for row in rows])
        return TextScores(nats, num_tokens, np.array([row.num_words for row in rows]))


class PipelineScorer(Scorer):
    """Score by an autoregressive baseline: the text's tokens and its end token.

    Args:
        pipeline: Pipeline of a model with an exact likelihood.
        name: What the report calls it.
        sees_source: Score texts given their sources.

    Raises:
        ValueError: If the model has no exact likelihood.
    """

    kind = "exact, text and end token"

    def __init__(self, pipeline: TokenPipeline, name: str, sees_source: bool = True) -> None:
        if pipeline.token_model.bound_kind != "exact":
            raise ValueError(
                f"`{name}` holds a {type(pipeline.token_model).__name__}, which has no exact "
                "likelihood: a scorer must be autoregressive."
            )
        self.pipeline = pipeline
        self.name = name
        self.sees_source = sees_source
        self.max_length_tokens = pipeline.config.max_length_tokens

    def rows(self, texts: Sequence[str], sources: Sequence[str | None]) -> list[Row]:
        """Tokenize texts and sources.

        Raises:
            ValueError: If a source is too long.
        """
        prompts = list(sources) if self.sees_source else [None] * len(texts)
        tokenizer, limit = self.pipeline.tokenizer, self.max_length_tokens
        given = self.pipeline.tokenize_prompts(prompts)
        rows = []
        for text, source, ids in zip(texts, given, encode_texts(tokenizer, texts), strict=True):
            read = text if len(ids) < limit else tokenizer.decode(ids[:limit])
            scored = [*ids, tokenizer.eos_token_id][:limit]
            rows.append(Row(source, scored, len(words_of(read))))
        return rows

    def nats(self, rows: list[Row]) -> Tensor:
        """Compute the exact negative log-likelihood."""
        texts = [row.scored for row in rows]
        batch = arrange_texts(
            self.pipeline, [row.given for row in rows], texts, max(map(len, texts))
        )
        return self.pipeline.token_model.negative_log_likelihood(batch)


class CausalLMScorer(Scorer):
    """Score by a Hugging Face model: the text's tokens alone, given the token of a beginning.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer. Its token of a beginning, or else that of an end, stands before
            each text; without either a text's first token is not scored.
        name: What the report calls it.
    """

    kind = "exact, text without an end token, source not seen"

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.max_length_tokens = getattr(model.config, "max_position_embeddings", None) or 1024
        start = tokenizer.bos_token_id
        self.start_token_id = tokenizer.eos_token_id if start is None else start

    def rows(self, texts: Sequence[str], sources: Sequence[str | None]) -> list[Row]:
        """Tokenize texts; the sources have no say."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = []
        for text, ids in zip(texts, encoded, strict=True):
            start = ids[:1] if self.start_token_id is None else [self.start_token_id]
            rest = ids[1:] if self.start_token_id is None else ids
            scored = rest[: self.max_length_tokens - 1]
            read = text if len(scored) == len(ids) else self.tokenizer.decode(scored)
            rows.append(Row(start, scored, len(words_of(read))))
        return rows

    def nats(self, rows: list[Row]) -> Tensor:
        """Sum the cross-entropy of each row."""
        width = max(len(row.given) + len(row.scored) for row in rows)
        device = self.model.device
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        lengths = torch.tensor([1 + len(row.scored) for row in rows], device=device)
        for index, (start, scored, _) in enumerate(rows):
            ids[index, : 1 + len(scored)] = torch.tensor([*start, *scored], device=device)
        mask = torch.arange(width, device=device) < lengths[:, None]
        logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()
        labels = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return losses.sum(dim=1)
