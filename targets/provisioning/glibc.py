"""A glibc without the system calls that Android's app sandbox answers with a signal.

An app's process, Termux and all it starts included, runs under a seccomp filter that allows what bionic uses and
kills what it does not (bionic: SYSCALLS.TXT with the SECCOMP lists beside it). glibc makes some of those calls as every
process starts, so that no program over an ordinary glibc gets to its `main` there. Each has a fall-back in glibc for
kernels that lack it: so the instruction that makes the call becomes one that says the kernel lacks it.

Phones are arm64. On x86-64 the same calls are taken out, so that the fall-backs can be tried under such a filter there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

# To be raised with every change to what is replaced: a portable that was put together before is none any more.
REVISION = "glibc 2"
ENOSYS = 38
# By name: the numbers on arm64 (include/uapi/asm-generic/unistd.h) and on x86-64 (syscall_64.tbl).
WITHOUT = {
    "set_robust_list": (99, 273),
    "get_robust_list": (100, 274),
    "rseq": (293, 334),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "openat2": (437, 437),
    "faccessat2": (439, 439),
}
# This one is OpenBLAS', by way of syscall(2); it needs no answer.
MBIND = (235, 237)
_AARCH64, _X86_64 = 183, 62
_SVC = 0xD4000001
_X8, _X0 = 8, 0
# How far before the call its number is loaded, in instructions; the first load found backwards counts.
_REACH = 40
_MOV_EAX, _MOV_EDI, _CALL, _SYSCALL, _CDQE = b"\xb8", b"\xbf", b"\xe8", b"\x0f\x05", b"\x48\x98"


def _loads(register: bytes, numbers: Iterable[int]) -> bytes:
    return register + b"(?:" + b"|".join(re.escape(struct.pack("<I", number)) for number in numbers) + b")"


_NUMBERED_CALL = re.compile(
    _loads(_MOV_EAX, (number for _, number in WITHOUT.values())) + b"(.{0,32}?)" + _SYSCALL, re.DOTALL
)
_MBIND_CALL = re.compile(b"(" + _loads(_MOV_EDI, MBIND[1:]) + b".{0,8}?)" + _CALL + b".{4}", re.DOTALL)


def without_system_calls(content: bytes) -> bytes:
    """The library (an ELF file's bytes) with those calls failing by ENOSYS; another architecture's as it is."""
    if content[:4] != b"\x7fELF":
        return content
    machine = int.from_bytes(content[18:20], "little")
    if machine == _AARCH64:
        return _arm64(content)
    return _x86_64(content) if machine == _X86_64 else content


def _x86_64(content: bytes) -> bytes:
    """`syscall` becomes `cdqe`, as short, which widens the `-ENOSYS` that is loaded in the number's place."""
    content = _NUMBERED_CALL.sub(
        lambda found: _MOV_EAX + struct.pack("<i", -ENOSYS) + found[1] + _CDQE, content
    )
    return _MBIND_CALL.sub(lambda found: found[1] + _MOV_EAX + struct.pack("<i", -1), content)


def _arm64(content: bytes) -> bytes:
    words = list(struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4]))
    numbers = {number for number, _ in WITHOUT.values()}
    for index, word in enumerate(words):
        if word == _SVC and _number(words, index) in numbers:
            words[index] = _load_minus(ENOSYS)
        elif _loaded(word, _X0) == MBIND[0]:
            for call in range(index + 1, min(index + 9, len(words))):
                if words[call] >> 26 == 0b100101:  # bl
                    words[call] = _load_minus(1)
                    break
    return struct.pack(f"<{len(words)}I", *words) + content[len(words) * 4 :]


def _number(words: list[int], call: int) -> int | None:
    for word in reversed(words[max(0, call - _REACH) : call]):
        if (number := _loaded(word, _X8)) is not None:
            return number
    return None


def _loaded(word: int, register: int) -> int | None:
    """The number that `mov wN, #number` or `mov xN, #number` loads into this register."""
    return (word >> 5) & 0xFFFF if word & 0x7FE0001F == 0x52800000 | register else None


def _load_minus(number: int) -> int:
    """`mov x0, #-number`."""
    return 0x92800000 | (number - 1) << 5 | _X0
