"""Text records: one text, perhaps its source and references, from any supported data set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_text.data.labels import RecordLabels
from ldm_text.data.readers import PLAIN_TEXT_FIELD, is_plain_text, read_rows


@dataclass(frozen=True)
class TextRecord:
    """One example.

    Attributes:
        text: The text to model; the target where there is a source.
        source: The text to condition on, None where the data set has none.
        references: Other right answers to the same source, for evaluation.
        label: Number of its class, None where the data set has no labels.
    """

    text: str
    source: str | None = None
    references: tuple[str, ...] = ()
    label: int | None = None


def read_records(
    data: str | Path,
    *,
    text_field: str = "text",
    source_field: str | None = None,
    references_field: str | None = None,
    labels: RecordLabels | None = None,
    split: str = "train",
) -> Iterator[TextRecord]:
    """Stream the records of a data set.

    Args:
        data: What ``readers.read_rows`` takes: a file, a dataset folder, ``hub:owner/name``
            or ``excerpt:NAME``.
        text_field: Field that holds the text.
        source_field: Field that holds the source, None to read none.
        references_field: Field that holds a list of references, None to read none.
        labels: Where the labels are, which become a part of the sources; None to read none.
        split: Split of a dataset folder or hub dataset.

    Raises:
        FileNotFoundError: If the data does not exist.
        ValueError: If a line, a field or the whole file is not as expected; the message names
            the file and the line.
    """
    for place, row in read_rows(data, split=split):
        try:
            source = None if source_field is None else string_field(row, source_field)
            references = () if references_field is None else _strings_field(row, references_field)
            if labels is None:
                yield TextRecord(string_field(row, text_field), source, references)
                continue
            for field, label in labels.texts_of(row, text_field):
                yield TextRecord(
                    string_field(row, field),
                    labels.labels.source_of(label, source),
                    references,
                    labels.labels.number_of(label),
                )
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def read_prompts(
    path: str | Path, source_field: str = "source", *, split: str = "train"
) -> list[str]:
    """Return the source texts of a data set, in its order.

    In a plain text file every line that is not blank is a prompt and ``source_field`` has no say.

    Args:
        path: What ``read_records`` takes.
        source_field: Field that holds the prompt.
        split: Split of a dataset folder or hub dataset.

    Raises:
        FileNotFoundError: If the data does not exist.
        ValueError: As ``read_records``.
    """
    field = PLAIN_TEXT_FIELD if is_plain_text(path) else source_field
    prompts = []
    for place, row in read_rows(path, split=split):
        try:
            prompts.append(string_field(row, field))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return prompts


def string_field(row: Mapping[str, Any], name: str) -> str:
    """Return a field that must hold a text.

    Raises:
        ValueError: If it does not; the message is the reason, without the place of the row.
    """
    return _checked_string(_field(row, name), name)


def _field(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"no field `{name}`; the fields there are {', '.join(map(repr, row))}.")
    return row[name]


def _strings_field(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = _field(row, name)
    if not isinstance(values, list | tuple):
        raise ValueError(f"field `{name}` must be a list of strings, got {type(values).__name__}.")
    return tuple(_checked_string(value, name) for value in values)


def _checked_string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field `{name}` must be a string, got {type(value).__name__}.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half of a surrogate pair; no tokenizer or file can hold it.
            raise ValueError(
                f"field `{name}` contains half of a surrogate pair, which is not valid Unicode."
            ) from None
    return value
