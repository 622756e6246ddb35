"""Result documents for tests, realistic in shape; every number in them is made up."""

from __future__ import annotations

import numpy as np

from pipeline.measurement import gates, validity, verdict, winner
from pipeline.measurement.agreement import Agreement
from pipeline.measurement.measurement import Measurement, MemoryCourse, MemoryReading, Repetition
from pipeline.measurement.operators import Kernel, Node, Operators
from pipeline.measurement.statistics import summarise
from pipeline.plan import GatesSection
from pipeline.pruning.decision import LayerDecision
from pipeline.result import Encoded, Installed, ModelResult, Result, StageRecord, TargetResult, VariantFile
from pipeline.sparse_tflite.storing import EncodingDecision

VARIANTS = ("baseline", "dense", "sparse")
BYTES = {"baseline": 412_856, "dense": 412_856, "sparse": 121_304}
METRIC = {"baseline": 0.9778, "dense": 0.9711, "sparse": 0.9711}
LATENCY_MS = {"baseline": 0.412, "dense": 0.409, "sparse": 0.297}
MIB = 1024**2
AGREEMENT = Agreement(samples=450, greatest_difference=1.2e-7, agrees=True)


def make_result(
    name: str = "digits",
    *,
    emulated: str = "rpi4",
    local: str = "local",
    layer: str = "hidden",
    repetitions: int = 6,
    samples: int = 20,
    slowness: float = 1.0,
    limits: GatesSection | None = None,
) -> Result:
    """A run on one emulated and one local device; `slowness` multiplies all latencies."""
    targets = {
        emulated: make_target(True, repetitions, samples, 24 * slowness, limits),
        local: make_target(False, repetitions, samples, slowness, limits),
    }
    return Result(
        id=f"20250102-030405-{name[:8]}-0a1b2c",
        created="2025-01-02T03:04:05Z",
        version="0.1.0",
        plan={
            "name": name,
            "model": {"source": "examples/digits.py:model"},
            "measure": {"repetitions": repetitions},
        },
        host={"edgepipe": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.0", "numpy": "2.4.0"},
        stages=tuple(
            StageRecord(stage=stage, key=digit * 64, cached=digit in "ab", seconds=float(at) * 1.5)
            for at, (stage, digit) in enumerate(
                zip(("data", "train", "prune", "convert", "encode"), "abcde", strict=True)
            )
        ),
        model=make_model(layer),
        targets=targets,
        exit_code=max(target.exit_code for target in targets.values()),
    )


def make_model(layer: str = "hidden") -> ModelResult:
    """Three layers: pruned, narrowed, kept."""
    return ModelResult(
        metric="accuracy",
        direction="higher",
        metric_before=METRIC["baseline"],
        metric_pruned=0.9633,
        metric_after=METRIC["sparse"],
        parameters_before=101_770,
        parameters_after=28_402,
        layers=(
            LayerDecision(
                layer=layer,
                kind="Dense",
                action="pruned",
                reason="80 % of its weights cost least when removed",
                weights_before=50_176,
                weights_after=10_035,
                loss_increase=0.0123,
                damping=1.5e-4,
            ),
            LayerDecision(
                layer="convolution",
                kind="Conv2D",
                action="units removed",
                reason="no sparse kernel takes it: filters went",
                weights_before=4_608,
                weights_after=2_304,
                units_before=32,
                units_after=16,
            ),
            LayerDecision(
                layer="logits",
                kind="Dense",
                action="kept",
                reason="it is the model's output",
                weights_before=640,
                weights_after=640,
            ),
        ),
    )


def make_encoded(layer: str = "hidden") -> Encoded:
    """Two operators: one stored in blocks, one densely."""
    return Encoded(
        runtime="ai-edge-litert",
        core="arm",
        rewrites={"stem": 1},
        rewrites_reason="1,024 weights then run sparse, 0 without it",
        encodings=(
            EncodingDecision(
                operator="FULLY_CONNECTED",
                tensor=f"model/{layer}/MatMul",
                encoding="fc_1x4",
                reason="1x4 takes 61,004 bytes, dense takes 200,704",
                zeros=0.8,
                dense_bytes=200_704,
                stored_bytes=61_004,
            ),
            EncodingDecision(
                operator="CONV_2D",
                tensor="model/convolution/Conv2D",
                encoding="dense",
                reason="CONV_2D has no sparse kernel of the runtime's own; its zeros are stored densely",
                zeros=0.0,
                dense_bytes=9_216,
                stored_bytes=9_216,
            ),
        ),
        agreement=AGREEMENT,
        variants={variant: VariantFile(digest=digest(variant), bytes=BYTES[variant]) for variant in VARIANTS},
    )


def make_target(
    emulated: bool,
    repetitions: int = 6,
    samples: int = 20,
    slowness: float = 1.0,
    limits: GatesSection | None = None,
) -> TargetResult:
    """A device on which sparse is the fastest; judged by the pipeline's own rules."""
    limits = limits or GatesSection(max_memory_bytes=8 * MIB, max_file_bytes=200_000 * 3)
    measurements = {
        variant: make_measurement(variant, emulated, repetitions, samples, slowness) for variant in VARIANTS
    }
    summaries = {variant: summarise(each) for variant, each in measurements.items()}
    held = {
        variant: gates.hold(
            limits, summaries[variant], summaries["baseline"], BYTES[variant], "higher", emulated
        )
        for variant in winner.CANDIDATES
    }
    chosen = winner.choose(measurements, held, BYTES)
    environment = {"before": make_environment(emulated), "after": make_environment(emulated)}
    return TargetResult(
        emulated=emulated,
        transport="ssh" if emulated else "local",
        runtime="tflite-runtime" if emulated else "ai-edge-litert",
        encoded=make_encoded(),
        device={
            "python": [3, 11, 2],
            "machine": "aarch64" if emulated else "x86_64",
            "bits": 64,
            "system": "linux",
        },
        environment=environment,
        measurements=measurements,
        operators={variant: make_operators(variant) for variant in VARIANTS},
        summaries=summaries,
        validity=validity.check(measurements, environment, repetitions),
        agreement=AGREEMENT,
        gates=held,
        verdicts=verdict.against_baseline(
            measurements, summaries, BYTES, chosen.variant, "accuracy", "higher"
        )
        if chosen
        else (),
        winner=chosen,
        installed=Installed(path="models/digits/current", digest=digest(chosen.variant), previous=None)
        if chosen
        else None,
        exit_code=0 if chosen else 1,
        headline=f"{chosen.verdict}: {chosen.reason}" if chosen else "nothing installed: a gate failed",
    )


def make_measurement(
    variant: str, emulated: bool, repetitions: int, samples: int, slowness: float = 1.0
) -> Measurement:
    """Latencies scattered by a seeded lognormal: 2 % between processes, 5 % within."""
    random = np.random.default_rng(VARIANTS.index(variant))
    made = []
    for repetition in range(repetitions):
        turn = VARIANTS if repetition % 2 == 0 else VARIANTS[::-1]
        middle = LATENCY_MS[variant] * slowness * 1e6 * random.lognormal(0, 0.02)
        times = (middle * random.lognormal(0, 0.05, samples + 10)).astype(int).tolist()
        made.append(
            Repetition(
                step=3 + 3 * repetition + turn.index(variant),
                load_ns=int(middle * 3),
                first_ns=int(middle * 2),
                warmup_ns=tuple(times[:10]),
                samples_ns=tuple(times[10:]),
                memory=make_memory(BYTES[variant]),
                threads=1,
                clock={"name": "clock_gettime(CLOCK_MONOTONIC)", "resolution_ns": 1},
                versions={
                    "python": "3.11.2",
                    "numpy": "1.26.4",
                    "runtime": "tflite-runtime",
                    "runtime_version": "2.14.0",
                },
                operators=("DELEGATE",)
                if variant != "sparse"
                else ("FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX"),
            )
        )
    return Measurement(
        variant=variant,
        digest=digest(variant),
        emulated=emulated,
        repetitions=tuple(made),
        metric=METRIC[variant],
    )


def make_operators(variant: str) -> Operators:
    """XNNPACK takes all of a dense file; of the sparse one, the runtime's own kernels take the sparse weights."""
    if variant != "sparse":
        kernels = tuple(Kernel(name=f"Fully Connected (NC, F32) GEMM {at}", ns=100.0 * at) for at in range(3))
        took = ("FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX")
        node = Node(kind="DELEGATE", output="out", by="TfLiteXNNPackDelegate", took=took, sparse=False)
        return Operators(
            runs=9, whole_ns=400.0, nodes=(node.model_copy(update={"ns": 380.0, "kernels": kernels}),)
        )
    nodes = [("FULLY_CONNECTED", True), ("FULLY_CONNECTED", True), ("SOFTMAX", False)]
    return Operators(nodes=tuple(Node(kind=kind, output="hidden", sparse=sparse) for kind, sparse in nodes))


def make_memory(file_bytes: int) -> MemoryCourse:
    """A process of 30 MiB that maps a file of this size."""
    before = MemoryReading(rss=30 * MIB, hwm=30 * MIB, anonymous=18 * MIB, file=12 * MIB, swap=0)
    grown = 30 * MIB + 3 * file_bytes
    after = MemoryReading(rss=grown, hwm=grown + 65_536, anonymous=19 * MIB, file=grown - 19 * MIB, swap=0)
    return MemoryCourse(before_load=before, after_load=after, after_first=after, steady=after)


def make_environment(emulated: bool) -> dict[str, object]:
    """What an agent observes."""
    return {
        "board": None,
        "machine": "aarch64" if emulated else "x86_64",
        "kernel": "6.1.0-18-arm64" if emulated else "6.8.0",
        "userland_bits": 64,
        "libc": "glibc 2.36",
        "python": "3.11.2",
        "cpu": {
            "model": None if emulated else "Some CPU",
            "implementer": "0x41",
            "parts": ["0xd08"],
            "features": ["asimd", "fp"],
        },
        "cores": 4,
        "usable_cores": 4,
        "governors": {},
        "temperatures_c": {},
        "throttled": None,
        "load_average": [0.1, 0.2, 0.1],
    }


def make_failed_target(
    message: str = "nothing answers at 10.0.0.9 port 22", emulated: bool = False
) -> TargetResult:
    """A device that could not be reached."""
    return TargetResult(
        emulated=emulated,
        transport="ssh",
        error=f"{message}\nis it switched on?",
        exit_code=3,
        headline=f"no evidence from the device, nothing installed: {message}",
    )


def with_targets(result: Result, **targets: TargetResult) -> Result:
    """The result with more or other targets, one of them failed."""
    return result.model_copy(update={"targets": {**result.targets, **targets}, "exit_code": 3})


def make_bare_result(name: str = "digits", error: str | None = None) -> Result:
    """A run that ended before any stage."""
    return Result(
        id=f"20250102-030405-{name[:8]}-0a1b2c",
        created="2025-01-02T03:04:05Z",
        version="0.1.0",
        plan={"name": name},
        host={},
        stages=(),
        model=None,
        targets={},
        exit_code=1,
        error=error,
    )


def digest(variant: str) -> str:
    """A made-up sha256."""
    return {"baseline": "ba", "dense": "de", "sparse": "5a"}[variant] * 32
