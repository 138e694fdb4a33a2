"""Run a program for which no socket can exist: `python tests/no_network.py PROGRAM ...`.

A seccomp filter, which needs no privileges and cannot be taken off again, has the kernel kill the program and whatever
it starts at the first system call that makes or uses a socket, with SIGSYS. What could get round it is killed too:
rings of system calls (io_uring), and system calls of another architecture.

Linux on x86-64 and arm64 only; elsewhere it exits with 77.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL_PROCESS, ALLOW = 0x8000_0000, 0x7FFF_0000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
X32 = 0x4000_0000

ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
SOCKET_CALLS = {
    # socket ... getsockopt, accept4, recvmmsg, sendmmsg; io_uring_setup has one number everywhere
    "x86_64": (*range(41, 56), 288, 299, 307, 425),
    "aarch64": (*range(198, 213), 242, 243, 269, 425),
}


def rules(machine: str) -> bytes:
    """The filter as a program of the kernel's packet filter: (code, jump if true, jump if false, value) each."""
    calls = SOCKET_CALLS[machine]
    kill = len(calls) + 5  # place of the last step; a jump counts from the step after its own
    steps = [(LOAD, 0, 0, 4), (EQUAL, 0, kill - 2, ARCHITECTURES[machine])]
    steps += [(LOAD, 0, 0, 0), (AT_LEAST, kill - 4, 0, X32)]
    steps += [(EQUAL, kill - place - 1, 0, call) for place, call in enumerate(calls, len(steps))]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL_PROCESS)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def deny() -> None:
    """From here on, in this process and its children; raises OSError where the kernel refuses."""
    program = rules(platform.machine())
    memory = ctypes.create_string_buffer(program)
    filtered = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filtered, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")


if __name__ == "__main__":
    if sys.platform != "linux" or platform.machine() not in SOCKET_CALLS:
        sys.exit(77)
    deny()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the filter stays on the program that takes its place
