"""What texts are measured against: records of a data set, and files of generated texts."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ldm_text.data.length_policy import LengthPolicy, LongTexts
from ldm_text.data.readers import read_rows
from ldm_text.data.records import TextRecord, read_records
from ldm_text.tokenizer import encode_texts

AUTO = "auto"
DEFAULT_FIELD = "references"

logger = logging.getLogger(__name__)


def read_option(
    option: str,
    data: str,
    references_field: str | None = None,
    split: str = "train",
    **fields: Any,
) -> list[TextRecord]:
    """Read the records that an option names.

    Args:
        option: The option.
        data: What it holds.
        references_field: See ``find_references_field``.
        split: Split of a dataset folder or hub dataset.
        fields: Names of other fields, as ``read_records`` takes them.

    Raises:
        ValueError: If they cannot be read.
    """
    try:
        found = find_references_field(data, references_field, split)
        return list(read_records(data, references_field=found, split=split, **fields))
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}`: {error}") from error


def find_references_field(data: str, references_field: str | None, split: str) -> str | None:
    """Choose the field that references are read from.

    Args:
        data: What ``read_rows`` takes.
        references_field: A field; ``auto`` for ``references`` where the first row has it, else
            none; ``None`` for none.
        split: Split of a dataset folder or hub dataset.

    Raises:
        FileNotFoundError: If the data does not exist.
        ValueError: If the first row cannot be read, or has not the field that is named.
    """
    if references_field is None:
        return None
    place, row = next(read_rows(data, split=split))
    if references_field == AUTO:
        return DEFAULT_FIELD if DEFAULT_FIELD in row else None
    if references_field not in row:
        raise ValueError(
            f"{place}: no field `{references_field}`, which `--references_field` names; the fields "
            f"there are {', '.join(map(repr, row))}. Leave the option out where each row has one "
            "text."
        )
    return references_field


def group_by_source(records: Sequence[TextRecord]) -> list[TextRecord]:
    """Join records of one source into one record with all their references, in order.

    A record without a source stays on its own and has no references.
    """
    if all(record.source is None for record in records):
        return [TextRecord(record.text) for record in records]
    references: dict[str | None, list[str]] = defaultdict(list)
    for record in records:
        references[record.source] += record.references or (record.text,)
    return [TextRecord(texts[0], source, tuple(texts)) for source, texts in references.items()]


def cut_long_texts(
    records: Sequence[TextRecord],
    long_texts: LongTexts,
    tokenizer: PreTrainedTokenizerFast,
    max_length_tokens: int,
) -> list[TextRecord]:
    """Make texts without sources as long as a model's, as its training data module does.

    Args:
        records: Records without sources.
        long_texts: What to do with a longer text, see ``LengthPolicy``.
        tokenizer: The model's tokenizer.
        max_length_tokens: Longest text, its end token included.

    Raises:
        ValueError: If a text is too long and ``long_texts`` is ``error``.
    """
    policy = LengthPolicy(long_texts, max_length_tokens, 1)
    rows = []
    for index, ids in enumerate(encode_texts(tokenizer, [record.text for record in records])):
        rows += policy.apply(ids, None, f"text {index}")
    kept = [ids for ids, _ in rows]
    texts = tokenizer.batch_decode(kept, skip_special_tokens=True) if kept else []
    return [TextRecord(text) for text in texts]


def check_names(texts: Mapping[str, Path], taken: Sequence[str] = ()) -> None:
    """Refuse files of texts without a name of their own.

    Args:
        texts: A name and a file each.
        taken: Names that are others'.

    Raises:
        ValueError: If there is such a one, or no file at all.
    """
    if not texts or texts.keys() & set(taken):
        but = f", none of them {' or '.join(taken)}" if taken else ""
        raise ValueError(f"`--texts` must name at least one file{but}, got {list(texts)}.")
    others = [name for name in texts if not isinstance(name, str)]
    if others:
        raise ValueError(
            f"`--texts`: YAML reads a name as {others[0]!r}; put names such as 'off' and '1' in "
            "quotes."
        )


def read_text_sets(path: Path, records: Sequence[TextRecord]) -> list[list[str]]:
    """Read generated texts as sets, each with one text a record where there are sources.

    Rows are matched to records by ``source``: the first row of each source makes the first set, and
    so on, as many sets as every source has rows for. Without sources all rows of one ``seed``
    make a set, whatever their number.

    Args:
        path: JSON Lines with ``text``, as ``ldm-text generate`` writes them.
        records: What ``group_by_source`` returned.

    Raises:
        ValueError: If the file cannot be read, or a source has no text.
    """
    try:
        return text_sets(read_rows(path, split="train"), records)
    except (OSError, ValueError) as error:
        raise ValueError(f"`--texts`: {error}") from error


def text_sets(rows: Any, records: Sequence[TextRecord]) -> list[list[str]]:
    """Sort rows of generated texts into sets; see ``read_text_sets``."""
    has_sources = records[0].source is not None
    texts: dict[Any, list[str]] = defaultdict(list)
    for place, row in rows:
        key = row.get("source") if has_sources else row.get("seed")
        if not isinstance(row.get("text"), str) or (has_sources and not isinstance(key, str)):
            needed = "`source` and `text`" if has_sources else "`text`"
            raise ValueError(f"{place}: each row needs {needed} as strings.")
        texts[key].append(row["text"])
    if not has_sources:
        return list(texts.values())
    missing = [record.source for record in records if record.source not in texts]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(records)} sources have no text; the first is {missing[0]!r}."
        )
    if len(texts) > len(records):
        logger.info("%d sources of the file are not in the data.", len(texts) - len(records))
    columns = [texts[record.source] for record in records]
    return [list(column) for column in zip(*columns, strict=False)]
