"""``ldm-text select_texts``: of several texts for a source, keep the one with the right slots."""

import json
import logging
from pathlib import Path

from ldm_text.data.records import read_records
from ldm_text.evaluation.references import read_option
from ldm_text.evaluation.slots import SlotChecker
from ldm_text.whole_lines import WholeLinesFile, check_output_file

logger = logging.getLogger(__name__)


def select_texts(
    texts: tuple[Path, ...],
    output: Path,
    max_slot_errors: int = 0,
    max_paraphrase_errors: int | None = None,
    training_data: str | None = None,
    rejected: Path | None = None,
    text_field: str = "target",
    source_field: str = "source",
) -> None:
    """Keep for each source its first text with the fewest faults, if these are few enough.

    So a teacher of a distillation may write several texts for a source, the likeliest first, and
    only what says the right things is learned.

    Args:
        texts: Files of ``ldm-text generate``; texts of an earlier file are preferred.
        output: JSON Lines file to write, with ``source`` and ``text``.
        max_slot_errors: Leave out texts with more wrong slots than this.
        max_paraphrase_errors: Leave out texts that omit or contradict more slots than this of those
            that texts paraphrase (price, rating, families); ``None`` does not look at them.
        training_data: Data of any kind that training takes; where no generated text is right, one
            of theirs may take its place.
        rejected: JSON Lines file to write, with the ``source`` of which no text is kept: prompts
            for another try of the teacher.
        text_field: Field of the text in the training data.
        source_field: Field of the source in the training data.

    Raises:
        ValueError: If a file cannot be read, or nothing is left.
    """
    check_output_file("--output", output)
    if rejected is not None:
        check_output_file("--rejected", rejected)
    records = [
        record
        for path in texts
        for record in read_records(path, text_field="text", source_field="source")
    ]
    if training_data is not None:
        fields = {"text_field": text_field, "source_field": source_field}
        wanted = {record.source for record in records}
        human = read_option("--training_data", training_data, **fields)
        records += [record for record in human if record.source in wanted]
    checker = SlotChecker(record.source or "" for record in records)
    sources = dict.fromkeys(record.source or "" for record in records)
    best: dict[str, tuple[int, str]] = {}
    for record in records:
        source = record.source or ""
        num_errors = checker.num_wrong_slots(source, record.text)
        num_others = 0
        if max_paraphrase_errors is not None:
            others = checker.paraphrase_errors(source, record.text)
            num_others = sum(map(len, others.values()))
        if num_errors > max_slot_errors or num_others > (max_paraphrase_errors or 0):
            continue
        num_faults = num_errors + num_others
        if source not in best or num_faults < best[source][0]:
            best[source] = (num_faults, record.text)
    lines = [
        json.dumps({"source": source, "text": best[source][1]}, ensure_ascii=False)
        for source in sources
        if source in best
    ]
    if not lines:
        bounds = f"{max_slot_errors} wrong slots"
        if max_paraphrase_errors is not None:
            bounds += f" and {max_paraphrase_errors} that are omitted or contradicted"
        raise ValueError(
            f"`--max_slot_errors`: none of {len(sources)} sources has a text with at most {bounds}."
        )
    with WholeLinesFile(output) as file:
        file.write_lines(lines)
    if rejected is not None:
        again = [{"source": source} for source in sources if source not in best]
        with WholeLinesFile(rejected) as file:
            file.write_lines([json.dumps(line, ensure_ascii=False) for line in again])
    logger.info("Kept a text for %d of %d sources.", len(lines), len(sources))
