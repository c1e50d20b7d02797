"""The system calls that code in a sandbox is refused, as a program for the kernel's seccomp filter (seccomp(2), BPF).

A refusal is an error number, so that Python raises OSError and goes on. The list names what namespaces do not contain:
sockets of any family but AF_UNIX (vsock passes network namespaces), keyrings, memory that no limit counts, ptrace,
new namespaces, and parts of the kernel that no program of a model needs. Knows nothing of who loads the program.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

NEWEST = 462  # mseal, Linux 6.10. Later calls, and all of x32, answer as a kernel would that does not know them

# name: (number on x86_64, number on aarch64). Calls from 424 on have the same number everywhere.
DENIED: dict[str, tuple[int, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # keyrings, which no namespace separates
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # wide surfaces of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # memory that RLIMIT_AS does not see, and its placement
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
SOCKET, SOCKETPAIR, IOCTL, CLONE, CLONE3 = (41, 198), (53, 199), (16, 29), (56, 220), (435, 435)

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h, by uname's machine

AF_UNIX = 1
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # typing into a terminal for somebody else
NEW_NAMESPACE = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET

# linux/bpf_common.h and linux/seccomp.h
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, (16, 24)  # offsets in struct seccomp_data; low halves of arguments 0 and 1


def program(machine: str) -> bytes:
    """The filter for a machine as `uname -m` names it: 8 bytes an instruction. KeyError where we have no numbers."""
    architecture = ARCHITECTURES[machine]
    column = list(ARCHITECTURES).index(machine)
    body = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture, skip_if_true=1),
        _instruction(_RETURN, _KILL),  # a 32-bit call has other numbers
        _instruction(_LOAD, _NUMBER),
        *_if(_GREATER, NEWEST, [_refuse(errno.ENOSYS)]),
        *_if(_EQUAL, CLONE3[column], [_refuse(errno.ENOSYS)]),  # its flags lie in memory; libc falls back to clone
    ]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            body += _if(_EQUAL, number, [_refuse(errno.EPERM)])
    allow = _instruction(_RETURN, _ALLOW)
    not_unix = [
        _instruction(_LOAD, _ARGUMENT[0]),
        _instruction(_EQUAL, AF_UNIX, skip_if_true=1),
        _refuse(errno.EAFNOSUPPORT),
        allow,
    ]
    for call in (SOCKET, SOCKETPAIR):
        body += _if(_EQUAL, call[column], not_unix)
    typing = [_if(_EQUAL, request, [_refuse(errno.EPERM)]) for request in (TIOCSTI, TIOCLINUX)]
    body += _if(_EQUAL, IOCTL[column], [_instruction(_LOAD, _ARGUMENT[1]), *typing[0], *typing[1], allow])
    namespace = _if(_ANY_BIT, NEW_NAMESPACE, [_refuse(errno.EPERM)])
    body += _if(_EQUAL, CLONE[column], [_instruction(_LOAD, _ARGUMENT[0]), *namespace, allow])
    return b"".join([*body, allow])


def _instruction(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)


def _if(test: int, value: int, then: Sequence[bytes]) -> list[bytes]:
    return [_instruction(test, value, skip_if_false=len(then)), *then]


def _refuse(number: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | number)
