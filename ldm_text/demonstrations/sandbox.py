"""Run Python programs that nobody has read: without network, in bounds, and for a short time.

On Linux a program runs in namespaces of its own for network, processes, mounts and messages: it
sees no network, no process but its own, and of the disk the system's libraries and Python,
read-only, with an empty working folder in memory. Without namespaces (``allow_network``) the
limits of the kernel, an empty environment and an empty folder are what is left: a program can write
wherever the user can, and a process of it that leaves its session can outlive it.
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ldm_text.demonstrations import sandbox_process

Status = Literal["passed", "failed", "timeout", "memory", "error"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "timeout", "memory", "error")

MIB = 1 << 20
POLL_S = 0.05
FIRST_TIMEOUT_S = 60.0  # of the empty program that tries the sandbox
DETAIL_CHARACTERS = 200


@dataclass(frozen=True)
class Limits:
    """Bounds of a program.

    Attributes:
        timeout_s: Seconds by the clock, and of the processor.
        memory_mib: Address space of each process, in MiB.
        disk_mib: What the working folder holds, and the largest file, in MiB.
        num_processes: Processes and threads at a time; without isolation all of the user count.
        num_files: Open files of a process.
        output_kib: Output, both streams together, in KiB; a program that writes more is stopped.
    """

    timeout_s: float = 10.0
    memory_mib: int = 512
    disk_mib: int = 16
    num_processes: int = 16
    num_files: int = 64
    output_kib: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"`{name}` must be more than 0, got {value}.")


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: ``passed`` ran to its end, ``failed`` met an assertion that does not hold,
            ``timeout`` and ``memory`` met a limit, ``error`` is all else.
        detail: Last line of the output, or what the program was stopped for.
        seconds: Time by the clock.
    """

    status: Status
    detail: str
    seconds: float


class Sandbox:
    """Runs programs.

    Args:
        limits: Bounds of each program.
        allow_network: Run programs where they cannot be isolated, with the network of the machine.
        allow_root: Run programs although this process is root's; they run as nobody.

    Raises:
        ValueError: If programs cannot be isolated, or this is root, and that is not allowed.
    """

    def __init__(
        self, limits: Limits, *, allow_network: bool = False, allow_root: bool = False
    ) -> None:
        if os.name != "posix":
            raise ValueError("Programs are run on Linux, and with `--allow_network` on macOS.")
        if os.geteuid() == 0 and not allow_root:
            raise ValueError(
                "Programs that nobody has read are not run as root. Become an ordinary user, or "
                "pass `--allow_root`: they then run as the user nobody."
            )
        self.isolate = not allow_network
        # A short limit must not let a busy machine look like one that cannot isolate.
        self.limits = replace(limits, timeout_s=max(limits.timeout_s, FIRST_TIMEOUT_S))
        outcome = self.run("")
        self.limits = limits
        if outcome.status != "passed":
            advice = (
                ""
                if allow_network
                else (
                    " `--allow_network` runs programs all the same, with the network and the files "
                    "that this user has."
                )
            )
            raise ValueError(f"The sandbox does not work here: {outcome.detail}.{advice}")

    def run(self, program: str) -> Outcome:
        """Run a program by itself; it passes if it gets to its end without an error."""
        halves = secrets.token_hex(8), secrets.token_hex(8)
        # Whoever prints the source does not print the joined word.
        end = f"\n__import__('os').write(1, b'{halves[0]}' + b'{halves[1]}')\n"
        start = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            if not self.isolate and os.geteuid() == 0:
                os.chown(folder, sandbox_process.NOBODY, sandbox_process.NOBODY)
            code, output = self._run_process(program + end, folder)
        ended = "".join(halves).encode() in output
        status, detail = judge(code, output, ended, self.limits)
        return Outcome(status, detail, time.monotonic() - start)

    def _options(self) -> str:
        limits = self.limits
        python = Path(sys.executable).resolve()
        prefix = str(Path(sys.base_prefix).resolve())
        return json.dumps(
            {
                "isolate": self.isolate,
                "python": str(python),
                "python_paths": [prefix, str(python)],
                "cpu_s": int(limits.timeout_s) + 1,
                "disk_bytes": limits.disk_mib * MIB,
                "limits": {
                    "AS": limits.memory_mib * MIB,
                    "FSIZE": limits.disk_mib * MIB,
                    "NPROC": limits.num_processes,
                    "NOFILE": limits.num_files,
                    "CORE": 0,
                },
            }
        )

    def _run_process(self, program: str, folder: str) -> tuple[int | None, bytes]:
        """Run a program in a folder; return its exit code, None at a timeout, and its output.

        Of more output than allowed there is one byte more than allowed.
        """
        script = str(Path(sandbox_process.__file__))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, self._options()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={},
            start_new_session=True,  # its group can be killed as a whole
        )
        try:
            feed(process, program)
            return self._follow(process)
        finally:
            stop(process)

    def _follow(self, process: subprocess.Popen[bytes]) -> tuple[int | None, bytes]:
        """Read what a process writes until it ends or meets a limit."""
        assert process.stdout is not None, "the output of the process is a pipe"
        stream = process.stdout.fileno()
        most, output = self.limits.output_kib * 1024, bytearray()
        deadline = time.monotonic() + self.limits.timeout_s
        while True:
            has_ended = process.poll() is not None
            left_s = deadline - time.monotonic()
            wait_s = 0 if has_ended else min(POLL_S, max(0, left_s))
            is_readable = bool(select.select([stream], [], [], wait_s)[0])
            chunk = os.read(stream, most + 1 - len(output)) if is_readable else b""
            output += chunk
            if len(output) > most or (has_ended and not chunk):
                return process.returncode, bytes(output)
            if left_s <= 0:
                return None, bytes(output)
            if is_readable and not chunk:  # it has closed its output, but runs
                time.sleep(POLL_S)


def feed(process: subprocess.Popen[bytes], program: str) -> None:
    """Write a program to the standard input of its process."""
    assert process.stdin is not None, "the input of the process is a pipe"
    try:
        with process.stdin as stream:
            stream.write(program.encode(errors="replace"))
    except BrokenPipeError:  # it has failed, and its output says why
        return


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    # Nothing may be left of it, and macOS refuses where only a zombie is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def judge(code: int | None, output: bytes, ended: bool, limits: Limits) -> tuple[Status, str]:
    """Tell from exit code and output how a program ended."""
    text = output.decode(errors="replace").strip()
    last = (text.splitlines() or [""])[-1][:DETAIL_CHARACTERS]
    if len(output) > limits.output_kib * 1024:
        return "error", f"more than {limits.output_kib} KiB of output"
    if code is None or code == 128 + signal.SIGXCPU or code == -signal.SIGXCPU:
        return "timeout", f"more than {limits.timeout_s:g} s"
    if code == 0 and ended:
        return "passed", ""
    if last.startswith("MemoryError"):
        return "memory", f"more than {limits.memory_mib} MiB of memory"
    if last.startswith("AssertionError"):
        return "failed", last
    if code == 0:
        return "error", "ended before its tests"
    return "error", last or f"exit code {code}"
