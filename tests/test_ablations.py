"""The rows of the ablation table are whole, and its runner shares, scales and averages."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
        yield


@pytest.fixture
def rows():
    from ablation_rows import read_rows

    return read_rows(ROOT / "configs" / "ablations" / "rows.yaml")


@pytest.fixture
def trainings(rows, tmp_path):
    from ablation_rows import STAGES, training_of

    def make(name, data="e2e", budget=1.0, folder=tmp_path / "e2e" / "seed_3"):
        common = {"data": data, "seed": 3, "budget": budget, "options": ("--x=1",)}
        found = [training_of(rows, rows[name], stage, folder, **common) for stage in STAGES]
        return [training for training in found if training is not None]

    return make


@pytest.mark.parametrize("data", ["e2e", "tinystories"])
@pytest.mark.parametrize("budget", [1.0, 0.25, 0.01])
def test_each_row_has_its_files_and_intervals_that_divide_its_steps(rows, trainings, data, budget):
    for name, row in rows.items():
        if data not in row.data:
            continue
        for training in trainings(name, data, budget):
            settings = training.settings()["trainer"]
            checkpoints = [
                one for one in settings["callbacks"] if "Checkpoint" in one["class_path"]
            ]
            every = checkpoints[0]["init_args"]["every_n_train_steps"]
            assert settings["max_steps"] % every == 0
            assert settings["max_steps"] == settings["val_check_interval"]


def test_all_overlays_are_rows(rows):
    used = {
        name for row in rows.values() for change in row.stages.values() for name in change.overlays
    }
    overlays = (ROOT / "configs" / "ablations").glob("*/*.yaml")
    assert {str(path.relative_to(ROOT)) for path in overlays} <= used


def test_rows_share_the_trainings_that_they_do_not_change(trainings):
    base, shift = trainings("base"), trainings("noise_shift_9")
    assert shift[0] == base[0]
    assert shift[1].before == base[0]
    assert shift[1].digest() != base[1].digest()
    assert trainings("euler_stochastic") == base
    width = trainings("latent_dim_32")
    assert width[0].digest() != base[0].digest()
    assert width[1].before == width[0]
    adapted = trainings("decoder_adaptation")
    assert adapted[:2] == base
    path = f"--model.init_args.pretrained.init_args.path={base[1].checkpoint}"
    assert path in adapted[2].arguments()


def test_an_autoencoder_reaches_stage_two_by_its_path(trainings):
    first, second = trainings("tokens_per_latent_1")
    arguments = second.arguments()
    assert f"--model.init_args.autoencoder.init_args.path={first.checkpoint}" in arguments
    assert "--data.init_args.tokens_per_latent=1" in arguments
    assert "--x=1" in arguments


def test_a_training_has_one_name_wherever_it_is_kept(trainings):
    """Results are added to one file by several machines, which must not measure a row again."""
    here, there = (
        trainings("decoder_adaptation", folder=folder)
        for folder in (Path("logs/e2e/seed_3"), Path("/elsewhere/e2e/seed_3"))
    )
    assert [each.folder for each in here] != [each.folder for each in there]
    assert [each.digest() for each in here] == [each.digest() for each in there]


def test_the_budget_scales_the_steps(trainings):
    first, second = trainings("base", budget=0.25)
    assert first.settings()["trainer"]["max_steps"] == 350
    assert second.settings()["trainer"]["max_steps"] == 375
    assert second.settings()["seed_everything"] == 3


def test_a_callback_of_a_row_is_changed_in_place(trainings):
    callbacks = trainings("ema_0.99")[1].settings()["trainer"]["callbacks"]
    averages = [one for one in callbacks if one["class_path"].endswith("EMAWithWarmup")]
    assert averages == [{"class_path": "denoiser.EMAWithWarmup", "init_args": {"decay": 0.99}}]


def test_a_row_upon_none_is_refused(tmp_path):
    from ablation_rows import read_rows

    file = tmp_path / "rows.yaml"
    file.write_text(yaml.safe_dump([{"name": "a", "factor": "b", "upon": "nothing"}]))
    with pytest.raises(ValueError, match="a stands upon nothing, which is no row"):
        read_rows(file)


def test_the_table_has_means_and_standard_errors(rows):
    from ablation_table import markdown_table

    lines = [
        {
            "row": "noise_shift_9",
            "data": "e2e",
            "seed": seed,
            "budget": 1.0,
            "texts": [{"num_inference_steps": 16, "bleu": bleu, "slot_error_rate": 0.5}],
            "autoencoder": {"val/token_accuracy": 0.99},
            "training_minutes": 10.0,
            "parameters": 2.5,
            "training_flops": 4.0,
        }
        for seed, bleu in ((0, 39.0), (1, 30.0), (1, 41.0))  # a later line replaces an earlier one
    ]
    lines.append(lines[0] | {"budget": 0.25})
    base = {"num_inference_steps": 16, "bleu": 37.0, "slot_error_rate": 0.5}
    lines += [lines[0] | {"row": "base", "seed": 0, "texts": [base]}]
    table = markdown_table(list(rows.values()), lines, 1.0).splitlines()
    assert len(table) == 4
    assert table[0].startswith(
        "| factor (base) | setting | BLEU, 16 steps | BLEU, 16 steps, against base | slot errors"
    )
    assert table[2].startswith("| base |  | 37 |  | 0.5 |")
    # seed 1 has no base to be compared with
    assert table[3].startswith("| noise shift (4) | 9 | 40 \u00b1 1 | 2 | 0.5 |")
    assert table[3].endswith("| 2 |")


def test_students_stand_in_a_table_of_their_own_steps(rows):
    from ablation_table import markdown_table

    def line(row, *steps):
        texts = [{"num_inference_steps": n, "bleu": 20.0, "slot_error_rate": 0.5} for n in steps]
        keys = {"row": row, "data": "e2e", "seed": 0, "budget": 1.0, "texts": texts}
        return keys | {"autoencoder": {}, "parameters": 2.5, "training_flops": 4.0}

    lines = [line("base", 16, 4), line("consistency_student", 4, 2, 1)]
    first, second = markdown_table(list(rows.values()), lines, 1.0).split("\n\n")
    assert [table.count("BLEU, 16 steps |") for table in (first, second)] == [1, 0]
    assert [table.count("BLEU, 1 steps |") for table in (first, second)] == [0, 1]
    assert "BLEU, 4 steps, against base" in second
    alone = markdown_table(list(rows.values()), lines[1:], 1.0)
    assert alone.count("BLEU, 1 steps |") == 1
    assert alone.startswith("| factor (base)")


def test_a_difference_is_of_the_same_seeds_or_of_the_means():
    from ablation_table import against_base

    base = {0: 20.0, 1: 30.0, 2: 10.0}
    paired = against_base({0: 21.0, 1: 33.0}, base, is_paired=True)
    assert paired is not None
    assert (paired.mean, paired.standard_error) == (2.0, pytest.approx(1.0))
    assert against_base({5: 21.0}, base, is_paired=True) is None
    unpaired = against_base({0: 29.0, 1: 31.0}, base, is_paired=False)
    assert unpaired is not None
    assert unpaired.mean == 10.0
    assert unpaired.standard_error == pytest.approx((1.0 + 100 / 3) ** 0.5)
    one = against_base({7: 29.0}, base, is_paired=False)
    assert one is not None
    assert (one.mean, one.standard_error) == (9.0, None)
    assert against_base({7: 29.0}, {}, is_paired=False) is None


def test_the_table_has_a_perplexity_where_one_was_measured(rows):
    from ablation_table import markdown_table

    def line(row, seed, **figures):
        names = ("energy_distance", "mauve", "unigram_entropy", "distinct_2", "length_error")
        texts = {"num_inference_steps": 8} | dict.fromkeys(names, 0.5) | figures
        costs = {"parameters": 2.5, "training_flops": 4.0}
        keys = {"row": row, "data": "tinystories", "seed": seed, "budget": 1.0, "autoencoder": {}}
        return keys | costs | {"texts": [texts]}

    with_scorer = line("base", 0, generative_perplexity=900.0)
    table = markdown_table(list(rows.values()), [with_scorer, line("kl", 0)], 1.0).splitlines()
    place = table[0].split("|").index(" perplexity, 8 steps ")
    assert [row.split("|")[place].strip() for row in table[2:]] == ["900", ""]
    without = markdown_table(list(rows.values()), [line("base", 0), line("kl", 0)], 1.0)
    assert "perplexity" not in without


def test_a_row_with_an_autoencoder_has_its_figures_and_is_compared_with_the_mean_of_the_base(rows):
    from ablation_table import markdown_table

    def line(row, seed=0, bleu=20.0):
        texts = [{"num_inference_steps": 16, "bleu": bleu, "slot_error_rate": 0.5}]
        keys = {"row": row, "data": "e2e", "seed": seed, "budget": 1.0, "texts": texts}
        costs = {"parameters": 2.5, "training_flops": 4.0}
        return keys | costs | {"autoencoder": {"val/token_accuracy": 0.99}}

    lines = [line("base"), line("kl"), line("noise_shift_1"), line("grid_1")]
    lines.append(line("base", seed=1, bleu=30.0))
    table = markdown_table(list(rows.values()), lines, 1.0).splitlines()
    place = table[0].split("|").index(" tokens ")
    shown = {row.split("|")[1].strip(): row.split("|")[place].strip() for row in table[2:]}
    assert shown == {
        "base": "0.99",
        "noise shift (4)": "",
        "KL (none)": "0.99",
        "noise shift of the time grid (4)": "",
    }
    place = table[0].split("|").index(" BLEU, 16 steps, against base ")
    against = {row.split("|")[1].strip(): row.split("|")[place].strip() for row in table[3:]}
    assert against == {
        "noise shift (4)": "0",  # from seed 0 of the base
        "KL (none)": "-5",  # from the mean of both
        "noise shift of the time grid (4)": "0",
    }


def test_the_plot_reaches_over_the_usual_and_marks_what_is_beyond():
    from ablation_plot import axis_limit

    assert axis_limit([1.0, -2.0, 0.5, 1.5, 1.0]) == 2.0  # nothing is far off
    assert axis_limit([1.0, -2.0, 0.5, 1.5, 1.0, 90.0]) == 6.0
    assert axis_limit([0.0, 0.0]) == 1.0


def test_the_plot_is_of_rows_beside_a_base(rows, tmp_path):
    from ablation_plot import plot_differences

    def line(row, seed, bleu):
        texts = [{"num_inference_steps": 16, "bleu": bleu, "slot_error_rate": 0.5}]
        keys = {"row": row, "data": "e2e", "seed": seed, "budget": 1.0, "texts": texts}
        return keys | {"autoencoder": {}, "parameters": 2.5, "training_flops": 4.0}

    output = tmp_path / "differences.png"
    with pytest.raises(ValueError, match="no result of a row beside one of the base"):
        plot_differences(list(rows.values()), [line("kl", 0, 3.0)], 1.0, output)
    lines = [line("base", 0, 20.0), line("kl", 0, 22.0), line("muon", 0, 25.0)]
    plot_differences(list(rows.values()), lines, 1.0, output)
    assert output.read_bytes().startswith(b"\x89PNG")
