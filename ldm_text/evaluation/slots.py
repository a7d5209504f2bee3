"""Slot errors of texts written from meaning representations such as ``name[Aromi], food[Thai]``.

Values that the texts name literally are judged. For E2E NLG these are the name, the place nearby,
the kind of place, the food and the area. Prices, ratings and family friendliness are paraphrased
too freely for that: of these it is only told whether a text speaks of them at all.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ldm_text.meaning_representations import parse_slots

LITERAL_SLOTS = {
    "name": "entity",  # the name and the place nearby share one set of values
    "near": "entity",
    "eatType": "eatType",
    "food": "food",
    "area": "area",
}
# Words that a text uses when it speaks of a slot, whatever it says of it.
PARAPHRASED_SLOTS = {
    "priceRange": re.compile(r"pric|cheap|expensive|cost|\u00a3|pounds?\b|afford|budget|moderate"),
    "customer rating": re.compile(
        r"\brat(?:ed?|ings?)\b|\bstars?\b|out of (?:5|five)|customer|review"
    ),
    "familyFriendly": re.compile(r"famil|\bkids?\b|child|adult"),
}
# A value that texts use as a common noun: absent it is missing, present it is not invented.
COMMON_NOUNS = {"restaurant"}


def normalize(text: str) -> str:
    """Fold case, accents of ``e``, hyphens and American spelling, for comparison only."""
    return text.lower().replace("\u00e9", "e").replace("-", " ").replace("center", "centre")


class SlotChecker:
    """Find missing, wrong and invented slot values.

    Args:
        sources: Meaning representations that together show all values of each slot.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        values: dict[str, set[str]] = defaultdict(set)
        for source in sources:
            for slot, value in parse_slots(source).items():
                if slot in LITERAL_SLOTS:
                    values[LITERAL_SLOTS[slot]].add(normalize(value))
        # Longest first, so that "the rice boat" is not also read as "rice boat".
        self.patterns = {
            group: re.compile(
                r"\b(" + "|".join(map(re.escape, sorted(found, key=len, reverse=True))) + r")\b"
            )
            for group, found in values.items()
        }

    def errors(self, source: str, text: str) -> dict[str, list[str]]:
        """List the values that are ``missing`` from a text and those ``invented`` by it.

        A wrong value is one missing and one invented.
        """
        wanted: dict[str, set[str]] = defaultdict(set)
        for slot, value in parse_slots(source).items():
            if slot in LITERAL_SLOTS:
                wanted[LITERAL_SLOTS[slot]].add(normalize(value))
        content = normalize(text)
        # "Raja Indian Cuisine" is a place: it says nothing about the food.
        places = self.patterns.get("entity")
        without_places = content if places is None else places.sub(" ", content)
        missing, invented = [], []
        for group, pattern in self.patterns.items():
            found = set(pattern.findall(content if group == "entity" else without_places))
            missing += sorted(wanted[group] - found)
            invented += sorted(found - wanted[group] - COMMON_NOUNS)
        return {"missing": missing, "invented": invented}

    def omitted(self, source: str, text: str) -> list[str]:
        """List the slots of ``PARAPHRASED_SLOTS`` that a text should speak of and does not."""
        content = normalize(text)
        places = self.patterns.get("entity")
        content = content if places is None else places.sub(" ", content)
        wanted = parse_slots(source).keys() & PARAPHRASED_SLOTS.keys()
        return sorted(slot for slot in wanted if not PARAPHRASED_SLOTS[slot].search(content))

    def error_rate(self, sources: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
        """Share of rows with an error, a missing or an invented value, and with an omitted slot.

        What ``omitted`` finds is not counted as an error: people leave these slots out, too.
        """
        rows = list(zip(sources, texts, strict=True))
        errors = [self.errors(*row) for row in rows]
        return {
            "slot_error_rate": sum(any(row.values()) for row in errors) / len(errors),
            "rows_with_missing": sum(bool(row["missing"]) for row in errors) / len(errors),
            "rows_with_invented": sum(bool(row["invented"]) for row in errors) / len(errors),
            "rows_with_omitted": sum(bool(self.omitted(*row)) for row in rows) / len(rows),
        }
