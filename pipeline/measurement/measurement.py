"""What a device reported about one variant: raw, and never changed afterwards."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, model_validator


class Record(BaseModel):
    """Frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryReading(Record):
    """A process's memory in bytes: resident now and at most, of it anonymous and file-backed, and swapped; resident
    as counted page by page, its proportional share of them (PSS), and of the model's file what is mapped and resident.
    """

    rss: int
    hwm: int
    anonymous: int | None
    file: int | None
    swap: int | None
    pss: int | None = None
    rss_by_page: int | None = None
    model: int | None = None


class MemoryCourse(Record):
    """The measured process's memory at its four stations; the high-water mark was reset before loading."""

    before_load: MemoryReading
    after_load: MemoryReading
    after_first: MemoryReading
    steady: MemoryReading

    @property
    def peak_added(self) -> int:
        """Bytes that loading and running the model added to the process, at most."""
        return max(0, self.steady.hwm - self.before_load.rss)

    @property
    def steady_added(self) -> int:
        """Bytes the process holds more after the last sample than before loading."""
        return max(0, self.steady.rss - self.before_load.rss)


class Paced(Record):
    """Invoked at a fixed rate: nanoseconds from each release to the start and to the end of the work, null for one
    that was dropped, as the work before it still went on."""

    period_ns: int
    deadline_ns: int
    late_ns: tuple[int | None, ...]
    response_ns: tuple[int | None, ...]


class Window(Record):
    """A second of back-to-back inference: when it began, how many there were, their median and longest time; after it
    the warmest zone in Celsius and the fastest core's frequency."""

    at_s: float
    count: int
    median_ns: int
    longest_ns: int
    temperature_c: float | None
    frequency_hz: int | None


class Sustained(Record):
    """One fresh process that did nothing but infer for so many seconds."""

    step: int
    seconds: float
    windows: tuple[Window, ...]


class MeterReadings(Record):
    """What a meter told, in watts: while the device rested, and while it inferred; and what it does not see. `seconds`
    is of how long each reading is the mean, 0: of a moment; none where all are."""

    name: str
    leaves_out: str
    idle_watts: tuple[float, ...]
    watts: tuple[float, ...]
    idle_seconds: tuple[NonNegativeFloat, ...] = ()
    seconds: tuple[NonNegativeFloat, ...] = ()

    @model_validator(mode="after")
    def _each_has_its_seconds(self) -> Self:
        for watts, seconds in ((self.idle_watts, self.idle_seconds), (self.watts, self.seconds)):
            if seconds and len(seconds) != len(watts):
                raise ValueError(f"{len(watts)} readings of {self.name} with the seconds of {len(seconds)}")
        return self


class Spent(Record):
    """A fresh process that inferred back to back from `began` to `ended`, seconds by the device's clock, untimed, while
    its meters were read; without a meter it was not run."""

    step: int
    began: float
    ended: float
    inferences: int
    meters: tuple[MeterReadings, ...]


class Repetition(Record):
    """One fresh process: load, first inference, warm-ups, samples; times in nanoseconds.

    `steady`: whether the warm-up came to rest, null where it was too short to tell. `waited_ns` is how long the process
    was ready to sample and no core was free for it. `environment` is what the cores ran at, and how hot they were,
    right after the last sample. `paced` came after all of that.
    """

    step: int
    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    steady: bool | None = None
    samples_ns: tuple[int, ...]
    waited_ns: int | None = None
    environment: dict[str, Any] = {}
    memory: MemoryCourse
    threads: int
    clock: dict[str, Any]
    versions: dict[str, Any]
    operators: tuple[str, ...] | None
    paced: Paced | None = None


class ColdStart(Record):
    """One fresh process that loaded the model from storage, its file not in the page cache, and inferred once; times in
    nanoseconds. `resident` is how many bytes of the file the page cache held on to, null where that is not told; where
    it may have held any, there are no times, and the `reason`."""

    step: int
    load_ns: int | None
    first_ns: int | None
    resident: int | None
    reason: str | None


class Measurement(Record):
    """All repetitions of one variant in one session on one device, and its metric there."""

    variant: str
    digest: str
    emulated: bool
    repetitions: tuple[Repetition, ...]
    cold: tuple[ColdStart, ...] = ()
    sustained: Sustained | None = None
    spent: Spent | None = None
    metric: float | None
