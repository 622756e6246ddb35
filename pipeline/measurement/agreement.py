"""Do two variants of a model give the same answers?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

# Of the greatest output. In int8 it is one step of the output where that is more.
LIMITS = {"float32": 1e-4, "float16": 1e-2, "dynamic_range": 1e-2, "int8": 1e-4}
# A step is a float32 number; so are its multiples, which are rounded.
ROUNDED = 1.01


class Agreement(BaseModel):
    """The outputs of a variant beside those of its twin, on the same inputs.

    `greatest_difference` is relative to the greatest number that the twin puts out, and null where a number is not
    finite; of several outputs it is that of the one named `output`, which differs most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    greatest_difference: float | None
    limit: float = LIMITS["float32"]
    agrees: bool
    output: str | None = None

    @property
    def sentence(self) -> str:
        """What is wrong where they do not agree."""
        where = f"{self.output}: " if self.output else ""
        if self.greatest_difference is None:
            return f"{where}an output is not a finite number, or only one of the two is zero ({self.samples} inputs)"
        return (
            f"{where}the sparse file differs from its dense twin by {self.greatest_difference:.2g} of the greatest"
            f" output (limit {self.limit:g}, {self.samples} inputs)"
        )


def compare_all(
    twin: Mapping[str, np.ndarray],
    variant: Mapping[str, np.ndarray],
    precision: str = "float32",
    quantum: float = 0.0,
) -> Agreement:
    """Compare every output by its name, the empty text for the only one; the agreement is that of the worst."""
    if set(twin) != set(variant):
        raise ValueError(f"expected outputs of the same names, received {list(twin)} and {list(variant)}")
    every = [
        compare(twin[name], variant[name], precision, quantum).model_copy(update={"output": name or None})
        for name in twin
    ]
    return max(every, key=_excess)


def _excess(one: Agreement) -> float:
    return np.inf if one.greatest_difference is None else one.greatest_difference / one.limit


def compare(
    twin: np.ndarray, variant: np.ndarray, precision: str = "float32", quantum: float = 0.0
) -> Agreement:
    """Compare outputs (samples, ...) of one shape; NaN and infinity never agree with anything.

    `precision` is what the model computes in, `quantum` the step between neighbouring values of its output.
    """
    if twin.shape != variant.shape:
        raise ValueError(f"expected outputs of one shape, received {twin.shape} and {variant.shape}")
    limit = LIMITS[precision]
    # Whole numbers would overflow in their own type, and of truth values there is no difference.
    twin, variant = (
        each.astype(np.float64) if each.dtype.kind in "biu" else each for each in (twin, variant)
    )
    if not (np.isfinite(twin).all() and np.isfinite(variant).all()):
        return Agreement(samples=len(twin), greatest_difference=None, limit=limit, agrees=False)
    scale = float(np.abs(twin).max(initial=0.0))
    difference = float(np.abs(twin - variant).max(initial=0.0))
    relative = difference / scale if scale else (0.0 if difference == 0 else float("inf"))
    limit = max(limit, ROUNDED * quantum / scale) if scale else limit
    return Agreement(
        samples=len(twin),
        greatest_difference=relative if np.isfinite(relative) else None,
        limit=limit,
        agrees=relative <= limit,
    )
