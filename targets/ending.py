"""How a command on a device is ended: asked first, so that it can put back what it has changed, then killed."""

from __future__ import annotations

PATIENCE_S = 2.0
_SCRIPT = """
end() {{ kill -"$1" -{process} 2>/dev/null || kill -"$1" {process} 2>/dev/null; }}
end TERM
tries=0
while [ $tries -lt {tries} ] && end 0; do sleep 0.1 || sleep 1; tries=$((tries + 1)); done
end KILL
"""


def script(process: int) -> str:
    """For the device's shell: end a process, and the group that it leads, within `PATIENCE_S`."""
    return _SCRIPT.format(process=process, tries=round(PATIENCE_S * 10))
