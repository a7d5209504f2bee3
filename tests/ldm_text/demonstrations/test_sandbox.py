"""Programs that mean no good: every one is stopped, and nothing of it is left."""

import os
import socket
import threading
import time

import psutil
import pytest

from ldm_text.demonstrations.sandbox import Limits, Sandbox

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
HIDDEN_CHILDREN = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
time.sleep(3)  # long enough to be seen; its children are left behind
"""


def num_programs():
    """Count the processes that run a program of a sandbox."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return sum(line[-1:] == ["program.py"] for line in lines)


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("assert 1 + 1 == 2", "passed", ""),
        ("import math, re, collections, json, heapq, sqlite3", "passed", ""),
        ("assert 1 + 1 == 3, 'sum'", "failed", "AssertionError: sum"),
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(:", "error", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(0)", "error", "ended before its tests"),
        ("import os; os._exit(0)", "error", "ended before its tests"),
        ("import os; os.abort()", "error", "exit code 134"),
        ("print(open(__file__).read()); import os; os._exit(0)", "error", None),
        ("x = [0] * 10**10", "memory", "more than 256 MiB of memory"),
        ("x = []\nwhile True: x.append('x' * 10**6)", "memory", "more than 256 MiB of memory"),
        ("while True: print('x' * 1000)", "error", "more than 256 KiB of output"),
        (
            "open('x', 'w').write('x' * 10**8)",
            "error",
            "OSError: [Errno 28] No space left on device",
        ),
        ("files = [open('/dev/null') for _ in range(1000)]", "error", None),
    ],
)
def test_programs_end_as_they_should(make_sandbox, program, status, detail):
    outcome = make_sandbox(timeout_s=30, memory_mib=256).run(program)
    assert outcome.status == status, outcome
    assert detail in (None, outcome.detail)


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import os; os.close(1); os.close(2)\nwhile 1: 0",
    ],
)
def test_a_program_without_end_is_stopped(make_sandbox, program):
    sandbox = make_sandbox(timeout_s=2)
    start = time.monotonic()
    outcome = sandbox.run(program)
    assert (outcome.status, outcome.detail) == ("timeout", "more than 2 s")
    assert 2 <= time.monotonic() - start < 20


@pytest.mark.parametrize("program", [FORK_BOMB, HIDDEN_CHILDREN])
def test_processes_are_bounded_and_none_is_left(make_sandbox, program):
    """Those that leave the group of their parent, too."""
    sandbox = make_sandbox(timeout_s=5, num_processes=8)
    most, has_ended = 0, threading.Event()

    def watch():
        nonlocal most
        while not has_ended.wait(0.1):
            most = max(most, num_programs())

    watcher = threading.Thread(target=watch)
    watcher.start()
    sandbox.run(program)
    has_ended.set()
    watcher.join()
    assert 1 <= most <= 8 + 2  # with both processes that start it
    deadline = time.monotonic() + 10
    while num_programs() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert num_programs() == 0


def test_the_network_is_out_of_reach(make_sandbox):
    """A server of this machine answers this process, and not a program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        outcome = make_sandbox(timeout_s=30).run(program)
    assert outcome.status == "error"
    assert outcome.detail == "OSError: [Errno 101] Network is unreachable"


def test_files_of_the_machine_are_out_of_reach(make_sandbox, tmp_path):
    sandbox = make_sandbox(timeout_s=30)
    secret = tmp_path / "secret"
    secret.write_text("x")
    for program in (
        f"open({str(secret)!r})",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('/usr/new', 'w')",
        "open('/proc/self/environ')",
    ):
        assert sandbox.run(program).status == "error", program
    assert list(tmp_path.iterdir()) == [secret]
    program = "open('/tmp/new', 'w').write('x'); import os\nassert os.listdir() == ['program.py']"
    assert sandbox.run(program).status == "failed"  # it wrote into its own folder
    assert not os.path.exists("/tmp/new")
    clean = "import os\nassert os.listdir() == ['program.py']; assert os.getcwd() == '/tmp'"
    assert sandbox.run(clean).status == "passed"


def test_a_program_is_nobody_and_inherits_nothing(make_sandbox, monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    program = """
import os, resource
assert not [name for name in os.environ if name != "LC_CTYPE"], os.environ
assert os.getuid() != 0
assert os.getpid() < 10
assert not os.listdir("/dev/fd") if os.path.exists("/dev/fd") else True
for limit, value in ((resource.RLIMIT_NPROC, 16), (resource.RLIMIT_CORE, 0)):
    assert resource.getrlimit(limit) == (value, value)
try:
    resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))
except ValueError:
    pass
else:
    raise AssertionError("a limit was raised")
"""
    outcome = make_sandbox(timeout_s=30).run(program)
    assert outcome.status == "passed", outcome


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root")
def test_root_is_refused():
    with pytest.raises(ValueError, match="are not run as root"):
        Sandbox(Limits())


def test_a_machine_that_cannot_isolate_is_refused(monkeypatch):
    monkeypatch.setattr(Sandbox, "_options", lambda self: "{}")
    with pytest.raises(ValueError, match=r"does not work here: .*`--allow_network` runs"):
        Sandbox(Limits(), allow_root=True)


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="`timeout_s` must be more than 0, got 0"):
        Limits(timeout_s=0)


def test_a_short_limit_does_not_look_like_a_machine_that_cannot_isolate(make_sandbox):
    """On a busy machine the trial of the sandbox ran out of the program's time."""
    make_sandbox()  # skips where there is none
    sandbox = Sandbox(Limits(timeout_s=1e-3), allow_root=True)
    assert sandbox.limits == Limits(timeout_s=1e-3)
    assert sandbox.run("").status == "timeout"
