"""Parsers of the command line: errors in one line, options spelt out."""

import os
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from ldm_text.one_line import one_line

MAX_CONFIG_CHARACTERS = 1 << 20
MAX_CONFIG_DEPTH = 100


class OneLineParser(ArgumentParser):
    """Parser without abbreviated options, whose errors take one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the content of a configuration file, unless it would bring the parser down."""
        try:
            check_nesting(content)
        except ValueError as error:
            self.error(f"A configuration file cannot be read: {error}", error)
        return super().parse_string(content, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and leave with exit code 2."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"ldm-text: error: {one_line(message)} See {command} --help.\n")
        self.exit(2)


def check_nesting(content: str) -> None:
    """Refuse YAML that is too long, or so deep that the C parser overruns the stack of the process.

    Raises:
        ValueError: If it is, or if it is no YAML.
    """
    if len(content) > MAX_CONFIG_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CONFIG_CHARACTERS} characters.")
    depth = 0
    try:
        for event in yaml.parse(content, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_CONFIG_DEPTH:
                raise ValueError(f"it is nested more than {MAX_CONFIG_DEPTH} deep.")
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from error


class CommandParser(OneLineParser):
    """Parser of a typed function: a switch may stand without a value."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parse; ``--switch`` alone means true."""
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        return super().parse_args(*args, **kwargs)
