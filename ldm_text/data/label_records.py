"""``ldm-text label_records``: join data sets into one, each record with the label of its own."""

import logging
from itertools import islice
from pathlib import Path

from ldm_text.batch.columns import to_json
from ldm_text.data.readers import read_rows
from ldm_text.whole_lines import WholeLinesFile, check_output_file

logger = logging.getLogger(__name__)


def label_records(
    data: dict[str, str],
    output: Path,
    label_field: str = "task",
    max_rows: int | None = None,
    split: str = "train",
) -> None:
    """Join data sets into one, whose records tell which of them they are from.

    So one model learns several tasks: `LabelField` reads the label, which is the first line of the
    source. Each data set is spread evenly over the file, so that the first records are of all.

    Args:
        data: A label and data of any kind that training takes for each part, such as
            `{simplify: a.jsonl, split: b.jsonl}`.
        output: JSON Lines file to write: all fields of the records, and the label.
        label_field: Field of the label.
        max_rows: Take only so many records of each part, the first ones.
        split: Split to read from a dataset folder or a hub dataset.

    Raises:
        FileNotFoundError: If data do not exist.
        ValueError: If there are fewer than two parts, data cannot be read, or a record has a field
            of that name already.
    """
    check_output_file("--output", output)
    if len(data) < 2:
        raise ValueError(f"`--data` must name at least two parts, got {list(data)}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`--max_rows` must be at least 1, got {max_rows}.")
    lines: list[tuple[float, str]] = []
    for label, path in data.items():
        own = []
        for place, row in islice(read_rows(path, split=split), max_rows):
            if label_field in row:
                raise ValueError(
                    f"{place}: there is a field `{label_field}` already; choose another "
                    "`--label_field`."
                )
            own.append(to_json({**row, label_field: label}))
        lines += [((index + 0.5) / len(own), line) for index, line in enumerate(own)]
        logger.info("%s: %d records of %s.", label, len(own), path)
    lines.sort(key=lambda entry: entry[0])
    with WholeLinesFile(output) as file:
        file.write_lines([line for _, line in lines])
