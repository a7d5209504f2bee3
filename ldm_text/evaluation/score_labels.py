"""``ldm-text score_labels``: which classes an independent classifier sees in generated texts."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ldm_text.data.readers import read_rows
from ldm_text.data.records import string_field
from ldm_text.evaluation.likelihood import standard_error
from ldm_text.evaluation.references import check_names
from ldm_text.evaluation.text_classifier import TextClassifier
from ldm_text.evaluation.text_table import aligned
from ldm_text.whole_lines import WholeLinesFile, check_output_file


def score_labels(
    texts: dict[str, Path],
    data: str,
    training_data: str,
    output: Path,
    text_field: str = "text",
    label_field: str | None = None,
    text_fields: dict[str, str] | None = None,
) -> None:
    """Tell how many generated texts are of each class, by a classifier that is trained here.

    The classifier (extra `evaluate`) reads words and characters and shares nothing with the models.

    Args:
        texts: A name and a file of `ldm-text generate` each, such as `{guided: a.jsonl,
            plain: b.jsonl}`.
        data: Validation data, on which the classifier is measured.
        training_data: Training data, which the classifier learns from.
        output: JSON file to write. A table goes to standard output.
        text_field: Field of the text in both data, where the label stands in a field.
        label_field: Field of the label in both data.
        text_fields: In its place, for data that tell the class of a text by its field: the field
            of each class, such as `{low: target, high: source}`.

    Raises:
        ValueError: If a file cannot be read, or not one of both ways to tell classes is given.
    """
    check_output_file("--output", output)
    check_names(texts)
    if (label_field is None) == (text_fields is None):
        raise ValueError("Give one of `--label_field` and `--text_fields`.")
    written = {name: read_texts(name, path) for name, path in texts.items()}
    known = read_labelled("--training_data", training_data, text_field, label_field, text_fields)
    names = sorted({label for _, label in known})
    classifier = TextClassifier(*zip(*known, strict=True))
    seen = {text for text, _ in known}
    new = [
        (text, label)
        for text, label in read_labelled("--data", data, text_field, label_field, text_fields)
        if text not in seen
    ]
    figures = {name: shares(classifier(own), names) for name, own in written.items()}
    figures |= {
        f"data: {name}": shares(classifier(own), names)
        for name in names
        if (own := [text for text, label in new if label == name])
    }
    report = {
        "data": {"path": data, "training_data": training_data},
        "classifier": {"features": "TF-IDF of words and characters, logistic regression"}
        | accuracy(classifier, new),
        "shares": figures,
        "num_texts": {name: len(own) for name, own in written.items()},
    }
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    rows = [["", *names]]
    rows += [[name, *map(cell, values.values())] for name, values in figures.items()]
    sys.stdout.write(aligned(rows))


def accuracy(classifier: TextClassifier, new: list[tuple[str, str]]) -> dict[str, Any]:
    """Tell how often the classifier is right on texts it has not seen; ``None`` without any."""
    if not new:
        return {"accuracy": None, "standard_error": None, "num_texts": 0}
    right = classifier([text for text, _ in new]) == np.array([label for _, label in new])
    return {
        "accuracy": float(right.mean()),
        "standard_error": standard_error(right),
        "num_texts": len(new),
    }


def shares(found: np.ndarray, names: list[str]) -> dict[str, dict[str, float | None]]:
    """Return the share of texts of each class, with its standard error over texts."""
    return {
        name: {"mean": float(is_one.mean()), "standard_error": standard_error(is_one)}
        for name in names
        for is_one in [np.asarray(found == name, np.float64)]
    }


def cell(figure: dict[str, float | None]) -> str:
    """Write a share in per cent."""
    mean, error = figure["mean"], figure["standard_error"]
    assert mean is not None
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} +- {100 * error:.1f}"


def read_texts(name: str, path: Path) -> list[str]:
    """Read the texts of a file of `ldm-text generate`.

    Raises:
        ValueError: If it cannot be read, or holds none.
    """
    try:
        rows = list(read_rows(path, split="train"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`--texts`: `{name}`: {error}") from error
    texts = [row.get("text") for _, row in rows]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"`--texts`: `{name}`: `{path}` needs rows with `text`.")
    return [str(text) for text in texts]


def read_labelled(
    option: str,
    data: str,
    text_field: str,
    label_field: str | None,
    text_fields: dict[str, str] | None,
) -> list[tuple[str, str]]:
    """Read texts with their classes; texts that are of two classes are left out.

    Raises:
        ValueError: If they cannot be read, or are all of one class.
    """
    classes: dict[str, set[str]] = {}
    try:
        for place, row in read_rows(data, split="train"):
            try:
                fields = text_fields or {string_field(row, label_field or ""): text_field}
                for label, field in fields.items():
                    classes.setdefault(string_field(row, field), set()).add(label)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}`: {error}") from error
    found = [(text, labels.pop()) for text, labels in classes.items() if len(labels) == 1]
    if len({label for _, label in found}) < 2:
        raise ValueError(f"`{option}`: `{data}` has no texts of two classes.")
    return found
