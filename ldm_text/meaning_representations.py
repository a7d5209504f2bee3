"""Meaning representations such as ``name[Aromi], food[Thai]``: read them, make new ones."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path

from ldm_text.data.records import read_prompts
from ldm_text.whole_lines import WholeLinesFile, check_output_file

SLOT = re.compile(r"([^\[\],]+)\[([^\]]*)\]")


def parse_slots(source: str) -> dict[str, str]:
    """Split ``a[x], b[y]`` into slots and values."""
    return {name.strip(): value.strip() for name, value in SLOT.findall(source)}


def join_slots(slots: dict[str, str]) -> str:
    """Write slots and values as ``a[x], b[y]``."""
    return ", ".join(f"{name}[{value}]" for name, value in slots.items())


def recombine_slots(
    data: Path,
    output: Path,
    num_rows: int = 20_000,
    exclude: Path | None = None,
    source_field: str = "source",
    seed: int = 0,
) -> None:
    """Write the different sources of a data set, and then new ones, for a teacher to write on.

    A new source has the slots of one training source, in its order, each with the value of another
    one that has the slot.

    Args:
        data: Training data, of any kind that training takes.
        output: JSON Lines file to write, with the field ``source``.
        num_rows: Number of sources to write, those of the data set included.
        exclude: Data whose sources must not be among the new ones, such as the validation set.
        source_field: Field of the source.
        seed: Seed of the choice.

    Raises:
        ValueError: If ``num_rows`` is less than 1, the data hold no slots, or so many different
            sources cannot be made of them.
    """
    check_output_file("--output", output)
    if num_rows < 1:
        raise ValueError(f"`--num_rows` must be at least 1, got {num_rows}.")
    sources = list(dict.fromkeys(read_prompts(data, source_field)))
    rows = [parse_slots(source) for source in sources]
    if not all(rows):
        raise ValueError(f"`--data`: a source of `{data}` has no slots such as `name[Aromi]`.")
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    known = set(sources) | (set(read_prompts(exclude, source_field)) if exclude else set())
    found = dict.fromkeys(sources[:num_rows])
    draw = random.Random(seed)
    for _ in range(100 * num_rows):
        if len(found) == num_rows:
            break
        slots = {name: draw.choice(values[name]) for name in draw.choice(rows)}
        source = join_slots(slots)
        if source not in known:
            found[source] = None
    if len(found) < num_rows:
        raise ValueError(
            f"`--num_rows`: only {len(found)} different sources were found in {100 * num_rows} "
            f"draws, {num_rows} were asked for."
        )
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps({"source": row}, ensure_ascii=False) for row in found])
