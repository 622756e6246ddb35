"""Emulated devices: real Debian userlands on cores that QEMU emulates, behind real SSH servers.

Only time is not real. This is the one place that brings them up and down, for Make, tests and benches alike.
"""

from __future__ import annotations

from targets.emulation.lifecycle import Status, down, names, processes, status, up

__all__ = ["Status", "down", "names", "processes", "status", "up"]
