"""The tasks by name."""

from typing import Literal

from ldm_text.demonstrations.arithmetic import Arithmetic
from ldm_text.demonstrations.brackets import Brackets
from ldm_text.demonstrations.json_schema import JsonSchema
from ldm_text.demonstrations.lists import Lists
from ldm_text.demonstrations.python_functions import PythonFunctions
from ldm_text.demonstrations.shell_commands import ShellCommands
from ldm_text.demonstrations.task import GeneratedTask, Task

GeneratedTaskName = Literal["arithmetic", "brackets", "json_schema", "lists"]
TaskName = Literal[GeneratedTaskName, "python_functions", "tldr_commands"]

GENERATED_TASKS: dict[GeneratedTaskName, GeneratedTask] = {
    "arithmetic": Arithmetic(),
    "brackets": Brackets(),
    "json_schema": JsonSchema(),
    "lists": Lists(),
}
TASKS: dict[TaskName, Task] = {
    **GENERATED_TASKS,
    "python_functions": PythonFunctions(),
    "tldr_commands": ShellCommands(),
}
