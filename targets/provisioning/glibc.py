"""An arm64 glibc without the system calls that Android's app sandbox answers with a signal.

An app's process, Termux and all it starts included, runs under a seccomp filter that allows what bionic uses and
kills what it does not (bionic: SYSCALLS.TXT with the SECCOMP lists beside it). glibc makes some of those calls as every
process starts, so that no program over an ordinary glibc gets to its `main` there. Each has a fall-back in glibc for
kernels that lack it: so the instruction that makes the call becomes one that says the kernel lacks it.
"""

from __future__ import annotations

import struct

ENOSYS = 38
# include/uapi/asm-generic/unistd.h. The last is OpenBLAS', by way of syscall(2); it needs no answer.
WITHOUT = {
    "set_robust_list": 99,
    "get_robust_list": 100,
    "rseq": 293,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "faccessat2": 439,
}
MBIND = 235
_AARCH64 = 183
_SVC = 0xD4000001
_X8, _X0 = 8, 0
# How far before the call its number is loaded, in instructions; the first load found backwards counts.
_REACH = 40


def without_system_calls(content: bytes) -> bytes:
    """The library (an ELF file's bytes) with those calls failing by ENOSYS; any other architecture's as it is."""
    if content[:4] != b"\x7fELF" or struct.unpack_from("<H", content, 18)[0] != _AARCH64:
        return content
    words = list(struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4]))
    for index, word in enumerate(words):
        if word == _SVC and _number(words, index) in WITHOUT.values():
            words[index] = _load_minus(ENOSYS)
        elif _loaded(word, _X0) == MBIND:
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
