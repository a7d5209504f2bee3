"""Run command lines one after the other in this process, as a process of ``torchrun``.

Usage: run_commands.py FILE, a JSON list of lists of arguments of ``ldm-text``.
"""

import json
import sys
import warnings
from pathlib import Path

from ldm_text import cli

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["ldm-text", *arguments]
        cli.main()
