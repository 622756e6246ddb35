"""Faults put into real sessions of the agent as shipped, each with the words that are to tell of it.

What a processor, a firmware or a kernel says is made up (EDGEPIPE_AGENT_ROOT), as no bench may change a machine's
clocks; the program that takes the core away is a real one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks._measure_made_up import believed, kernel_that_tells, measured
from pipeline.measurement.validity import Validity
from pipeline.plan import MeasureSection
from targets.device import Device

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
FREQUENCY = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
VMSTAT = "proc/vmstat"
WELL = {THROTTLED: "0", FREQUENCY: "1500000", VMSTAT: "pswpin 7\npswpout 0\n"}
UNDER_VOLTAGE = "open({root!r} + {throttled!r}, 'w').write('5')"
# A core that takes its frequency from the made-up file, and is slowed in the second process that is timed; the one
# before the first is that which evaluates.
SLOWED = """
if not hasattr(self, 'known'):
    self.known = True
    open({root!r} + 'processes', 'a').write('x')
    if os.path.getsize({root!r} + 'processes') == 3:
        open({root!r} + {frequency!r}, 'w').write('600000')
for _ in range(3 * 10**10 // int(open({root!r} + {frequency!r}).read())):
    pass
"""
SWAPPING = """
found = int(open({root!r} + {vmstat!r}).read().split()[1])
open({root!r} + {vmstat!r}, 'w').write(f'pswpin {{found + 200}}\\npswpout 0\\n')
"""
SKEWED = """
if not hasattr(self, 'skewed'):
    self.skewed = True
    time.clock_gettime_ns = lambda clock, true=time.clock_gettime_ns, raw=time.CLOCK_MONOTONIC_RAW: (
        round(true(clock) * 1.1) if clock == raw else true(clock))
for _ in range(100_000):
    pass
"""
# After the first inference, two windows of ten warm-ups, and 20 samples: faster with every window.
WARMING = """
self.count = getattr(self, 'count', 0) + 1
for _ in range(400_000 if self.count <= 11 else 200_000 if self.count <= 31 else 100_000):
    pass
"""
HOG = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); print(flush=True)\nwhile True: pass"


@dataclass(frozen=True)
class Fault:
    """A model that does harm, the words of the reason that must be among those given, and the verdict that follows."""

    source: str
    words: str
    state: str = "invalid"
    protocol: dict[str, Any] = field(default_factory=dict)


FAULTS = {
    "throttle bits": Fault(UNDER_VOLTAGE, "get_throttled: 0x5"),
    "frequency change": Fault(
        SLOWED,
        "the processor's frequency moved: 600 to 1,500 MHz",
        # Invalid where the times show it, too, which another's work may hide.
        "suspect",
        protocol={"min_samples": 10, "max_samples": 10},
    ),
    "swap": Fault(SWAPPING, "the device swapped 1,200 pages beside one of its processes", "suspect"),
    "clock skew": Fault(SKEWED, "two clocks disagree"),
    "slow warm-up": Fault(
        WARMING,
        "processes were not steady when sampling began",
        protocol={"warmup_runs": 20, "min_samples": 20, "max_samples": 20},
    ),
}
HOGGED = "other programs took its core"


def judged(device: Device, fault: Fault) -> Validity:
    """The verdict on a session of one variant in two processes, in which this fault is."""
    with kernel_that_tells(WELL) as root:
        source = fault.source.format(root=f"{root}/", throttled=THROTTLED, frequency=FREQUENCY, vmstat=VMSTAT)
        fields = {"warmup_runs": 2, "min_samples": 3, "max_samples": 5} | fault.protocol
        still = {"warmup_seconds": 0, "max_warmup_seconds": 0, "min_seconds": 0, "max_seconds": 0}
        options = MeasureSection(repetitions=2, cold_starts=0, interval=0, **(still | fields))
        return believed(measured(device, {"model": source}, options), 2)


@contextlib.contextmanager
def hog(core: int) -> Iterator[None]:
    """A program that takes all it can get of a core."""
    with subprocess.Popen([sys.executable, "-c", HOG, str(core)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield
        finally:
            process.kill()


def a_core() -> int:
    """One that this process may use."""
    return min(os.sched_getaffinity(0))
