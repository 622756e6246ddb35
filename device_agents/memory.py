"""The memory of this process, as the kernel counts it in /proc/self/status (proc_pid_status(5))."""

from __future__ import annotations

FIELDS = {"rss": "VmRSS", "hwm": "VmHWM", "anonymous": "RssAnon", "file": "RssFile", "swap": "VmSwap"}


def usage() -> dict[str, int | None]:
    """Bytes resident (`rss`), the most there ever were (`hwm`), the part that is private (`anonymous`), the
    part that a file backs (`file`), and what was swapped out. None for one that this kernel does not tell.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        lines = dict(line.partition(":")[::2] for line in stream)
    return {name: int(lines[key].split()[0]) * 1024 if key in lines else None for name, key in FIELDS.items()}


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
