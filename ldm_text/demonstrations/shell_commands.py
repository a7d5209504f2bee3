"""Shell commands from descriptions, as in tldr-pages: ``{{path}}`` is a place to fill in."""

import re
from collections.abc import Sequence

PLACEHOLDER = re.compile(r"\{\{.*?\}\}")


class ShellCommands:
    """A command that does what a description says, compared with those of the data.

    A command is not run. One that is right but written in another way counts as wrong.
    """

    group_field = "platform"

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Compare a command.

        Returns:
            ``correct``: it is one of the targets, but for white space; ``but_for_placeholders``:
            the same, whatever stands in the placeholders; ``program``: its first word is right.
        """
        words = text.split()
        targets_words = [target.split() for target in targets]
        shape = PLACEHOLDER.sub("{{}}", " ".join(words))
        shapes = [PLACEHOLDER.sub("{{}}", " ".join(target)) for target in targets_words]
        return {
            "correct": words in targets_words,
            "but_for_placeholders": shape in shapes,
            "program": words[:1] in [target[:1] for target in targets_words],
        }
