"""Rows of the ablation table: which trainings a row stands upon, and their command lines."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
STAGES = ("autoencoder", "denoiser", "after")
# They take time and write what nobody looks at in a table.
LEFT_OUT = ("LearningRateMonitor", "LogTexts", "TQDMProgressBar")


@dataclass(frozen=True)
class StageChange:
    """What one training of a row differs in; see configs/ablations/rows.yaml."""

    overlays: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: str = "model.init_args.autoencoder.init_args.path"  # names the training before


@dataclass(frozen=True)
class Row:
    """One row of the table; see configs/ablations/rows.yaml."""

    name: str
    factor: str
    setting: str = ""
    upon: str = "base"
    stages: dict[str, StageChange] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ("e2e", "tinystories")


def read_rows(path: Path) -> dict[str, Row]:
    """Read rows by name.

    Raises:
        ValueError: If two have one name, or one stands upon a row that is not there.
    """
    rows: dict[str, Row] = {}
    for entry in yaml.safe_load(path.read_text()):
        stages = {
            stage: StageChange(**entry.pop(stage) or {}) for stage in STAGES if stage in entry
        }
        row = Row(**entry | {"setting": str(entry.get("setting", ""))}, stages=stages)
        if row.name in rows:
            raise ValueError(f"`{path}` has two rows of the name {row.name}.")
        rows[row.name] = row
    for row in rows.values():
        if row.upon not in rows:
            raise ValueError(f"`{path}`: {row.name} stands upon {row.upon}, which is no row.")
    return rows


@dataclass(frozen=True)
class Training:
    """One training of a row and a seed.

    Attributes:
        stage: Which of ``STAGES``.
        change: What it differs in.
        before: The training whose checkpoint it builds on.
        folder: Where it keeps its files.
        data: Data set.
        seed: Seed of everything.
        budget: Factor of the steps.
        options: Further options of ``ldm-text fit``.
    """

    stage: str
    change: StageChange
    before: "Training | None"
    folder: Path
    data: str
    seed: int
    budget: float
    options: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """Last checkpoint of the training."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def files(self) -> list[Path]:
        """Configuration files, the base first."""
        base = []
        if self.stage != "after":
            base = [f"configs/{self.stage}/{self.data}{part}.yaml" for part in ("", "_small")]
        names = [*base, *self.change.overlays]
        return [ROOT / name.format(data=self.data) for name in names]

    def settings(self) -> dict[str, Any]:
        """Write the trainer's options: scaled steps, few callbacks, and figures as CSV."""
        trainers = [yaml.safe_load(file.read_text()).get("trainer", {}) for file in self.files]
        max_steps = [trainer["max_steps"] for trainer in trainers if "max_steps" in trainer][-1]
        max_steps = max(2, round(self.budget * max_steps))
        # Checkpoints only for a run that is broken off; their interval divides the steps.
        num_parts = next(parts for parts in (4, 3, 2, 1) if max_steps % parts == 0)
        changes = dict(self.change.callbacks)
        changes["ModelCheckpoint"] = {"every_n_train_steps": max_steps // num_parts}
        callbacks = []
        for callback in [each["callbacks"] for each in trainers if "callbacks" in each][-1]:
            name = callback["class_path"].split(".")[-1]
            if name not in LEFT_OUT:
                init_args = callback.get("init_args", {}) | changes.pop(name, {})
                callbacks.append({"class_path": callback["class_path"], "init_args": init_args})
        if changes:
            raise ValueError(f"{self.folder}: there are no callbacks {', '.join(changes)}.")
        logger = {"save_dir": str(self.folder.parent), "name": "", "version": self.folder.name}
        trainer = {
            "max_steps": max_steps,
            "val_check_interval": max_steps,
            "enable_progress_bar": False,
            "callbacks": callbacks,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
        }
        return {"seed_everything": self.seed, "trainer": trainer}

    def arguments(self) -> list[str]:
        """Write the command line, which ends with the file of ``settings``."""
        options = dict(self.change.options)
        if self.before is not None:
            options[self.change.path] = str(self.before.checkpoint)
        files = [part for file in self.files for part in ("-c", str(file))]
        return [*files, *(f"--{name}={value}" for name, value in options.items()), *self.options]

    def digest(self) -> str:
        """Name all that decides the training, wherever the checkout and the folder are."""
        texts = [file.read_text() for file in self.files]
        parts = [self.arguments(), self.settings(), texts]
        before = "" if self.before is None else self.before.digest()
        content = f"{before} {json.dumps(parts)}"
        for place in (self.folder.parents[1], ROOT):
            content = content.replace(f"{place}/", "")
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def run(self) -> None:
        """Train, after the trainings before; a finished one stays, a broken one goes on.

        Raises:
            CalledProcessError: If the command fails; its output is in ``output.txt``.
        """
        if self.before is not None:
            self.before.run()
        finished, started = self.folder / "finished", self.folder / "started"
        digest = self.digest()
        if finished.exists() and finished.read_text() == digest:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        goes_on = started.exists() and started.read_text() == digest
        if not goes_on:
            for file in self.checkpoint.parent.glob("*.ckpt"):
                file.unlink()
        started.write_text(digest)
        settings = self.folder / "settings.yaml"
        settings.write_text(yaml.safe_dump(self.settings()))
        script = Path(sys.executable).with_name("ldm-text")
        command = [sys.executable, str(script), "fit", *self.arguments(), "-c", str(settings)]
        command += ["--ckpt_path", "last"] if goes_on else []
        with (self.folder / "output.txt").open("w") as output:
            subprocess.run(command, check=True, cwd=ROOT, stdout=output, stderr=output)
        finished.write_text(digest)


def training_of(
    rows: dict[str, Row], row: Row, stage: str, folder: Path, **common: Any
) -> Training | None:
    """Find the training of a row's stage: its own, or that of the row that it stands upon.

    Args:
        rows: All rows.
        row: The row.
        stage: One of ``STAGES``.
        folder: Where rows keep their files.
        common: Data set, seed, budget and options.

    Returns:
        The training; ``None`` where a row has none of stage ``after``.
    """
    index = STAGES.index(stage)
    is_own = any(part in row.stages for part in STAGES[: index + 1]) or row.name == "base"
    if not is_own:
        return training_of(rows, rows[row.upon], stage, folder, **common)
    change = row.stages.get(stage)
    if change is None and stage == "after":
        return None
    before = training_of(rows, row, STAGES[index - 1], folder, **common) if index else None
    return Training(stage, change or StageChange(), before, folder / row.name / stage, **common)
