import json

import pytest

from ldm_text.evaluation.select import select_texts

MILL, AROMI = "name[The Mill], food[French]", "name[Aromi], food[Thai]"


@pytest.fixture
def write(tmp_path):
    def run(name, rows):
        path = tmp_path / name
        lines = [json.dumps({"source": source, "text": text}) + "\n" for source, text in rows]
        path.write_text("".join(lines))
        return path

    return run


def read(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["source"]: row["text"] for row in rows}


def test_the_first_text_with_the_fewest_errors_is_kept(write, tmp_path):
    first = write("a.jsonl", [(MILL, "The Mill is Thai."), (AROMI, "Aromi is Thai.")])
    second = write(
        "b.jsonl",
        [(MILL, "The Mill is nice."), (MILL, "The Mill: French."), (AROMI, "Thai is Aromi.")],
    )
    select_texts((first, second), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == {MILL: "The Mill: French.", AROMI: "Aromi is Thai."}


def test_training_texts_stand_in_for_wrong_ones_only(write, tmp_path):
    texts = write("a.jsonl", [(MILL, "The Mill is nice."), (AROMI, "Aromi is Thai.")])
    human = tmp_path / "human.jsonl"
    rows = [(MILL, "Try French food at The Mill!"), (AROMI, "Thai food: Aromi."), ("x[y]", "z")]
    lines = [json.dumps({"source": source, "target": text}) + "\n" for source, text in rows]
    human.write_text("".join(lines))
    select_texts((texts,), tmp_path / "out.jsonl", training_data=str(human))
    expected = {MILL: "Try French food at The Mill!", AROMI: "Aromi is Thai."}
    assert read(tmp_path / "out.jsonl") == expected


def test_sources_without_a_right_text_are_left_out(write, tmp_path):
    texts = write("a.jsonl", [(MILL, "The Mill is nice."), (AROMI, "Aromi is Thai.")])
    rejected = tmp_path / "rejected.jsonl"
    select_texts((texts,), tmp_path / "out.jsonl", rejected=rejected)
    assert set(read(tmp_path / "out.jsonl")) == {AROMI}
    assert json.loads(rejected.read_text()) == {"source": MILL}
    select_texts((texts,), tmp_path / "out.jsonl", max_slot_errors=1)
    assert set(read(tmp_path / "out.jsonl")) == {MILL, AROMI}


def test_a_value_in_place_of_another_is_one_wrong_slot(write, tmp_path):
    """It was counted twice, as missing and as invented."""
    rows = [(MILL, "Aromi is Thai."), (MILL, "The Mill is Thai."), (AROMI, "Aromi is Thai.")]
    texts = write("a.jsonl", rows)
    select_texts((texts,), tmp_path / "out.jsonl", max_slot_errors=1)
    assert read(tmp_path / "out.jsonl") == {MILL: "The Mill is Thai.", AROMI: "Aromi is Thai."}


def test_texts_that_leave_slots_out_are_left_out_where_that_is_asked(write, tmp_path):
    mill, aromi = f"{MILL}, priceRange[cheap]", f"{AROMI}, priceRange[cheap], familyFriendly[no]"
    rows = [
        (mill, "The Mill: French."),
        (mill, "The Mill: French, expensive."),
        (mill, "The Mill: French, cheap."),
        (aromi, "Aromi is Thai and cheap."),
    ]
    texts = write("a.jsonl", rows)
    select_texts((texts,), tmp_path / "out.jsonl")
    expected = {mill: "The Mill: French.", aromi: "Aromi is Thai and cheap."}
    assert read(tmp_path / "out.jsonl") == expected
    select_texts((texts,), tmp_path / "out.jsonl", max_paraphrase_errors=1)
    assert read(tmp_path / "out.jsonl") == expected | {mill: "The Mill: French, cheap."}
    select_texts((texts,), tmp_path / "out.jsonl", max_paraphrase_errors=0)
    assert read(tmp_path / "out.jsonl") == {mill: "The Mill: French, cheap."}
    with pytest.raises(ValueError, match=r"at most 0 wrong slots and 0 that are omitted"):
        select_texts((write("b.jsonl", rows[3:]),), tmp_path / "no.jsonl", max_paraphrase_errors=0)


def test_a_selection_of_nothing_is_refused(write, tmp_path):
    texts = write("a.jsonl", [(MILL, "Aromi"), (AROMI, "The Mill")])
    with pytest.raises(ValueError, match=r"`--max_slot_errors`: none of 2 sources"):
        select_texts((texts,), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
