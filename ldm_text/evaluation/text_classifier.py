"""Tell classes of text by words and characters: an independent judge, without a network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_text.evaluation.extra import import_extra


class TextClassifier:
    """Logistic regression of scikit-learn on TF-IDF of words and of characters.

    Words go by one and two, characters by two to four within words. It shares no tokenizer,
    embedding or weight with the models that it judges, nor with a classifier that guides them. All
    classes weigh equally, however many texts they have.

    Args:
        texts: Texts to learn from.
        labels: The class of each.

    Raises:
        ValueError: If the extra ``evaluate`` is not installed, or there is one class alone.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[Any]) -> None:
        features = import_extra("sklearn.feature_extraction.text").TfidfVectorizer
        self.model: Any = import_extra("sklearn.pipeline").make_pipeline(
            import_extra("sklearn.pipeline").make_union(
                features(ngram_range=(1, 2), sublinear_tf=True),
                features(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
            ),
            import_extra("sklearn.linear_model").LogisticRegression(
                C=10.0, class_weight="balanced", max_iter=1000
            ),
        )
        self.model.fit(list(texts), list(labels))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the class of each text, ``(N,)``."""
        return self.model.predict(list(texts))
