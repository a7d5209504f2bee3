"""Parsers of the command line: errors in one line, options spelt out."""

import os
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ldm_text.one_line import one_line


class OneLineParser(ArgumentParser):
    """Parser without abbreviated options, whose errors take one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and leave with exit code 2."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"ldm-text: error: {one_line(message)} See {command} --help.\n")
        self.exit(2)


class CommandParser(OneLineParser):
    """Parser of a typed function: a switch may stand without a value."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parse; ``--switch`` alone means true."""
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        return super().parse_args(*args, **kwargs)
