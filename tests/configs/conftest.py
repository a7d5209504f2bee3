"""How each configuration is named on the command line: alone, or as an overlay upon others."""

from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
UPON_SMALL = ("e2e_small_distilled", "e2e_small_fields", "e2e_small_muon")
UPON_SMALL += ("tinystories_small_dropout",)
UPON_FIELDS = ("e2e_small_complete",)
OVERLAYS = ("tiny", "e2e_distilled", "e2e_small", *UPON_SMALL, *UPON_FIELDS)
OVERLAYS += ("tinystories_small", "e2e_infill", "e2e_teacher", "paradetox_autoregressive")
REWRITING = ("bible_kjv_bbe", "onestopenglish", "rewriting", "wikisplit")  # upon ParaDetox


def distillation_bases(path):
    """What a student's overlay stands upon: a student of the compared model on that of its data."""
    if path.stem.endswith("decoder_small"):
        return ["e2e_decoder.yaml"]
    if path.stem == "tinystories_masked_sdtt":
        return ["e2e_masked_sdtt.yaml"]
    data = path.stem.split("_")[0]
    is_first = path.stem in (f"{data}_small", "e2e_consistency", "e2e_flow_map", "tiny")
    return ["e2e.yaml"] if is_first else ["e2e.yaml", f"{data}_small.yaml"]


def options_of(path):
    """Options that name a configuration; an overlay stands upon another one."""
    if path.parent.parent.name == "ablations":
        stage = CONFIGS / path.parent.name
        return ["-c", stage / "e2e.yaml", "-c", stage / "e2e_small.yaml", "-c", path]
    is_student = path.stem.endswith(
        ("_small", "_fields", "_dropout", "_consistency", "_flow_map", "tiny")
    )
    is_student = is_student or path.stem == "tinystories_masked_sdtt"
    if path.parent.name == "distillation" and is_student:
        files = [path.with_name(name) for name in distillation_bases(path)]
        return [option for file in (*files, path) for option in ("-c", file)]
    if path.parent.name == "demonstrations":  # the tasks stand upon the first one
        first = path.with_name(f"arithmetic_{path.stem.rsplit('_', 1)[1]}.yaml")
        return ["-c", first] if path == first else ["-c", first, "-c", path]
    if path.stem in REWRITING:
        return ["-c", path.with_name("paradetox.yaml"), "-c", path]
    if path.stem not in OVERLAYS:
        return ["-c", path]
    if path.stem in UPON_SMALL + UPON_FIELDS:
        data = path.stem.split("_")[0]
        below = [f"{data}.yaml", f"{data}_small.yaml"]
        below += ["e2e_small_fields.yaml"] if path.stem in UPON_FIELDS else []
        files = [path.with_name(name) for name in (*below, path.name)]
        return [option for file in files for option in ("-c", file)]
    name = "tinystories.yaml" if path.stem.startswith("tinystories") else "e2e.yaml"
    if path.parent.name == "baselines":
        name = "e2e_autoregressive.yaml"
    return ["-c", path.with_name(name), "-c", path]


@pytest.fixture
def config_options():
    return options_of


@pytest.fixture
def parse(main, config_options):
    """Return a configuration as the command line reads it, all defaults filled in."""

    def run(path):
        code, printed, error = main("fit", *config_options(path), "--print_config")
        assert (code, error) == (0, "")
        return yaml.safe_load(printed)

    return run
