import json

import pytest

from ldm_text.meaning_representations import join_slots, parse_slots, recombine_slots

SOURCES = [
    "name[Aromi], food[Thai], area[riverside]",
    "name[Zizzi], food[French]",
    "name[The Mill], area[city centre]",
]


@pytest.fixture
def write(tmp_path):
    def run(name, sources):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"source": source}) + "\n" for source in sources))
        return path

    return run


def read(path):
    return [json.loads(line)["source"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("source", SOURCES)
def test_slots_come_apart_and_together(source):
    assert join_slots(parse_slots(source)) == source


def test_new_sources_recombine_slots_of_the_data(write, tmp_path):
    data, output = write("train.jsonl", [*SOURCES, SOURCES[0]]), tmp_path / "new.jsonl"
    recombine_slots(data, output, num_rows=15)
    rows = read(output)
    assert rows[:3] == SOURCES
    assert len(set(rows)) == 15
    known = [parse_slots(source) for source in SOURCES]
    for row in map(parse_slots, rows):
        assert list(row) in [list(source) for source in known]
        assert all(any(source.get(name) == row[name] for source in known) for name in row)
    recombine_slots(data, tmp_path / "again.jsonl", num_rows=15)
    assert read(tmp_path / "again.jsonl") == rows


def test_excluded_sources_are_not_made(write, tmp_path):
    data, output = write("train.jsonl", SOURCES[1:]), tmp_path / "new.jsonl"
    excluded = "name[The Mill], food[French]"
    recombine_slots(data, output, num_rows=3)
    assert excluded in read(output) or "name[Zizzi], area[city centre]" in read(output)
    recombine_slots(data, output, num_rows=3, exclude=write("validation.jsonl", [excluded]))
    assert read(output) == [*SOURCES[1:], "name[Zizzi], area[city centre]"]


@pytest.mark.parametrize(
    ("sources", "num_rows", "message"),
    [
        (SOURCES, 100, "only 24 different sources were found in 10000 draws, 100 were asked for"),
        (["a pub"], 3, "has no slots such as"),
        (SOURCES, 0, "`--num_rows` must be at least 1, got 0"),
        (SOURCES, -1, "`--num_rows` must be at least 1, got -1"),
    ],
)
def test_what_cannot_be_done_is_refused(write, tmp_path, sources, num_rows, message):
    with pytest.raises(ValueError, match=message):
        recombine_slots(write("train.jsonl", sources), tmp_path / "new.jsonl", num_rows=num_rows)
    assert not (tmp_path / "new.jsonl").exists()
