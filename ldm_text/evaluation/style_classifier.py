"""Tell the style of a text, apart from all our models: words and characters, no network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.likelihood import standard_error
from ldm_text.evaluation.text_classifier import TextClassifier

SOURCE, TARGET = 0, 1


class StyleClassifier:
    """Tell texts written like the sources of a task from texts written like its targets.

    A ``TextClassifier``: independent of all models. Both styles weigh equally, however many
    references a source has.

    Args:
        sources: Texts in the style of the sources.
        targets: Texts in the style of the targets. A text that is among both is left out.

    Raises:
        ValueError: If the extra ``evaluate`` is not installed, or a style has no text of its own.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        styles = self.styles = {**dict.fromkeys(sources, SOURCE), **dict.fromkeys(targets, TARGET)}
        self.ambiguous = set(sources) & set(targets)
        texts = [text for text in styles if text not in self.ambiguous]
        labels = [styles[text] for text in texts]
        if set(labels) != {SOURCE, TARGET}:
            raise ValueError(
                "The training data need sources that are no targets, and targets that are no "
                "sources: a style is told by them."
            )
        self.classify = TextClassifier(texts, labels)

    def in_target_style(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which texts are more likely in the style of the targets: bool ``(N,)``."""
        return self.classify(texts) == TARGET

    def held_out_accuracy(self, records: Sequence[TextRecord]) -> dict[str, Any]:
        """Measure the classifier on pairs that it has not seen.

        A record is left out whole if one of its texts is one of the training texts, or both a
        source and a target: no side of a pair is then known.

        Args:
            records: Sources with all their references.

        Returns:
            ``accuracy``, the mean over records of how right it is on the source and, equally
            weighted, on the references; its ``standard_error``; ``source_accuracy`` and
            ``target_accuracy``; ``num_records`` and ``num_left_out``. Without a record that is
            left, only the last two.
        """
        ours = {record.source for record in records}
        both = ours & {text for record in records for text in record.references}
        known = self.styles.keys() | both
        kept = [
            record
            for record in records
            if record.source is not None and known.isdisjoint((record.source, *record.references))
        ]
        counts = {"num_records": len(kept), "num_left_out": len(records) - len(kept)}
        if not kept:
            return counts
        on_sources = 1.0 - self.in_target_style([str(record.source) for record in kept])
        on_targets = np.array(
            [self.in_target_style(record.references).mean() for record in kept], np.float64
        )
        accuracy = (on_sources + on_targets) / 2
        return {
            "accuracy": float(accuracy.mean()),
            "standard_error": standard_error(accuracy),
            "source_accuracy": float(on_sources.mean()),
            "target_accuracy": float(on_targets.mean()),
        } | counts
