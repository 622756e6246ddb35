"""What pipeline.yaml says of pruning and of what mends it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, create_model, model_validator

from pipeline.plan_section import Section
from pipeline.pruning import granularity, importance
from pipeline.pruning.budget import Budget
from pipeline.pruning.rules import Rule
from pipeline.strict_yaml import suggest

NONE = "none"


def _method(name: str) -> str:
    known = [*importance.names(), NONE]
    if name not in known:
        raise ValueError(f"unknown method {name!r}; {suggest(name, known)}")
    return name


def _granularity(name: str) -> str:
    return granularity.parse(name).name


class FitSection(Section):
    """How weights are fitted: full training, or fine-tuning of what pruning left."""

    epochs: int = Field(0, ge=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0, lt=2**32)


class FineTuneSection(FitSection):
    """Training of what pruning left, what was removed held at zero."""

    decay: Literal["none", "cosine"] = "none"
    schedule: Literal["none", "gradual"] = "none"
    distill: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(2.0, gt=0)

    @model_validator(mode="after")
    def _trains_when_told_how(self) -> FineTuneSection:
        asked = "schedule" if self.schedule != "none" else "distill" if self.distill else None
        if asked and self.epochs == 0:
            raise ValueError(f"{asked}: nothing is trained in 0 epochs; say how many: epochs")
        return self


class SamplesSection(Section):
    """A recovery whose one setting is how many training inputs it sees; 0: it is left out."""

    samples: int = Field(0, ge=0)


class RefitSection(Section):
    """Recovery by Gauss-Newton: the weights that stay, solved together for the unpruned model's outputs."""

    steps: int = Field(0, ge=0, le=100)
    samples: int = Field(2048, ge=1)
    rounds: int = Field(1, ge=1, le=20)

    @model_validator(mode="after")
    def _has_something_between_rounds(self) -> RefitSection:
        if self.rounds > 1 and self.steps == 0:
            raise ValueError("rounds: nothing is refitted in 0 steps; say how many: steps")
        return self


class RefitHeadSection(Section):
    """Recovery of the Dense layers that the model ends with, for the unpruned model's outputs."""

    steps: int = Field(0, ge=0, le=100)
    samples: int = Field(16384, ge=1)
    temperature: float = Field(4.0, gt=0)


class PruneBase(Section):
    """Pruning; each method's own options stand under the method's name."""

    method: Annotated[str, AfterValidator(_method)] = "hessian"
    sparsity: float | None = Field(0.8, ge=0, lt=1)
    budget: Budget | None = None
    granularity: Annotated[str, AfterValidator(_granularity)] = "element"
    allocation: Literal["auto", "global", "uniform", "erk", "row"] = "auto"
    rules: tuple[Rule, ...] = ()
    bias_correction: SamplesSection = SamplesSection()
    batch_norm: SamplesSection = SamplesSection()
    refit_head: RefitHeadSection = RefitHeadSection()
    refit: RefitSection = RefitSection()
    fine_tune: FineTuneSection = FineTuneSection()

    @model_validator(mode="after")
    def _can_be_done(self) -> PruneBase:
        if not self.prunes:
            self._leave_all_in_place()
            return self
        pattern = granularity.parse(self.granularity).pattern
        method = importance.load(self.method)
        if self.allocation not in ("auto", *method.ALLOCATIONS):
            known = ", ".join(("auto", *method.ALLOCATIONS))
            raise ValueError(f"allocation: {self.method} has no {self.allocation!r}; known: {known}")
        if method.GRANULARITY == "unit":
            if self.granularity != "element":
                raise ValueError(f"granularity: {self.method} removes whole units; leave the key out")
            if self.fine_tune.schedule == "gradual":
                raise ValueError(
                    f"fine_tune.schedule: gradual removes single weights, and {self.method} whole units; leave it out"
                )
            if self.refit.rounds > 1:
                raise ValueError(f"refit.rounds: {self.method} removes whole units, at once; leave them out")
        if self.refit.rounds > 1 and self.share is None:
            raise ValueError("refit.rounds: rounds lead to a sparsity; give one, or leave them out")
        if self.fine_tune.schedule == "gradual" and self.granularity != "element":
            raise ValueError(
                f"fine_tune.schedule: gradual removes single weights, and the granularity is {self.granularity};"
                " leave one of them out"
            )
        if self.fine_tune.schedule == "gradual" and (mended := self._mended_by()):
            raise ValueError(
                "fine_tune.schedule: gradual begins with the weights of the unpruned model, and nothing is left of"
                f" what {mended[0]} did; leave one of them out"
            )
        if pattern is not None:
            self._leave_it_to(pattern)
        elif self.sparsity is None and self.budget is None:
            raise ValueError("sparsity: missing; give a sparsity or a budget")
        elif self._sparsity_is_given and self.budget is not None:
            raise ValueError("budget: given beside a sparsity; leave one out, or set it to null")
        return self

    @property
    def prunes(self) -> bool:
        """Is anything removed at all? With the method `none`, no other key of the section counts."""
        return self.method != NONE

    def _mended_by(self) -> list[str]:
        """The keys that ask for a recovery without labels."""
        asked = {
            "bias_correction.samples": self.bias_correction.samples,
            "batch_norm.samples": self.batch_norm.samples,
            "refit_head.steps": self.refit_head.steps,
            "refit.steps": self.refit.steps,
        }
        return [key for key, value in asked.items() if value]

    def _leave_all_in_place(self) -> None:
        for key in [*self._mended_by(), *(["fine_tune.epochs"] if self.fine_tune.epochs else [])]:
            raise ValueError(
                f"{key}: mends what pruning did, and the method none prunes nothing; leave it at 0"
            )

    @property
    def _sparsity_is_given(self) -> bool:
        return "sparsity" in self.model_fields_set and self.sparsity is not None

    @property
    def share(self) -> float | None:
        """The sparsity; None where a budget, or an N:M granularity, says what goes."""
        by_itself = granularity.parse(self.granularity).pattern is not None
        return None if by_itself or self.budget is not None else self.sparsity

    def _leave_it_to(self, pattern: tuple[int, int]) -> None:
        share = 1 - pattern[0] / pattern[1]
        if self.budget is not None or any(rule.sparsity is not None for rule in self.rules):
            raise ValueError(
                f"granularity: the pattern {self.granularity} says what goes; leave budgets and sparsities out"
            )
        if self._sparsity_is_given and self.sparsity != share:
            raise ValueError(
                f"sparsity: the pattern {self.granularity} removes {share:.4g}; leave the sparsity out, or null"
            )
        if self.allocation != "auto":
            raise ValueError(
                f"allocation: the pattern {self.granularity} removes the same everywhere; leave the key out"
            )

    @property
    def needs_labels(self) -> bool:
        """Does the method need labels, and the loss that training lowers?"""
        return self.prunes and "labels" in importance.load(self.method).NEEDS

    @property
    def options(self) -> BaseModel:
        """The options of the chosen method; there are none of the method `none`."""
        options: BaseModel = getattr(self, self.method) if self.prunes else Section()
        return options


def prune_section() -> type[PruneBase]:
    """The model of the section `prune`, with a section in it for the options of each method there is."""
    methods: dict[str, Any] = {name: importance.load(name).Options for name in importance.names()}
    sections: dict[str, Any] = {name: (options, options()) for name, options in methods.items()}
    return create_model("PruneSection", __base__=PruneBase, **sections)
