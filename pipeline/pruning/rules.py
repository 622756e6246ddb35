"""Rules: what the user wants for layers of certain names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Rule(BaseModel):
    """For the layers whose names match: leave them whole, give them a sparsity of their own, keep so much of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: str = Field(
        min_length=1,
        description="a pattern for names of layers, or of kernels where a layer has several; where units go, of those "
        "that make them: * any text, "
        "? one character, [ab] either",
    )
    skip: bool | None = Field(None, description="true: leave them whole")
    sparsity: float | None = Field(None, ge=0, lt=1, description="their own share to remove")
    min_keep: int | None = Field(None, ge=1, description="so many weights, or units, stay, at least")

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.skip is None and self.sparsity is None and self.min_keep is None:
            raise ValueError(f"the rule for {self.layers!r} says nothing; give skip, sparsity or min_keep")
        return self


@dataclass(frozen=True)
class Terms:
    """What the rules say of one layer; `skipped_by` and `sparsity_by` are the patterns that say so."""

    skipped_by: str | None = None
    sparsity: float | None = None
    sparsity_by: str | None = None
    min_keep: int = 0


def terms(rules: Sequence[Rule], names: Sequence[str]) -> dict[str, Terms]:
    """What the rules say of each of the layers `names`: of each key, the first rule that matches and gives it.

    A kernel, 'lstm/recurrent_kernel', goes by the name of its layer, too. Raises `ValueError` for a pattern that
    matches no layer.
    """
    for rule in rules:
        if not any(_matches(rule, name) for name in names):
            raise ValueError(f"no layer is called {rule.layers!r}; there are: {', '.join(names)}")
    return {name: _terms([rule for rule in rules if _matches(rule, name)]) for name in names}


def _matches(rule: Rule, name: str) -> bool:
    return any(fnmatchcase(each, rule.layers) for each in (name, name.split("/")[0]))


def terms_of_groups(
    rules: Sequence[Rule], groups: Mapping[str, Sequence[str]], layers: Sequence[str]
) -> dict[str, Terms]:
    """What the rules say of each of `groups` of units, which goes by several names; `layers` are all the model's.

    Raises `ValueError` for a pattern that matches no name.
    """
    terms(rules, list(dict.fromkeys([*layers, *(name for names in groups.values() for name in names)])))
    return {
        group: _terms([rule for rule in rules if any(fnmatchcase(name, rule.layers) for name in names)])
        for group, names in groups.items()
    }


def told(terms: Terms, what: str) -> list[str]:
    """Sentences on what the rules gave a layer, or a group, that they do not skip; `what` it consists of."""
    found = []
    if terms.sparsity is not None:
        found.append(
            f"The rule for {terms.sparsity_by!r} gives it a sparsity of its own, {terms.sparsity:g}."
        )
    if terms.min_keep:
        found.append(f"A rule keeps {terms.min_keep} of its {what}, at least.")
    return found


def _terms(rules: Sequence[Rule]) -> Terms:
    skip, skipped_by = _first(rules, "skip")
    sparsity, sparsity_by = _first(rules, "sparsity")
    min_keep, _ = _first(rules, "min_keep")
    return Terms(skipped_by if skip else None, sparsity, sparsity_by, min_keep or 0)


def _first(rules: Sequence[Rule], key: str) -> tuple[Any, str | None]:
    return next(
        ((value, rule.layers) for rule in rules if (value := getattr(rule, key)) is not None), (None, None)
    )
