"""What pipeline.yaml says, as frozen models; `pipeline.yaml` itself comments every key."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from pipeline.models import data, fitting, load, metrics, sources
from pipeline.plan_pruning import FitSection, PruneBase, prune_section
from pipeline.plan_section import Section
from pipeline.sparse_tflite import rewrites
from pipeline.sparse_tflite.precision import Io, Precision
from pipeline.strict_yaml import suggest


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


def _source(*endings: str, also: Callable[[str], bool] = lambda text: False) -> Any:
    def check(text: str, info: ValidationInfo) -> str:
        if not also(text):
            sources.parse(text, _folder(info), endings)
        return text

    return AfterValidator(check)


def _model_source(text: str, info: ValidationInfo) -> str:
    load.parse_source(text, _folder(info))
    return text


def _bundled(text: str) -> bool:
    if not text.startswith("sklearn:"):
        return False
    name = text.removeprefix("sklearn:")
    if name not in data.BUNDLED:
        raise ValueError(f"unknown data set {name!r}; {suggest(name, data.BUNDLED)}")
    return True


def _builtin_metric(text: str) -> bool:
    if text in metrics.BUILTIN:
        return True
    if ":" not in text:
        raise ValueError(f"unknown metric {text!r}; {suggest(text, [*metrics.BUILTIN, 'file.py:function'])}")
    return False


def _loss(given: Any) -> Any:
    names = [given] if isinstance(given, str) else list(given.values()) if isinstance(given, dict) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"expected a loss by name, or {{output: loss}} for each output, received {given!r}")
    return given


class ModelSection(Section):
    """The model to deploy."""

    source: Annotated[str, AfterValidator(_model_source)]

    @property
    def is_tflite(self) -> bool:
        """Is it a file that is past training and pruning?"""
        return self.source.endswith(".tflite")


class DataSection(Section):
    """The data it is trained, pruned and judged with."""

    source: Annotated[str, _source(".npz", also=_bundled)]
    targets: Literal["labels", "inputs"] = "labels"
    test_fraction: float = Field(0.25, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**32)
    labels: tuple[str, ...] = ()


class MetricSection(Section):
    """What the model is judged by."""

    source: Annotated[str, _source(also=_builtin_metric)] = "accuracy"
    direction: metrics.Direction | None = None
    output: str | None = None

    @model_validator(mode="after")
    def _has_a_direction(self) -> MetricSection:
        known = metrics.BUILTIN.get(self.source)
        if known is None and self.direction is None:
            raise ValueError(
                f"direction: missing; say whether 'higher' or 'lower' values of {self.source} are better"
            )
        if known and self.direction not in (None, known):
            raise ValueError(f"direction: {self.source} is better when {known}; leave the key out")
        return self

    @property
    def title(self) -> str:
        """What it is called in results."""
        return f"{self.source} of {self.output}" if self.output else self.source

    @property
    def better(self) -> metrics.Direction:
        """Which values are better."""
        return self.direction or metrics.BUILTIN[self.source]


class TrainSection(FitSection):
    """Training of a model that came without weights."""

    when: Literal["auto", "always", "never"] = "auto"
    epochs: int = Field(30, ge=1)
    loss: Annotated[str | dict[str, str], BeforeValidator(_loss)] = "auto"


def _rewrites(value: Any) -> Any:
    if isinstance(value, str) and value not in ("auto", "none"):
        raise ValueError(
            f"expected auto, none, or a list of {', '.join(rewrites.names())}, received {value!r}"
        )
    if isinstance(value, list | tuple):
        for name in value:
            if name not in rewrites.names():
                raise ValueError(f"unknown rewrite {name!r}; known: {', '.join(rewrites.names())}")
        return tuple(value)
    return value


class ConvertSection(Section):
    """Conversion to TFLite."""

    precision: Precision = "float32"
    io: Io = "float"
    rewrites: Annotated[Literal["auto", "none"] | tuple[str, ...], BeforeValidator(_rewrites)] = "auto"
    representative_samples: int = Field(256, ge=1)
    agreement_samples: int = Field(32, ge=32)

    @model_validator(mode="after")
    def _integers_only_of_int8(self) -> ConvertSection:
        if self.io != "float" and self.precision != "int8":
            raise ValueError(
                f"io: {self.io} inputs and outputs are those of precision int8, not of {self.precision}"
            )
        return self


class DeadlineSection(Section):
    """At what rate a real-time application invokes the model."""

    period_ms: float = Field(gt=0)
    deadline_ms: float | None = Field(None, gt=0)
    seconds: float = Field(5, gt=0, le=3600)

    @model_validator(mode="after")
    def _can_be_kept(self) -> DeadlineSection:
        if self.seconds * 1000 / self.period_ms > 100_000:
            raise ValueError("seconds: expected 100,000 periods at most; every one of them is kept")
        if self.seconds * 1000 < self.period_ms:
            raise ValueError(f"seconds: expected one period at least, received {self.seconds:g}")
        return self


class ControlsSection(Section):
    """What is set on the device while it measures, as far as it permits that; undone in the end."""

    cores: (
        Literal["fast"] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None
    ) = None
    priority: int = Field(0, ge=-20, le=19)
    governor: str | None = Field(None, pattern=r"^[a-z_]+$")
    fixed_performance: bool = False


class MeasureSection(Section):
    """The measuring protocol, for each variant; variants take turns in fresh processes: A B C C B A ..."""

    repetitions: int = Field(6, ge=2, le=1000)
    warmup_runs: int = Field(10, ge=1)
    warmup_seconds: float = Field(0.1, ge=0)
    max_warmup_seconds: float = Field(5, ge=0)
    min_samples: int = Field(50, ge=3)
    min_seconds: float = Field(0.25, ge=0)
    max_samples: int = Field(1000, ge=3)
    max_seconds: float = Field(2, ge=0)
    interval: float = Field(0.01, ge=0, le=1)
    cold_starts: int = Field(3, ge=0, le=1000)
    operators: bool = False
    deadline: DeadlineSection | None = None
    sustained_seconds: float = Field(0, ge=0, le=86400)
    energy_seconds: float = Field(0, ge=0, le=86400)
    controls: ControlsSection = ControlsSection()
    retries: int = Field(2, ge=0, le=20)
    cool_down_seconds: float = Field(30, ge=0, le=3600)
    evaluation_samples: int | None = Field(None, ge=32)
    step_deadline_s: float = Field(300, gt=0)

    @model_validator(mode="after")
    def _can_end(self) -> MeasureSection:
        if self.max_samples < self.min_samples:
            raise ValueError(f"max_samples: {self.max_samples} is below min_samples, {self.min_samples}")
        return self


class LatencyGate(Section):
    """Limits of the latency's percentiles, in milliseconds."""

    p50: float | None = Field(None, gt=0)
    p90: float | None = Field(None, gt=0)
    p99: float | None = Field(None, gt=0)


class GatesSection(Section):
    """What a variant must hold to be installed; a limit left out is no limit."""

    max_metric_drop: float | None = 0.02
    max_latency_ms: LatencyGate = LatencyGate()
    max_deadline_misses: float | None = Field(None, ge=0, le=1)
    max_file_bytes: int | None = Field(None, gt=0)
    max_memory_bytes: int | None = Field(None, gt=0)
    emulated_counts: bool = False


class StoreSection(Section):
    """The cache of what the stages made."""

    max_mebibytes: int = Field(4096, ge=1)


class PlanBase(Section):
    """One plan: a model, its data, and what is to happen to it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    model: ModelSection
    data: DataSection
    metric: MetricSection = MetricSection()
    train: TrainSection = TrainSection()
    prune: PruneBase = Field(default_factory=PruneBase, validate_default=True)
    convert: ConvertSection = ConvertSection()
    measure: MeasureSection = MeasureSection()
    gates: GatesSection = GatesSection()
    store: StoreSection = StoreSection()

    @field_validator("train", "prune", "convert")
    @classmethod
    def _can_be_done_to_the_model(cls, section: Section, info: ValidationInfo) -> Section:
        """Of the sections themselves, so that what is wrong elsewhere in the plan is told with it."""
        model = info.data.get("model")
        if model is not None and model.is_tflite:
            if isinstance(section, TrainSection) and section.when == "always":
                raise ValueError(f"when: {load.NOT_TRAINED}")
            if isinstance(section, PruneBase) and section.prunes:
                raise ValueError(f"method: {load.NOT_PRUNED}")
            if isinstance(section, ConvertSection) and section.precision != "float32":
                raise ValueError(
                    "precision: a .tflite file is deployed in the numbers it was converted to; leave the key out"
                )
        return section

    @model_validator(mode="after")
    def _knows_its_deadline(self) -> PlanBase:
        if self.gates.max_deadline_misses is not None and self.measure.deadline is None:
            raise ValueError(
                "gates.max_deadline_misses: needs a deadline to miss: measure.deadline: {period_ms: 20}"
            )
        return self

    @model_validator(mode="after")
    def _knows_its_loss(self) -> PlanBase:
        fits = self.trains or self.prune.fine_tune.epochs > 0 or self.prune.needs_labels
        if fits and self.train.loss == "auto" and self.metric.source not in fitting.AUTO_LOSS:
            raise ValueError(
                f"train.loss: missing; {self.metric.source} does not tell what training is to lower, name it: mse"
            )
        return self

    @property
    def trains(self) -> bool:
        """Will the model be trained? One that came as a file came trained."""
        came_trained = not self.model.source.partition(":")[0].endswith(".py")
        return self.train.when == "always" or (self.train.when == "auto" and not came_trained)

    @property
    def loss(self) -> str | dict[str, str]:
        """What training and fine-tuning lower, and what a method that needs labels judges by."""
        return fitting.AUTO_LOSS.get(self.metric.source, "") if self.train.loss == "auto" else self.train.loss


@functools.cache
def plan_model() -> type[PlanBase]:
    """The model of a plan file, with a section for the options of each pruning method there is."""
    section = prune_section()
    return create_model(
        "Plan", __base__=PlanBase, prune=(section, Field(default_factory=section, validate_default=True))
    )
