"""What a process gives up for good before it runs a program that a model wrote. Runs inside that process; stdlib only.

Four layers, each taking what it can:

    limits     setrlimit: processor time, memory, size of a file, open files, no core dump
    seccomp    Linux: the kernel refuses sockets, new processes and programs, signals to others, new limits
    landlock   Linux 5.13+: the kernel refuses to change any file outside the working folder
    hook       a Python audit hook that refuses the same; it is all there is where the kernel has neither of the two

`confine` returns the layers that hold. Seccomp and landlock cannot be undone from inside; the hook can be, by code that
sets out to break the interpreter.
Source: seccomp(2), landlock(7), PEP 578.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

# Classic BPF, as linux/bpf_common.h and linux/seccomp.h have it.
_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
# Numbers from here on are of the x32 interface, which would bypass a filter for x86-64.
_X32_NUMBERS = 0x40000000
_CLONE_THREAD = 0x00010000

# System call numbers: asm/unistd_64.h, and asm-generic/unistd.h for arm64.
_REFUSED = {
    "x86_64": {
        "socket": 41, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "setpgid": 109, "setsid": 112,
        "rt_sigqueueinfo": 129, "setrlimit": 160, "mount": 165, "tkill": 200, "mq_open": 240, "add_key": 248,
        "request_key": 249, "keyctl": 250, "unshare": 272, "shmget": 29, "msgget": 68, "rt_tgsigqueueinfo": 297,
        "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
        "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434,
        "pidfd_getfd": 438,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138, "setpgid": 154,
        "setsid": 157, "setrlimit": 164, "mq_open": 180, "msgget": 186, "shmget": 194, "socket": 198, "add_key": 217,
        "request_key": 218, "keyctl": 219, "execve": 221, "rt_tgsigqueueinfo": 240, "perf_event_open": 241,
        "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "execveat": 281,
        "userfaultfd": 282, "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_TGKILL = {"x86_64": 234, "aarch64": 131}
_PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
_CLONE3 = 435

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
# Write, remove, make folders, files, FIFOs and links: bits 1 and 4 to 12 of the first interface.
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
# Not devices and sockets, which nobody needs.
_ALLOWED_INSIDE = _WRITES & ~(1 << 6) & ~(1 << 9) & ~(1 << 11)
_RENAME_ACROSS, _TRUNCATE = 1 << 13, 1 << 14

# Audit events of PEP 578 that stand for what a judged program has no business with.
_REFUSED_EVENTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg", "os.chmod",
    "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr", "os.chroot", "os.startfile", "os.unshare",
    "pty.spawn", "resource.setrlimit", "resource.prlimit", "signal.pthread_kill", "subprocess.Popen", "socket.bind",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.sendto",
    "socket.sethostname", "sys._current_frames", "gc.get_objects", "gc.get_referrers",
})  # fmt: skip
_REFUSED_PREFIXES = ("ctypes.", "syslog.", "winreg.", "msvcrt.", "webbrowser.")
_WRITING_EVENTS = frozenset({"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"})
_MAKING_EVENTS = frozenset({"os.mkdir", "os.link", "os.symlink"})
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(*, cpu_s: int, memory_bytes: int, file_bytes: int, num_writes: int) -> list[str]:
    """The layers that hold from now on, of those in the module's list; there is no way back.

    Args:
        cpu_s: Processor time of the process, in seconds; one more and it cannot be handled any more.
        memory_bytes: Address space.
        file_bytes: Size of one file that is written.
        num_writes: Files opened for writing and folders made, together; with `file_bytes` it bounds the disk used.

    Effects: on this process, for good. Call it while there is a single thread.
    """
    layers = [set_limits(cpu_s=cpu_s, memory_bytes=memory_bytes, file_bytes=file_bytes)]
    folder = os.path.realpath(os.curdir)
    drop_capabilities()
    has_landlock = keep_files_outside(folder)
    has_seccomp = refuse_system_calls()
    if has_landlock:
        layers.append("landlock")
    if has_seccomp:
        layers.append("seccomp")
    else:
        # Without the filter this is what stops a fork bomb; it counts threads too, and the superuser is exempt.
        _limit(resource.RLIMIT_NPROC, 0, 0)
    add_hook(folder=None if has_landlock else folder, num_writes=num_writes)
    return [*layers, "hook"]


def set_limits(*, cpu_s: int, memory_bytes: int, file_bytes: int) -> str:
    """`limits`, or `some limits` where the system has no limit of memory (macOS)."""
    _limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    _limit(resource.RLIMIT_CORE, 0, 0)
    _limit(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    _limit(resource.RLIMIT_NOFILE, 64, 64)
    return "limits" if _limit(resource.RLIMIT_AS, memory_bytes, memory_bytes) else "some limits"


def drop_capabilities() -> None:
    """The superuser, in a container for instance, becomes an ordinary owner of files; nothing changes for others."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Version 3 of the header, this process; twice effective, permitted and inheritable.
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(nothing))


def refuse_system_calls() -> bool:
    """Whether the kernel now refuses sockets, new processes and programs, and signals to others (threads are fine)."""
    machine = os.uname().machine
    if os.uname().sysname != "Linux" or machine not in _REFUSED or sys.maxsize < 2**32:
        return False
    code = b"".join(struct.pack("HBBI", *line) for line in filter_program(machine, process_id=os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        return False
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    return bool(libc.prctl(_PR_SET_SECCOMP, mode, ctypes.c_char_p(program), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0)


def filter_program(machine: str, *, process_id: int) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand), for a machine of `_REFUSED`."""
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    third_argument = _OFFSET_ARGUMENTS + 16
    lines = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_JUMP_AT_LEAST, 0, 1, _X32_NUMBERS), refuse]
    for number in sorted(_REFUSED[machine].values()):
        lines += [(_JUMP_EQUAL, 0, 1, number), refuse]
    # A filter cannot look into the struct that clone3 takes; told it does not exist, the C library takes clone.
    lines += [(_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    is_thread = [(_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS), (_JUMP_BITS, 1, 0, _CLONE_THREAD), refuse, allow]
    lines += [(_JUMP_EQUAL, 0, len(is_thread), _CLONE[machine]), *is_thread]
    is_own = [(_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS), (_JUMP_EQUAL, 1, 0, process_id), refuse, allow]
    lines += [(_JUMP_EQUAL, 0, len(is_own), _TGKILL[machine]), *is_own]
    # Reading limits is fine; the third argument, a pointer to new ones, must be null in both halves.
    reads_only = [
        (_LOAD_WORD, 0, 0, third_argument),
        (_JUMP_EQUAL, 0, 2, 0),
        (_LOAD_WORD, 0, 0, third_argument + 4),
        (_JUMP_EQUAL, 1, 0, 0),
        refuse,
        allow,
    ]
    return [*lines, (_JUMP_EQUAL, 0, len(reads_only), _PRLIMIT64[machine]), *reads_only, allow]


def keep_files_outside(folder: str) -> bool:
    """Whether the kernel now refuses to write, make, rename or remove any file outside `folder` (and /dev/null)."""
    if os.uname().sysname != "Linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION))
    if version < 1:
        return False
    newer = (_RENAME_ACROSS if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("Q", _WRITES | newer)
    rules = libc.syscall(
        _LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )
    if rules < 0:
        return False
    try:
        null_rights = _WRITE_FILE | (newer & _TRUNCATE)
        if not all(
            _allow_beneath(libc, rules, path, rights)
            for path, rights in ((folder, _ALLOWED_INSIDE | newer), (os.devnull, null_rights))
        ):
            return False
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
            return False
        return bool(libc.syscall(_LANDLOCK_RESTRICT, rules, ctypes.c_uint(0)) == 0)
    finally:
        os.close(rules)


def add_hook(*, folder: str | None, num_writes: int) -> None:
    """Python's own operations that reach out of `folder` and this process raise PermissionError from now on.

    Args:
        folder: The only place where files may be changed; None where the kernel sees to that, which knows better than
            the hook what a path means.
        num_writes: Files opened for writing and folders made, together.
    """
    sys.addaudithook(_hook(folder=folder, num_writes=num_writes))


def _hook(*, folder: str | None, num_writes: int) -> Callable[[str, tuple[Any, ...]], None]:
    # Everything the hook needs is bound here, so that the program cannot change it through a module.
    prefix, null, separator = (folder or "") + os.sep, os.devnull, os.sep
    realpath, fsdecode, refused, prefixes = os.path.realpath, os.fsdecode, _REFUSED_EVENTS, _REFUSED_PREFIXES
    writing, making, flags_mask, isinstance_, any_ = _WRITING_EVENTS, _MAKING_EVENTS, _WRITING_FLAGS, isinstance, any
    all_ = all
    writes_left = [num_writes]

    def is_inside(path: Any) -> bool:
        if isinstance_(path, int):
            return True  # an open file, which was checked when it was opened
        if folder is None:
            return True
        text = fsdecode(path)
        return text == null or (realpath(text) + separator).startswith(prefix)

    def count_write() -> None:
        writes_left[0] -= 1
        if writes_left[0] < 0:
            raise PermissionError(f"more than {num_writes} files written")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & flags_mask and not isinstance_(path, int):
                count_write()
                if not is_inside(path):
                    raise PermissionError("files outside the working folder are not written")
        elif event in writing:
            if event in making:
                count_write()
            # A folder given as a descriptor (shutil.rmtree) comes last, and makes the path relative to it.
            paths = [value for value in arguments if isinstance_(value, str | bytes)]
            has_folder = event != "os.truncate" and any_(isinstance_(v, int) and v >= 0 for v in arguments[-2:])
            is_mkdir = event == "os.mkdir" and arguments[-1] < 0
            if (folder is not None and has_folder and not is_mkdir) or not all_(is_inside(path) for path in paths):
                raise PermissionError("files outside the working folder are not changed")
        elif event == "socket.__new__" and arguments[1] != 1:
            raise PermissionError("no network")
        elif event in refused or event.startswith(prefixes):
            raise PermissionError(f"{event} is not allowed here")

    return hook


def _limit(which: int, soft: int, hard: int) -> bool:
    """Whether the limit holds; a lower one that holds already stays."""
    _, present = resource.getrlimit(which)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    try:
        resource.setrlimit(which, (soft, hard))
    except (ValueError, OSError):
        return False
    return True


def _allow_beneath(libc: Any, rules: int, path: str, rights: int) -> bool:
    # O_PATH, by its number: Python has no name for it on other systems.
    descriptor = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        return bool(
            libc.syscall(
                _LANDLOCK_ADD, rules, ctypes.c_int(_LANDLOCK_PATH_BENEATH), ctypes.c_char_p(rule), ctypes.c_uint(0)
            )
            == 0
        )
    finally:
        os.close(descriptor)
