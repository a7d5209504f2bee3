"""How good rewritten texts are: style, likeness to the source, fluency, references."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldm_text.control.edit import changed_share
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.evaluation.likelihood import standard_error
from ldm_text.evaluation.reference_metrics import ReferenceMetrics
from ldm_text.evaluation.scorer import Scorer
from ldm_text.evaluation.style_classifier import StyleClassifier
from ldm_text.evaluation.words import words_of

FLUENT_QUANTILE = 0.95  # share of the first references that count as fluent
NUM_RESAMPLES = 1000
Z_95 = 1.959964  # 97.5th percentile of the standard normal distribution

Figures = dict[str, dict[str, float | None]]


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the cosine of each pair of rows of ``(N, D)``; 0 where a vector is zero."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return (vectors * others).sum(axis=1) / np.where(norms > 0, norms, 1.0)


def corpus_score(metric: Any, texts: Sequence[str]) -> tuple[float, float]:
    """Compute a corpus score of sacrebleu and its standard error, by resampling of the rows."""
    score = metric.corpus_score(list(texts), None, n_bootstrap=NUM_RESAMPLES)
    content = score.format(width=6, signature=str(metric.get_signature()), is_json=True)
    return score.score, json.loads(content).get("confidence_var", 0.0) / Z_95


def average(values: np.ndarray) -> dict[str, float | None]:
    """Average a figure over rows, after the samples of each row.

    Args:
        values: ``(sets, N)``; NaN where a text has no such figure, which is left out.
    """
    rows = np.ma.masked_invalid(values).mean(axis=0).compressed()
    mean = float(rows.mean()) if len(rows) else None
    return {"mean": mean, "standard_error": standard_error(rows)}


class RewritingEvaluator:
    """Measure texts that were written for sources.

    Args:
        records: One record a source, with all its references.
        style: Judges the style.
        embedder: Sentence embeddings for the likeness to the source; ``None`` leaves it out.
        scorer: Causal language model for fluency, which must not see the sources; ``None`` leaves
            it out.
        separator: What stands between the parts of a text that is to have two, such as `` <sep> ``;
            ``None`` counts none.
    """

    def __init__(
        self,
        records: Sequence[TextRecord],
        style: StyleClassifier,
        embedder: SentenceEmbedder | None = None,
        scorer: Scorer | None = None,
        separator: str | None = None,
    ) -> None:
        self.records = list(records)
        self.sources = [str(record.source) for record in records]
        self.style, self.embedder, self.scorer = style, embedder, scorer
        self.separator = separator
        self.metrics = ReferenceMetrics([record.references for record in records])
        self.fluent_nats_per_token: float | None = None
        if scorer is not None:
            nats = self.nats_per_token(scorer, [record.references[0] for record in records])
            limit = np.nanquantile(nats, FLUENT_QUANTILE, method="higher")
            self.fluent_nats_per_token = float(limit)

    def nats_per_token(self, scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
        """Score texts on their own, ``(N,)``; NaN where a text has no token to score."""
        scores = scorer.score(texts)
        missing = scores.num_tokens == 0
        return np.where(missing, np.nan, scores.nats / np.where(missing, 1, scores.num_tokens))

    def rows(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Compute the figures of single texts, one text a record; each ``(N,)``.

        ``style`` is 1 where the classifier finds the style of the targets. ``similarity`` is the
        cosine of the embeddings of text and source. ``fluent`` is 1 where the text has no more
        nats per token than 95 % of the first references. ``joint`` is their product, as J of
        ParaDetox (Logacheva et al. 2022); there a classifier of acceptability says what is fluent.
        Without a scorer it is the product of the first two. ``unchanged`` is 1 minus the edit
        distance to the source in words, over the longer of both; ``copies`` is 1 where the text is
        the source, ``one_separator`` where it has two parts.
        """
        rows = {"style": self.style.in_target_style(texts).astype(np.float64)}
        if self.embedder is not None:
            vectors, others = self.embedder.embed(texts), self.embedder.embed(self.sources)
            rows["similarity"] = cosines(vectors.astype(np.float64), others.astype(np.float64))
        if self.scorer is not None:
            nats = self.nats_per_token(self.scorer, texts)
            rows["fluent"] = (nats <= self.fluent_nats_per_token).astype(np.float64)
            rows["nats_per_token"] = nats
        if self.embedder is not None:
            rows["joint"] = rows["style"] * rows["similarity"] * rows.get("fluent", 1.0)
        pairs = list(zip(self.sources, texts, strict=True))
        kept = [1 - changed_share(words_of(source), words_of(text)) for source, text in pairs]
        rows["unchanged"] = np.array(kept)
        rows["copies"] = np.array([float(source == text) for source, text in pairs])
        if self.separator is not None:
            counts = [text.count(self.separator) for text in texts]
            rows["one_separator"] = np.array([float(count == 1) for count in counts])
        return rows

    def __call__(self, sets: Sequence[Sequence[str]]) -> Figures:
        """Measure sets of texts, each with one text a record.

        Returns:
            ``mean`` and ``standard_error`` of each figure, over records; the samples of a record
            are averaged first. Besides those of ``rows``: ``median_perplexity`` over all texts,
            per token of the scorer and without an error, and ``bleu`` (lowercased) and ``chrf``
            over the corpus, whose errors come from resampled records.
        """
        rows = [self.rows(texts) for texts in sets]
        values = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        figures = {name: average(value) for name, value in values.items()}
        nats = values.get("nats_per_token", np.empty(0))
        if np.isfinite(nats).any():
            median = float(np.exp(np.nanmedian(nats)))
            figures["median_perplexity"] = {"mean": median, "standard_error": None}
        for name, metric in (("bleu", self.metrics.bleu), ("chrf", self.metrics.chrf)):
            scores = np.array([corpus_score(metric, texts) for texts in sets])
            mean, error = scores.mean(axis=0)
            figures[name] = {"mean": float(mean), "standard_error": float(error)}
        return figures

    def copy_figures(self) -> Figures:
        """Measure the sources themselves, as if nothing had been rewritten."""
        return self([self.sources])

    def reference_figures(self) -> Figures:
        """Measure the first reference of each record, its BLEU and chrF against the others.

        These two are of the records with several references alone, and left out where there are
        none; no text is compared with itself.
        """
        figures = self([[record.references[0] for record in self.records]])
        several = [record for record in self.records if len(record.references) > 1]
        for name in ("bleu", "chrf"):
            del figures[name]
        if several:
            others = [replace(record, references=record.references[1:]) for record in several]
            metrics = ReferenceMetrics([record.references for record in others])
            texts = [record.references[0] for record in several]
            for name, metric in (("bleu", metrics.bleu), ("chrf", metrics.chrf)):
                mean, error = corpus_score(metric, texts)
                figures[name] = {"mean": mean, "standard_error": error}
        return figures
