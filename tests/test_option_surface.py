"""The options that users write in YAML, all defaults filled in, are those of a stored copy.

A change of a name or a default is seen in the diff of that copy. After a wanted change:
``UPDATE_OPTION_SURFACE=1 .venv/bin/pytest tests/test_option_surface.py``.
"""

import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).with_name("option_surface")
OVERLAYS = (
    "_complete",
    "_consistency",
    "_distilled",
    "_fields",
    "_flow_map",
    "_infill",
    "_muon",
    "_small",
    "_teacher",
)
NAMES = [
    f"{folder}/{path.stem}"
    for folder in ("autoencoder", "denoiser", "baselines", "distillation")
    for path in sorted((ROOT / "configs" / folder).glob("e2e*.yaml"))
    if not path.stem.endswith(OVERLAYS)
]


@pytest.mark.parametrize("name", NAMES)
def test_option_surface_is_the_stored_one(main, monkeypatch, name):
    monkeypatch.setenv("LDM_TEXT_DATA", "data")
    code, printed, error = main("fit", "-c", ROOT / "configs" / f"{name}.yaml", "--print_config")
    assert (code, error) == (0, "")
    config = yaml.safe_load(printed)
    ours = {part: config[part] for part in ("model", "data")}
    ours["callbacks"] = [
        callback
        for callback in config["trainer"]["callbacks"]
        if not callback["class_path"].startswith("lightning.")
    ]
    stored = STORED / f"{name.replace('/', '_')}.yaml"
    if os.environ.get("UPDATE_OPTION_SURFACE"):
        stored.write_text(yaml.safe_dump(ours, sort_keys=True))
    assert ours == yaml.safe_load(stored.read_text())
