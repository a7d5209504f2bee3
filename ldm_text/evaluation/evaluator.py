"""All figures of a set of texts, against one set of references."""

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from torchmetrics import Metric

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.distances import (
    energy_distance,
    frechet_distance,
    length_figures,
    mauve,
)
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.evaluation.metrics import copied_share
from ldm_text.evaluation.reference_metrics import ReferenceMetrics
from ldm_text.evaluation.scorer import Scorer
from ldm_text.evaluation.slots import LITERAL_SLOTS, SlotChecker
from ldm_text.evaluation.statistics import (
    DistinctNgrams,
    NgramOverlap,
    Repetition,
    UnigramEntropy,
    self_bleu,
)
from ldm_text.evaluation.words import words_of
from ldm_text.meaning_representations import parse_slots


class TextEvaluator:
    """Measure sets of texts.

    Figures of words (entropy, distinct-n, repetition, overlap, lengths) use ``words_of``, so that
    they do not depend on any model. Texts as a distribution are compared with one text a record.

    Args:
        records: What ``group_by_source`` returns: one record a source with all its references, or
            one text a record where there are no sources.
        training_texts: Training texts, to look for copies; without them nothing is said on copies.
        scorer: Scores texts for generative perplexity.
        embedder: Embeds texts for MAUVE and distances.
        slot_sources: Further sources whose slot values are known, such as those of the training.

    Raises:
        ValueError: If there are no records, or only some of them have a source.
    """

    def __init__(
        self,
        records: list[TextRecord],
        training_texts: Sequence[str] = (),
        scorer: Scorer | None = None,
        embedder: SentenceEmbedder | None = None,
        slot_sources: Sequence[str] = (),
    ) -> None:
        self.sources = [record.source for record in records if record.source is not None]
        if not records or len(self.sources) not in (0, len(records)):
            raise ValueError(
                "`records` must hold at least one record, and all of them a source or none, got "
                f"{len(records)} with {len(self.sources)} sources."
            )
        self.scorer = scorer
        self.embedder = embedder
        self.training_texts = set(training_texts)
        self.overlap = NgramOverlap(map(words_of, training_texts)) if training_texts else None
        self.slots = None
        if any(LITERAL_SLOTS.keys() & parse_slots(source).keys() for source in self.sources):
            self.slots = SlotChecker([*self.sources, *slot_sources])
        self.set_records(records)

    def set_records(self, records: list[TextRecord]) -> None:
        """Prepare what texts are compared with."""
        self.records = records
        self.reference_metrics = None
        if all(record.references for record in records):
            self.reference_metrics = ReferenceMetrics([record.references for record in records])
        self.reference_lengths = [len(words_of(record.text)) for record in records]
        self.__dict__.pop("reference_features", None)

    def against(self, records: list[TextRecord]) -> "TextEvaluator":
        """Make an evaluator of the same kind for other references to the same sources."""
        other = copy(self)
        other.set_records(records)
        return other

    @cached_property
    def reference_features(self) -> np.ndarray:
        """Embeddings of one text a record, ``(N, D)``."""
        if self.embedder is None:
            raise ValueError("`embedder` is needed for features, got None.")
        return self.embedder.embed([record.text for record in self.records])

    def describe(self) -> dict[str, Any]:
        """Tell what the figures are measured with."""
        return {
            "words": "sacrebleu 13a, case kept",
            "num_reference_texts": len(self.records),
            "num_training_texts": len(self.training_texts),
            "scorer": None if self.scorer is None else self.scorer.describe(),
            "embedder": None if self.embedder is None else self.embedder.name,
        }

    def __call__(self, texts: list[str]) -> dict[str, float]:
        """Measure texts.

        Args:
            texts: One text a record where there are sources, else any number of texts.

        Returns:
            A figure a name. Left out are those that lack what they are measured with (references,
            slots, training texts, scorer, embedder), and those of pairs if there is one text only.

        Raises:
            ValueError: If the number of texts is wrong.
        """
        if not texts or (self.sources and len(texts) != len(self.records)):
            wanted = str(len(self.records)) if self.sources else "at least one"
            raise ValueError(f"`texts` must hold {wanted}, got {len(texts)}.")
        figures: dict[str, float] = {}
        if self.reference_metrics is not None:
            figures |= self.reference_metrics(texts)
        if self.slots is not None:
            figures |= self.slots.error_rate(self.sources, texts)
        if self.scorer is not None:
            figures |= self.scorer.score(texts, self.sources or None).figures()
        figures |= self.word_figures(texts)
        if self.embedder is not None and min(len(texts), len(self.records)) > 1:
            figures |= self.feature_figures(texts, self.embedder)
        return figures

    def word_figures(self, texts: list[str]) -> dict[str, float]:
        """Measure variety, repetition, length and copies of training texts."""
        rows = [words_of(text) for text in texts]
        metrics: dict[str, Metric] = {"unigram_entropy": UnigramEntropy()}
        metrics |= {f"distinct_{n}": DistinctNgrams(n) for n in (1, 2, 3, 4)}
        metrics["repetition"] = Repetition()
        if self.overlap is not None:
            self.overlap.reset()
            metrics["train_4gram_overlap"] = self.overlap
        for metric in metrics.values():
            metric.update(rows)
        figures = {name: float(metric.compute()) for name, metric in metrics.items()}
        if len(texts) > 1:
            figures["self_bleu"] = self_bleu(texts)
        if self.training_texts:
            figures["copied_from_training"] = copied_share(texts, self.training_texts)
        return figures | length_figures([len(row) for row in rows], self.reference_lengths)

    def feature_figures(self, texts: list[str], embedder: SentenceEmbedder) -> dict[str, float]:
        """Compare embeddings of texts and references as distributions."""
        features, reference = embedder.embed(texts), self.reference_features
        return {
            "mauve": mauve(features, reference),
            "frechet_distance": frechet_distance(features, reference),
            "energy_distance": energy_distance(features, reference),
        }
