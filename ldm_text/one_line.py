"""Say in one line what a library says in many."""

import re

LONGEST = 500
# Lines of jsonargparse that frame the reasons, or give those of the alternative "nothing".
FRAME = re.compile(
    r"Does not validate against any|Subtypes: |Errors:|Given value type: |Given value: |"
    r"Expected a <class 'NoneType'>"
)
UNPICKLING = re.compile(r"Weights only load failed.*", re.DOTALL)
NOT_UNPICKLED = (
    "The file is damaged, or holds more than weights and plain values; it is not unpickled."
)
OTHER_SUBCLASS = re.compile(r"Import path .* does not correspond to a subclass")


def one_line(message: str) -> str:
    """Reduce an error message to its reasons, in one line.

    A message about the value of an option names the option, what was expected and what came.
    """
    if missing := re.search(r"arguments are required: (.*)", message):
        names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", missing[1])
        return f"`--{names.replace(', ', '`, `--')}` must be given."
    return wrong_value(message) or reasons(message)


def wrong_value(message: str) -> str | None:
    """Rewrite a message about one value of a plain type; ``None`` if it is no such message."""
    key = re.search(r'Parser key "([^"]+)"', message)
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    expected = re.findall(r"^.*Expected an? (.+?)(?:\. Got value.*)?$", message, re.MULTILINE)
    kinds = [re.sub(r"<class '(\w+)'>|typing\.", r"\1", kind) for kind in expected]
    kinds = [re.sub(r"^Literal\[(.*)\]$", r"one of \1", kind) for kind in kinds]
    kinds = [kind for kind in dict.fromkeys(kinds) if kind != "NoneType"]
    if not (key and given and kinds) or "class_path" in message:
        return None
    return f"`--{key[1]}`: expected {' or '.join(kinds)}, got {given[1]}."


def reasons(message: str) -> str:
    """Join the lines of a message, without those that only frame the reasons."""
    message = UNPICKLING.sub(NOT_UNPICKLED, message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    kept = [line for line in lines if line and not FRAME.match(line)]
    own = [line for line in kept if not OTHER_SUBCLASS.match(line)]
    text = " ".join(" ".join(own or kept).split())
    if len(text) > LONGEST:
        return text[:LONGEST] + "..."
    return text if text.endswith((".", "!")) else text + "."
