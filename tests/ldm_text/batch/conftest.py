import json

import pytest


@pytest.fixture
def write_rows(tmp_path):
    """Write a file of prompts of different lengths."""

    def write(num_rows, name="prompts.jsonl"):
        path = tmp_path / name
        sources = (f"{number} {'x' * (number * 7 % 30)}" for number in range(num_rows))
        path.write_text("".join(json.dumps({"source": source}) + "\n" for source in sources))
        return path

    return write


@pytest.fixture
def prompts(write_rows):
    """50 rows, which are four chunks of 16 slots."""
    return write_rows(50)
