"""Columns of the input that go through to the output."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from ldm_text.batch.work import RowError


def plain(value: Any) -> str:
    """Write a value that JSON does not know as text.

    Raises:
        TypeError: If there is no text for it.
    """
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def to_json(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON, non-ASCII text as it is.

    Raises:
        TypeError: If a value has no place in JSON.
        ValueError: If a number is not finite.
    """
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=plain)


class CarriedColumns:
    """Choose columns of an input row, and say under which name they stand in the output.

    Args:
        names: Columns of the input. One that has the name of a field of the output stands there as
            ``input_NAME``.
        fields: Names of the fields of the output.

    Raises:
        ValueError: If a column is named twice, or its name in the output is taken.
    """

    def __init__(self, names: Sequence[str], fields: Sequence[str]) -> None:
        self.targets = {name: f"input_{name}" if name in fields else name for name in names}
        taken = [*fields, *self.targets.values()]
        doubled = sorted({name for name in taken if taken.count(name) > 1})
        if doubled or len(self.targets) != len(names):
            raise ValueError(
                f"`--columns` must name each column once, got {', '.join(names)}; "
                f"twice in the output: {', '.join(doubled) or 'a repeated one'}."
            )

    def of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the columns of a row.

        Raises:
            RowError: If one is missing, or holds what no output file could.
        """
        for name in self.targets:
            if name not in fields:
                there = ", ".join(map(repr, fields))
                raise RowError(f"no column `{name}`; the fields there are {there}.")
        carried = {target: fields[name] for name, target in self.targets.items()}
        try:
            to_json(carried).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RowError(f"a column cannot be carried through: {error}.") from error
        return carried
