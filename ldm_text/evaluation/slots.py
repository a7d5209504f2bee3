"""Slot errors of texts written from meaning representations such as ``name[Aromi], food[Thai]``.

Values that the texts name literally are judged. For E2E NLG these are the name, the place nearby,
the kind of place, the food and the area. Prices, ratings and family friendliness are paraphrased
too freely for that: of these it is told whether a text leaves them out or contradicts them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ldm_text.evaluation.paraphrased_slots import PARAPHRASED_SLOTS
from ldm_text.meaning_representations import parse_slots

LITERAL_SLOTS = {
    "name": "entity",  # the name and the place nearby share one set of values
    "near": "entity",
    "eatType": "eatType",
    "food": "food",
    "area": "area",
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

    def errors_by_group(self, source: str, text: str) -> list[tuple[list[str], list[str]]]:
        """List the values that are missing from a text and those invented by it, by slot group."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for slot, value in parse_slots(source).items():
            if slot in LITERAL_SLOTS:
                wanted[LITERAL_SLOTS[slot]].add(normalize(value))
        content = normalize(text)
        # "Raja Indian Cuisine" is a place: it says nothing about the food.
        places = self.patterns.get("entity")
        without_places = content if places is None else places.sub(" ", content)
        errors = []
        for group, pattern in self.patterns.items():
            found = set(pattern.findall(content if group == "entity" else without_places))
            missing = sorted(wanted[group] - found)
            errors.append((missing, sorted(found - wanted[group] - COMMON_NOUNS)))
        return errors

    def errors(self, source: str, text: str) -> dict[str, list[str]]:
        """List the values that are ``missing`` from a text and those ``invented`` by it.

        A wrong value is one missing and one invented.
        """
        groups = self.errors_by_group(source, text)
        return {
            "missing": [value for missing, _ in groups for value in missing],
            "invented": [value for _, invented in groups for value in invented],
        }

    def num_wrong_slots(self, source: str, text: str) -> int:
        """Count the slots with an error; a value in place of another is one."""
        return sum(max(map(len, errors)) for errors in self.errors_by_group(source, text))

    def paraphrase_errors(self, source: str, text: str) -> dict[str, list[str]]:
        """List the slots of ``PARAPHRASED_SLOTS`` that a text ``omitted`` or ``contradicted``."""
        content = normalize(text)
        places = self.patterns.get("entity")
        content = content if places is None else places.sub(" ", content)
        omitted, contradicted = [], []
        for slot, value in parse_slots(source).items():
            if slot in PARAPHRASED_SLOTS:
                paraphrases = PARAPHRASED_SLOTS[slot]
                if paraphrases.is_omitted(content):
                    omitted.append(slot)
                if paraphrases.is_contradicted(value.lower(), content):
                    contradicted.append(slot)
        return {"omitted": omitted, "contradicted": contradicted}

    def error_rate(self, sources: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
        """Shares of rows in [0, 1]: with an error, by kind; and with paraphrase errors, by kind.

        The latter are not in ``slot_error_rate``: people leave slots out, too.
        ``rows_without_fault`` have neither: a model that says less has fewer errors.
        """
        rows = list(zip(sources, texts, strict=True))
        errors = [self.errors(*row) for row in rows]
        paraphrases = [self.paraphrase_errors(*row) for row in rows]
        faults = [{**row, **others} for row, others in zip(errors, paraphrases, strict=True)]
        return {
            "slot_error_rate": sum(any(row.values()) for row in errors) / len(errors),
            "rows_with_missing": sum(bool(row["missing"]) for row in errors) / len(errors),
            "rows_with_invented": sum(bool(row["invented"]) for row in errors) / len(errors),
            "rows_with_omitted": sum(bool(row["omitted"]) for row in paraphrases) / len(rows),
            "rows_with_contradicted": sum(bool(row["contradicted"]) for row in paraphrases)
            / len(rows),
            "rows_without_fault": sum(not any(row.values()) for row in faults) / len(rows),
        }
