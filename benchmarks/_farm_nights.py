"""Nights of a fleet in which nothing changed, or one thing did, in the noise that devices have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from pipeline.measurement import nights
from pipeline.measurement.error_rates import between_sessions
from pipeline.stages.measure import turns

# The medians of 600 processes in a row, nanoseconds: one model on a machine on which other programs came and went.
RECORDED = Path(__file__).with_name("_farm_noise.json")
VARIANTS = ("candidate", "baseline", "again", "canary")
PAIRS = 10
WINDOW = 60


@dataclass(frozen=True)
class Noise:
    """What spoils a fleet's figures, as shares: of the device from night to night, of each variant's session, and of
    each process; `replayed`: by how much the recorded noise is scaled, 0 for none."""

    device: float = 0.01
    device_alike: float = 0.6
    device_drift: float = 0.05
    device_steps: float = 0.02
    session: float = 0.003
    session_alike: float = 0.3
    process: float = 0.005
    heating: float = 0.05
    replayed: float = 1.0


@dataclass(frozen=True)
class Fleet:
    """Logs of times: `processes` (series, nights, PAIRS, variant); what they are made of: the state of each session,
    (series, nights, variant), of the device and what the candidate is slower by, (series, nights)."""

    processes: np.ndarray
    sessions: np.ndarray
    device: np.ndarray
    slower: np.ndarray
    noise: Noise


def fleet(seed: int, series: int, count: int, noise: Noise, slower: np.ndarray | None = None) -> Fleet:
    """A fleet of so many series over so many nights, all A/A but for what the candidates are `slower` by, as logs
    (series, nights)."""
    random = np.random.default_rng(seed)
    device = noise.device * _alike(random, (series, count), noise.device_alike)
    device += np.linspace(0, 1, count) * random.uniform(-1, 1, (series, 1)) * noise.device_drift
    # Something of the device's that nobody wrote down, once in fifty nights.
    device += np.cumsum(
        (random.random((series, count)) < 0.02) * random.normal(0, noise.device_steps, (series, count)), 1
    )
    # Of a ratio of two variants the session's share is `noise.session`.
    states = _alike(random, (series, len(VARIANTS), count), noise.session_alike).swapaxes(1, 2)
    sessions = noise.session / np.sqrt(2) * states
    slower = np.zeros(device.shape) if slower is None else slower
    return Fleet(_processes(random, device, sessions, slower, noise), sessions, device, slower, noise)


def rerun(made: Fleet, rows: np.ndarray, night: int, seed: int) -> np.ndarray:
    """Sessions of these series anew in the same night: (rows, RERUNS, PAIRS, variant)."""
    random = np.random.default_rng([seed, night, 7])
    noise = made.noise
    state, found = made.sessions[rows, night], []
    for _ in range(nights.RERUNS):
        fresh = random.normal(0, noise.session / np.sqrt(2), state.shape)
        state = noise.session_alike * state + np.sqrt(1 - noise.session_alike**2) * fresh
        device, slower = made.device[rows, night, None], made.slower[rows, night, None]
        found.append(_processes(random, device, state[:, None], slower, noise)[:, 0])
    return np.stack(found, axis=1)


def _alike(random: np.random.Generator, shape: tuple[int, ...], alike: float) -> np.ndarray:
    """AR(1) noise of variance 1 along the last axis."""
    fresh = random.normal(size=shape) * np.sqrt(1 - alike**2)
    fresh[..., 0] /= np.sqrt(1 - alike**2)
    found: np.ndarray = lfilter([1], [1, -alike], fresh, axis=-1)
    return found


def _processes(
    random: np.random.Generator, device: np.ndarray, sessions: np.ndarray, slower: np.ndarray, noise: Noise
) -> np.ndarray:
    order = turns(VARIANTS, PAIRS)
    steps = len(order)
    shape = (*device.shape, steps)
    values = np.broadcast_to(device[..., None], shape) + random.normal(0, noise.process, shape)
    values += np.linspace(0, 1, steps) * random.uniform(0, noise.heating, (*device.shape, 1))
    if noise.replayed:
        recorded = np.log(json.loads(RECORDED.read_text()))
        recorded -= np.median(recorded)
        first = random.integers(0, len(recorded) - steps, device.shape)
        scale = noise.replayed * random.uniform(0.1, 1, (*device.shape, 1))
        values += scale * recorded[first[..., None] + np.arange(steps)]
    places = np.array([[step for step, name in enumerate(order) if name == each] for each in VARIANTS]).T
    values = values[..., places] + sessions[..., None, :]
    values[..., 0] += slower[..., None]
    return values


@dataclass(frozen=True)
class Night:
    """Which series were rerun, and which were alarms: in the night, and over the nights. All (series,)."""

    rerun: np.ndarray
    in_the_night: np.ndarray
    over_nights: np.ndarray


def judge(made: Fleet, night: int, threshold: float, seed: int) -> Night:
    """One night as the farm judges it, by all that was known then."""
    first = max(0, night + 1 - WINDOW)
    logs = made.processes[:, first : night + 1]
    ratio = logs[..., 0] - logs[..., 3]
    series = ratio.mean(axis=-1) if logs.shape[1] >= 6 else None
    own = logs[..., 2] - logs[..., 1]
    between, known = between_sessions(own), max(logs.shape[1] - 1, 7)
    pairs = logs[:, -1, :, 0] - logs[:, -1, :, 1]
    seen = nights.suspect(pairs, series, between, known, threshold)
    rows = np.flatnonzero(seen.rerun)
    p_pairs, p_steps = np.ones(len(logs)), np.ones(len(logs))
    if len(rows):
        again = rerun(made, rows, night, seed)
        joined = (again[..., 0] - again[..., 1]).reshape(len(rows), -1)
        p_pairs[rows] = nights.confirm_pairs(joined, between[rows], known, threshold)
        if series is not None and seen.steps is not None:
            means = (again[..., 0] - again[..., 3]).mean(axis=-1)
            p_steps[rows] = nights.confirm_steps(
                series[rows], seen.steps.at[rows], seen.steps.alike[rows], means, threshold
            )
    return Night(seen.rerun, *nights.alarms(seen.p_pairs, p_pairs, seen.p_steps, p_steps))


THRESHOLD = 0.005
SERIES = 100
NIGHTS = 50
# A step of 1 % at a between-session CV of 0.3 %, found within ten nights after thirty without it.
STEP = Noise(device_drift=0, device_steps=0, session_alike=0, process=0.003, heating=0, replayed=0)
BEFORE, WITHIN = 30, 10
# 3 % in one night at a CV of 1 %, on a device that is known for twenty nights.
JUMP = Noise(device_drift=0, device_steps=0, session_alike=0, process=0.01, replayed=0)
KNOWN = 20
REGRESSED = 5


def false_alarms(seed: int) -> dict[str, int]:
    """A fleet's SERIES x NIGHTS in which nothing changed: reruns, and alarms by both layers."""
    made = fleet(seed, SERIES, NIGHTS, Noise())
    judged = [judge(made, night, THRESHOLD, seed) for night in range(NIGHTS)]
    return {
        "nights": SERIES * NIGHTS,
        "reruns": sum(int(each.rerun.sum()) for each in judged),
        "in the night": sum(int(each.in_the_night.sum()) for each in judged),
        "over nights": sum(int(each.over_nights.sum()) for each in judged),
    }


def found_steps(seed: int) -> dict[str, int]:
    """A fleet of which REGRESSED candidates become slower by 1 % for good: how many of them are found."""
    slower = np.zeros((SERIES, BEFORE + WITHIN))
    slower[:REGRESSED, BEFORE:] = np.log(1.01)
    made = fleet(seed, *slower.shape, STEP, slower)
    found = np.zeros(SERIES, bool)
    for night in range(BEFORE, BEFORE + WITHIN):
        judged = judge(made, night, THRESHOLD, seed)
        found |= judged.in_the_night | judged.over_nights
    return {"regressed": REGRESSED, "found": int(found[:REGRESSED].sum())}


def found_jumps(seed: int) -> dict[str, int]:
    """A fleet of which REGRESSED candidates are slower by 3 % in its last night: how many are found in it."""
    slower = np.zeros((SERIES, KNOWN + 1))
    slower[:REGRESSED, KNOWN] = np.log(1.03)
    judged = judge(fleet(seed, *slower.shape, JUMP, slower), KNOWN, THRESHOLD, seed)
    return {"regressed": REGRESSED, "found": int(judged.in_the_night[:REGRESSED].sum())}
