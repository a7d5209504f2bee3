"""Search for bytes that a reader neither takes nor refuses, guided by coverage.

    pip install atheris
    python tests/ldm_text/fuzz/coverage_guided.py TARGET [-max_total_time=SECONDS] [CORPUS]

TARGET is a name of ``targets.TARGETS``; what follows goes to libFuzzer. A finding ends the search
with a traceback and its bytes in a file; without one it ends when the time is up.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ldm_text", "autoencoder", "json", "zipfile"]):
    place = Path(__file__).with_name("targets.py")
    spec = importlib.util.spec_from_file_location("targets", place)
    targets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(targets)


def main() -> None:
    """Run libFuzzer on one target, in a folder that goes away."""
    target = targets.TARGETS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp())

    def one_input(data: bytes) -> None:
        target(data, folder)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
