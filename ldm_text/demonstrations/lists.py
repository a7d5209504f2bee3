"""Lists that must end on a given item: ``3 fruits from fig to pear`` gives ``fig, lime, pear``."""

import random
import re
from collections.abc import Sequence

ITEMS = {
    "animals": "ant bat bear bee cat cow crab deer dog dove duck eel fox frog goat hare hen horse "
    "lion mole mouse owl pig wolf",
    "fruits": "apple banana cherry currant date fig grape guava kiwi lemon lime lychee mango melon "
    "nectarine olive orange papaya peach pear pineapple plum quince raspberry",
    "tools": "anvil awl axe brush chisel clamp crowbar drill file hammer hoe knife ladder level "
    "pick pliers rake rope saw shears shovel spade vice wrench",
    "colours": "amber azure beige black blue bronze brown coral cream gold green grey indigo ivory "
    "lilac maroon navy pink purple red silver teal white yellow",
}
SOURCE = re.compile(r"(\d+) (\w+) from (\w+) to (\w+)")


class Lists:
    """A number of different items of a kind, the first and the last of which are given.

    The last item must be kept for the end, and the number of the items before it must be right.
    """

    group_field = "num_items"
    groups = (3, 5, 7, 9, 11)

    def make(self, group: int, draw: random.Random) -> tuple[str, str]:
        """Draw a list of a number of items."""
        kind = draw.choice(list(ITEMS))
        items = draw.sample(ITEMS[kind].split(), group)
        return f"{group} {kind} from {items[0]} to {items[-1]}", ", ".join(items)

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Check a list.

        Returns:
            ``correct`` where all of these are: ``first`` and ``last`` item, their ``number``,
            that all are ``different`` and of the ``kind``.

        Raises:
            ValueError: If the source is none of the task.
        """
        match = SOURCE.fullmatch(source)
        if match is None or match[2] not in ITEMS:
            raise ValueError(f"{source[:80]!r} is no source such as '3 fruits from fig to pear'.")
        items = [item.strip() for item in text.split(",")]
        checks = {
            "first": items[0] == match[3],
            "last": items[-1] == match[4],
            "number": len(items) == int(match[1]),
            "different": len(set(items)) == len(items),
            "kind": set(items) <= set(ITEMS[match[2]].split()),
        }
        return {"correct": all(checks.values())} | checks
