"""The inside of the sandbox: a script that takes rights away, then runs a program.

``sandbox.py`` starts it as ``python -I -S sandbox_process.py OPTIONS``, with the program on
standard input. It imports nothing of this package. Of its processes

* the first makes namespaces of its own for network, processes, mounts and messages, and waits;
* the second is number 1 of the process namespace: when it ends, the kernel ends all others in it;
* the third takes the limits upon itself and becomes the program.

Without isolation there is one process, the last.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

NOBODY = 65534  # user and group without rights, which root becomes
SETUP_FAILED = 125  # exit code; the reason is on standard output

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # on every architecture; Linux 5.12
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

# What a Python needs to run, besides the folder of its own.
SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
WORKING_FOLDER = "/tmp"

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """Call a function of the C library.

    Raises:
        OSError: If it fails.
    """
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def isolate():
    """Leave the network, the processes and the file system of the machine, and fork.

    Returns in the process that becomes the program; the others end with its exit code.
    """
    is_root = os.geteuid() == 0
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    call("unshare", flags if is_root else flags | CLONE_NEWUSER)
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    wait_for_child(fork())
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    enter_small_root(os.getcwd(), NOBODY if is_root else user)
    wait_for_child(fork())


def fork():
    """Fork; the parent gets the number of the child, the child 0."""
    sys.stdout.flush()
    return os.fork()


def wait_for_child(child):
    """In a parent, wait for the child and end with its exit code, 128 + signal if killed."""
    if child == 0:
        return
    while True:
        ended, status = os.wait()  # orphans of the namespace come here, too
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def enter_small_root(folder, user):
    """Make the system's libraries and Python, read-only, and a small working folder the whole disk.

    Args:
        folder: An empty folder, on which the new root is mounted.
        user: Number of the user that the working folder belongs to.
    """
    options = json.loads(sys.argv[1])
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    mount_memory(folder, "size=1m,mode=755")
    for path in (*SYSTEM_PATHS, *options["python_paths"]):
        bind(path, folder)
    work, old = folder + WORKING_FOLDER, folder + "/old"
    os.makedirs(work, exist_ok=True)
    os.mkdir(old)
    os.chdir(folder)
    call("syscall", SYS_PIVOT_ROOT[os.uname().machine], b".", b"old")
    os.chdir("/")
    call("umount2", b"/old", MNT_DETACH)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    path = ctypes.c_char_p(b"/")
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path, AT_RECURSIVE, attributes, size)
    mount_memory(WORKING_FOLDER, f"size={options['disk_bytes']},mode=700")
    os.chown(WORKING_FOLDER, user, -1)
    os.chdir(WORKING_FOLDER)


def mount_memory(folder, options):
    """Mount an empty file system that lives in memory."""
    call("mount", b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())


def bind(path, root):
    """Make a file or folder of the machine visible under its name in the new root."""
    target = root + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        Path(target).touch()
    call("mount", path.encode(), target.encode(), None, MS_BIND | MS_REC, None)


def drop_rights():
    """Become nobody, if this is root, and gain no rights by what is executed."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if sys.platform == "linux":
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def limit(options):
    """Set the limits, which the program cannot raise again."""
    resource.setrlimit(resource.RLIMIT_CPU, (options["cpu_s"], options["cpu_s"] + 1))
    for name in ("AS", "FSIZE", "NPROC", "NOFILE", "CORE"):
        value = options["limits"][name]
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def run():
    """Become the program on standard input."""
    program = sys.stdin.buffer.read()
    options = json.loads(sys.argv[1])
    if options["isolate"]:
        isolate()
    Path("program.py").write_bytes(program)
    os.chmod("program.py", 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    drop_rights()
    limit(options)
    os.execve(options["python"], [options["python"], "-I", "-B", "program.py"], {})


if __name__ == "__main__":
    try:
        run()
    except (OSError, ValueError, KeyError) as error:
        sys.stdout.write(f"{error}\n")
        sys.stdout.flush()
        os._exit(SETUP_FAILED)
