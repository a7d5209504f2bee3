"""Class labels as a model reads them: one line of its source text, the same for every family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Labels:
    """The classes that a model was trained on.

    A label is known text, as any source is. ``topic: Sports`` is the source of a text with the
    label ``Sports``, or its first line where the text has a source of its own. No model needs a
    mechanism of its own for it: what the source is to a family, the label is too, for guidance and
    likelihoods alike.

    Attributes:
        name: What the classes are of, such as ``topic``.
        names: The classes.
    """

    name: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        words = (self.name, *self.names)
        if not all(isinstance(word, str) and word.strip() == word != "" for word in words):
            raise ValueError(f"Labels must be words without spaces around them, got {words}.")
        if any(len(word.splitlines()) > 1 for word in words) or ":" in self.name:
            raise ValueError(
                f"Labels must be of one line, and their name without a colon, got {words}."
            )
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"There must be several labels, all different, got {self.names}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Labels":
        """Read labels from a pipeline's configuration: ``name`` and ``names``.

        Raises:
            ValueError: If it holds no labels.
        """
        names = config.get("names") if isinstance(config, Mapping) else None
        if not isinstance(names, list | tuple) or set(config) != {"name", "names"}:
            raise ValueError(f"`labels` must hold `name` and `names`, got {config!r}.")
        return cls(config["name"], tuple(names))

    def to_config(self) -> dict[str, Any]:
        """Return what ``from_config`` reads."""
        return {"name": self.name, "names": list(self.names)}

    def number_of(self, label: Any) -> int:
        """Return the place of a label among the names, from 0.

        Raises:
            ValueError: If there is no such label.
        """
        if label not in self.names:
            raise ValueError(
                f"there is no {self.name} {label!r}; those there are {', '.join(self.names)}."
            )
        return self.names.index(label)

    def source_of(self, label: str, source: str | None) -> str:
        """Write a label, and the source of the text if it has one, as one source.

        Raises:
            ValueError: If there is no such label.
        """
        self.number_of(label)
        line = f"{self.name}: {label}"
        return line if source is None else f"{line}\n{source}"

    def check_source(self, source: str | None) -> None:
        """Refuse a source that does not begin with a label: the model has seen no other.

        Raises:
            ValueError: If it is such a one.
        """
        if source is None:
            return
        line = source.partition("\n")[0]
        if line not in {f"{self.name}: {label}" for label in self.names}:
            raise ValueError(
                f"the source must begin with its {self.name}, as in `{self.name}: "
                f"{self.names[0]}`; there are {', '.join(self.names)}. It begins with "
                f"{line[:60]!r}."
            )


def labels_of(config: Mapping[str, Any]) -> Labels | None:
    """Return the labels of a pipeline's configuration, if its model was trained with any.

    Raises:
        ValueError: If the entry holds no labels.
    """
    entry = config.get("labels")
    return None if entry is None else Labels.from_config(entry)


def labelled_prompts(
    labels: Labels | None,
    prompts: Sequence[str | None],
    label: str | Sequence[str | None] | None,
) -> list[str | None]:
    """Write a label into each prompt.

    Args:
        labels: Those of the model.
        prompts: Sources without their labels.
        label: One for all prompts, or one for each; ``None`` leaves a prompt as it is.

    Raises:
        ValueError: If the model has no labels, or not this one, or there are more or fewer than
            prompts.
    """
    if label is None:
        return list(prompts)
    if labels is None:
        raise ValueError("`label` has no effect: the model was trained without labels.")
    each = [label] * len(prompts) if isinstance(label, str) else list(label)
    if len(each) != len(prompts):
        raise ValueError(
            f"`label` must be one for all prompts or one for each of the {len(prompts)}, "
            f"got {len(each)}."
        )
    return [
        prompt if entry is None else labels.source_of(entry, prompt)
        for prompt, entry in zip(prompts, each, strict=True)
    ]


def check_labels(labels: Labels | None, prompts: Sequence[str | None]) -> None:
    """Refuse prompts of a labelled model that begin with no label of it.

    Raises:
        ValueError: If there is one.
    """
    for index, prompt in enumerate(prompts):
        try:
            if labels is not None:
                labels.check_source(prompt)
        except ValueError as error:
            raise ValueError(f"prompt[{index}]: {error}") from error
