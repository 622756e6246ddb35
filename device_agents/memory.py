"""The memory of this process, as the kernel counts it: /proc/self/status, smaps_rollup and smaps (proc_pid_status(5),
proc_pid_smaps(5)).
"""

from __future__ import annotations

import os

FIELDS = {"rss": "VmRSS", "hwm": "VmHWM", "anonymous": "RssAnon", "file": "RssFile", "swap": "VmSwap"}
COUNTED_ANEW = {"pss": "Pss", "rss_by_page": "Rss"}


def usage(model: str | None = None) -> dict[str, int | None]:
    """Bytes resident (`rss`), the most there ever were (`hwm`), the part that is private (`anonymous`), the
    part that a file backs (`file`), and what was swapped out; then, counted page by page, what is resident once more
    (`rss_by_page`: the quick counters lag behind by some pages a core), what is left of it when pages that others map
    too are shared out (`pss`), and how much of the file `model` is mapped and resident (`model`). None for one that
    this kernel does not tell.
    """
    quick, thorough = _table("/proc/self/status"), _table("/proc/self/smaps_rollup")
    found = {name: _bytes(quick.get(key)) for name, key in FIELDS.items()}
    found.update({name: _bytes(thorough.get(key)) for name, key in COUNTED_ANEW.items()})
    return {**found, "model": None if model is None else _mapped(os.path.realpath(model))}


def _table(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return dict(line.partition(":")[::2] for line in stream)
    except OSError:
        return {}


def _bytes(value: str | None) -> int | None:
    return None if value is None else int(value.split()[0]) * 1024


def _mapped(path: str) -> int | None:
    """Bytes resident of the mappings of this file. A mapping's lines begin with one that ends with its path."""
    total, inside = 0, False
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if "-" in line.partition(" ")[0]:
                    inside = line.rstrip("\n").endswith(f" {path}")
                elif inside and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return None
    return total


def reset_peak() -> bool:
    """Start `hwm` again from what is resident now (5 to clear_refs, proc_pid_clear_refs(5)); False if
    refused.
    """
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")
    except OSError:
        return False
    return True
