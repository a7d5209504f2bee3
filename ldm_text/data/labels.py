"""Where the records of a data set have their labels: in a field, or in which field a text is."""

from collections.abc import Iterator, Mapping
from typing import Any

from ldm_text.labels import Labels


class LabelField:
    """Labels that stand in a field of each record.

    Args:
        name: What the classes are of, such as ``topic``.
        field: Field that holds the label of a record.
        names: All labels; a record with another one is refused.
    """

    def __init__(self, name: str, field: str, names: list[str]) -> None:
        self.labels = Labels(name, tuple(names))
        self.field = field

    @property
    def content(self) -> list[Any]:
        """All that decides which text has which label, as JSON."""
        return [self.labels.to_config(), self.field]

    def texts_of(self, row: Mapping[str, Any], text_field: str) -> Iterator[tuple[str, str]]:
        """Yield the fields of a record that hold a text, and its label.

        Raises:
            ValueError: If the record has no label, or one that is not among the names.
        """
        if self.field not in row:
            there = ", ".join(map(repr, row))
            raise ValueError(f"no field `{self.field}`; the fields there are {there}.")
        try:
            self.labels.number_of(row[self.field])
        except ValueError as error:
            raise ValueError(f"field `{self.field}`: {error}") from error
        yield text_field, row[self.field]


class TextFieldLabels:
    """Labels that tell in which of several fields a text stands: each is a text of its own.

    The ``text_field`` of the corpus has no say.

    Args:
        name: What the classes are of, such as ``toxicity``.
        fields: For each label, the field of a record that holds a text of it.
    """

    def __init__(self, name: str, fields: dict[str, str]) -> None:
        self.labels = Labels(name, tuple(fields))
        self.fields = fields

    @property
    def content(self) -> list[Any]:
        """All that decides which text has which label, as JSON."""
        return [self.labels.to_config(), self.fields]

    def texts_of(self, row: Mapping[str, Any], text_field: str) -> Iterator[tuple[str, str]]:
        """Yield the fields of a record that hold a text, and its label."""
        yield from ((field, label) for label, field in self.fields.items())


RecordLabels = LabelField | TextFieldLabels


def corpus_option(name: str, data_options: Mapping[str, Any]) -> Any:
    """Return an option of the corpus of a training, ``None`` if it was not given.

    Args:
        name: Name of the option.
        data_options: Options of its ``TextDataModule``, as the configuration of the run has them.
    """
    return ((data_options.get("corpus") or {}).get("init_args") or {}).get(name)


def labels_of_training(data_options: Mapping[str, Any]) -> Labels | None:
    """Return the labels that a training wrote into its sources.

    Args:
        data_options: Options of its ``TextDataModule``, as the configuration of the run has them.
    """
    entry = corpus_option("labels", data_options)
    if entry is None:
        return None
    classes = {label_class.__name__: label_class for label_class in (LabelField, TextFieldLabels)}
    return classes[entry["class_path"].split(".")[-1]](**entry["init_args"]).labels
