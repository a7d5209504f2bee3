"""Valid JSON for a schema: ``name: string, size: small or large`` gives an object that fits.

A schema lists fields with a kind each: ``string``, ``integer``, ``boolean``, an array such as
``2 strings`` or ``3 integers``, a choice such as ``small or large``, or fields in braces.
"""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

Schema = dict[str, "str | Schema"]

NAMES = "age box city code color count done home id item kind mode name note open owner pet"
WORDS = "ada amber bach blue cairo echo fern gold hugo iris jade lima nova opal oslo rome"
CHOICES = ("small or large", "red or green", "on or off", "cat or dog or cow")
ARRAY = re.compile(r"(\d) (string|integer)s")
FIELD = re.compile(r"(?P<name>\w+): (?:(?P<open>\{)|(?P<kind>[\w ]+))")
MAX_DEPTH = 10
TYPES = {"string": str, "integer": int, "boolean": bool}


def render(schema: Schema) -> str:
    """Write a schema."""
    return ", ".join(
        f"{name}: {kind if isinstance(kind, str) else '{' + render(kind) + '}'}"
        for name, kind in schema.items()
    )


def parse(text: str) -> Schema:
    """Read a schema.

    Raises:
        ValueError: If it is none.
    """
    schema, end = _parse_fields(text, 0, 0)
    if end != len(text):
        raise ValueError(f"{text[:80]!r} is no schema: {text[end:][:20]!r} is not understood.")
    return schema


def _parse_fields(text: str, start: int, depth: int) -> tuple[Schema, int]:
    """Read fields from a place on; return them and the place behind them."""
    schema: Schema = {}
    while match := FIELD.match(text, start):
        kind = match["kind"]
        if match["open"] and depth < MAX_DEPTH:
            schema[match["name"]], start = _parse_fields(text, match.end(), depth + 1)
            if not text.startswith("}", start):
                break
            start += 1
        elif kind and (kind in TYPES or ARRAY.fullmatch(kind) or " or " in kind):
            schema[match["name"]], start = kind, match.end()
        else:
            break
        if not text.startswith(", ", start):
            return schema, start
        start += 2
    raise ValueError(f"{text[:80]!r} is no schema: {text[start:][:20]!r} is not understood.")


def fits(value: Any, kind: str | Schema) -> bool:
    """Tell whether a value of JSON is of a kind; objects have all their fields and no other."""
    if isinstance(kind, dict):
        if not isinstance(value, dict) or value.keys() != kind.keys():
            return False
        return all(fits(value[name], one) for name, one in kind.items())
    if array := ARRAY.fullmatch(kind):
        is_full = isinstance(value, list) and len(value) == int(array[1])
        return is_full and all(type(item) is TYPES[array[2]] for item in value)
    if kind in TYPES:
        return type(value) is TYPES[kind]  # to Python a boolean is an integer, too
    return value in kind.split(" or ")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class JsonSchema:
    """An object of JSON that fits a schema."""

    group_field = "num_fields"
    groups = (2, 3, 4, 5, 6)

    def make(self, group: int, draw: random.Random) -> tuple[str, str]:
        """Draw a schema with a number of plain fields, and an object that fits."""
        names = iter(draw.sample(NAMES.split(), group + 1))
        fields = [(next(names), _draw_kind(draw)) for _ in range(group)]
        schema: Schema = dict(fields)
        if group > 2 and draw.random() < 0.5:  # the last two fields stand inside another one
            schema = dict([*fields[:-2], (next(names), dict(fields[-2:]))])
        return render(schema), json.dumps(_draw_value(schema, draw))

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Check an object.

        Returns:
            ``correct``: it fits the schema; ``parses``: it is JSON, no field twice; ``fields``: it
            is an object with the right fields on the outermost level.
        """
        schema = parse(source)
        try:
            value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return {"correct": False, "parses": False, "fields": False}
        has_fields = isinstance(value, dict) and value.keys() == schema.keys()
        return {"correct": fits(value, schema), "parses": True, "fields": has_fields}


def _draw_kind(draw: random.Random) -> str:
    array = f"{draw.randint(2, 3)} {draw.choice(('strings', 'integers'))}"
    return draw.choice((*TYPES, *TYPES, array, draw.choice(CHOICES)))


def _draw_value(kind: str | Schema, draw: random.Random) -> Any:
    if isinstance(kind, dict):
        return {name: _draw_value(one, draw) for name, one in kind.items()}
    if array := ARRAY.fullmatch(kind):
        return [_draw_value(array[2], draw) for _ in range(int(array[1]))]
    plain: dict[str, Any] = {
        "string": draw.choice(WORDS.split()),
        "integer": draw.randint(0, 99),
        "boolean": draw.random() < 0.5,
    }
    return plain[kind] if kind in plain else draw.choice(kind.split(" or "))
