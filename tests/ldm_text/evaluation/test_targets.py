import json
import re

import pytest

from ldm_text.evaluation.comparison_table import NO_SETTINGS, average, write_csv
from ldm_text.evaluation.measured_tables import Figure, read_measured_rows
from ldm_text.evaluation.targets import RowChoice, Target, difference, ratio, targets


def row(name, steps, **figures):
    averaged = average([{key: value[i] for key, value in figures.items()} for i in range(2)])
    settings = {"kind": "generator", "name": name, "num_inference_steps": steps, "seeds": [0, 1]}
    return NO_SETTINGS | settings | {"figures": averaged, "examples": []}


@pytest.fixture
def table(tmp_path):
    """Write a comparison as `compare` does: two settings of one model, and another model."""
    rows = [
        row("latent", 4, bleu=[60.0, 62.0], energy_distance=[0.05, 0.05]),
        row("latent", 32, bleu=[63.0, 63.0], energy_distance=[0.04, 0.04]),
        row("masked", 64, bleu=[50.0, 54.0], energy_distance=[0.08, 0.08]),
    ]
    write_csv(tmp_path / "compare.csv", rows)
    return tmp_path / "compare.csv"


@pytest.fixture
def times(tmp_path):
    rows = [
        {"generator": "latent", "num_inference_steps": 4, "guidance_scale": None, "sampling": {}}
        | {"batch_size": size, "length_tokens": None, "seconds": 0.5 * size, "parts": {"decode": 1}}
        for size in (1, 8)
    ]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"rows": rows}))
    return path


def make_target(table, **options):
    bound = {} if {"at_least", "at_most"} & options.keys() else {"at_least": 0.0}
    options = {"figure": "bleu", "row": RowChoice("latent", "4 steps")} | bound | options
    return Target("the target", table, **options)


def test_tables_are_read_as_they_were_written(table, times):
    first = read_measured_rows(table)[0]
    assert (first.generator, first.settings, first.batch_size) == ("latent", "4 steps", None)
    assert first.figures["bleu"] == Figure(61.0, pytest.approx(1.0))
    last = read_measured_rows(times)[1]
    assert (last.settings, last.batch_size) == ("4 steps", 8)
    assert last.figures["seconds"] == Figure(4.0)
    assert "parts" not in last.figures


def test_independent_errors_are_combined_to_first_order():
    one, other = Figure(6.0, 0.3), Figure(2.0, 0.4)
    assert difference(one, other) == Figure(4.0, pytest.approx(0.5))
    relative = ((0.3 / 6) ** 2 + (0.4 / 2) ** 2) ** 0.5
    assert ratio(one, other) == Figure(3.0, pytest.approx(3 * relative))
    assert difference(one, Figure(1.0)).standard_error is None
    with pytest.raises(ValueError, match="zero"):
        ratio(one, Figure(0.0))


def test_one_table_says_what_is_reached_and_what_is_missed(table, times, tmp_path):
    wanted = [
        make_target(table, against=RowChoice("masked"), measure="difference", at_least=9.0),
        make_target(table, against=RowChoice("masked"), measure="ratio", at_most=1.1),
        make_target(times, figure="seconds", row=RowChoice("latent", batch_size=8), at_most=4.0),
    ]
    assert targets(wanted, tmp_path / "targets.md") == 1
    lines = (tmp_path / "targets.md").read_text().splitlines()
    assert lines[2:] == [
        "| the target | bleu, difference | at least 9 | 9 \N{PLUS-MINUS SIGN} 2 | yes |",
        "| the target | bleu, ratio | at most 1.1 | 1.17 \N{PLUS-MINUS SIGN} 0.05 | no |",
        "| the target | seconds | at most 4 | 4 | yes |",
    ]


def test_all_reached_is_exit_code_0_and_stands_on_standard_output(table, capsys):
    assert targets([make_target(table, at_least=60.0, at_most=62.0)]) == 0
    assert "| at least 60, at most 62 | 61 \N{PLUS-MINUS SIGN} 1 | yes |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("figure", "bound", "expected"),
    [("bleu", {"at_least": -20.0}, 52.0 - 63.0), ("energy_distance", {"at_most": 1.0}, 0.04)],
)
def test_the_row_that_is_hardest_to_beat_stands_for_a_generator(table, figure, bound, expected):
    target = make_target(
        table,
        figure=figure,
        row=RowChoice("masked"),
        against=RowChoice("latent"),
        measure="difference",
        **bound,
    )
    assert target.found(read_measured_rows(table)).mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_least": None}, "needs `at_least` or `at_most`"),
        ({"measure": "ratio"}, "`against` names the other row"),
        ({"against": RowChoice("masked")}, "`measure` is value"),
        ({"row": RowChoice("latent")}, "must be one of '4 steps', '32 steps'"),
        ({"row": RowChoice("latent", "5 steps")}, "has no bleu of latent, 5 steps"),
        ({"row": RowChoice("latent", "4 steps", 8)}, "has no bleu of latent, 4 steps, batch 8"),
        ({"figure": "mauve"}, "has no mauve"),
    ],
)
def test_targets_that_cannot_be_told_are_refused(table, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        targets([make_target(table, **options)])


def test_no_targets_and_no_table_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        targets([])
    with pytest.raises(FileNotFoundError, match="no table"):
        targets([make_target(tmp_path / "none.csv")])
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name in ("a.json", "a.csv"):
        with pytest.raises(ValueError, match="no report of"):
            targets([make_target(tmp_path / name)])
