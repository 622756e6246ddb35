"""The TFLite runtimes' rules as data: each file of this folder is a release, and says as RUNTIME what it does.

What stands there was measured with the release itself, on x86-64 and on emulated Arm cores, and read in its sources.
What nobody has measured is not listed, and what is not listed is never written.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.sparse_tflite.clusters import Rules
from pipeline.sparse_tflite.operators import Operator, Precision
from pipeline.sparse_tflite.stored_weights import Encoding
from targets.cores import Core

# What becomes of weights stored so: a kernel of the runtime's own computes with the zeros left out; they are made
# dense when the model is loaded; the answers are wrong; the model does not load.
Fate = Literal["kernel", "densified", "wrong", "refused"]
# What the wheels of both names register besides the builtin operators.
CUSTOMS = frozenset({"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"})
BreakEven = Mapping[tuple[Core, Encoding], float]
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class Storage:
    """What becomes of the weights of these operators, in this precision, stored in this encoding; `words` tell people
    what the runtime does then, where the fate does not say it all. Operators below `version`, which is the one that is
    written, do not load, and `words` say why."""

    operators: tuple[str, ...]
    precision: Precision
    encoding: Encoding
    fate: Fate
    words: str = ""
    version: int = 1


@dataclass(frozen=True, eq=False)
class Runtime:
    """A release of a runtime.

    `versions` has the first and last version of each builtin operator; `customs` the names of custom operators.
    `xnnpack` says how its XNNPACK makes clusters, `sparse_cores` where it does. `break_even` has, for a core and an
    encoding that a kernel reads, the share of zeros (of zero blocks) above which that kernel is faster than the dense
    one; no entry: it never is. `needs_bias` are the cores on which an int8 FULLY_CONNECTED without a bias ends the
    process, but for a vector product that the runtime has a kernel of its own for.
    """

    name: str
    release: str
    versions: Mapping[str, tuple[int, int]]
    customs: frozenset[str]
    storage: tuple[Storage, ...]
    xnnpack: Rules
    sparse_cores: frozenset[Core]
    break_even: BreakEven
    needs_bias: frozenset[Core] = frozenset()

    @property
    def title(self) -> str:
        """`ai-edge-litert 2.3`."""
        return f"{self.name} {self.release}"

    def fate(self, operator: Operator, encoding: Encoding) -> Storage | None:
        """What becomes of an operator's weights in an encoding; None where nobody has measured it."""
        for each in self.storage:
            asked = (operator.precision, encoding) == (each.precision, each.encoding)
            if asked and operator.kind in each.operators:
                return each
        return None


def by_last(groups: Mapping[int, str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Operators and their versions, from the names (with spaces between) that a last version has; the first is 1."""
    for last, names in groups.items():
        for name in names.split():
            yield name, (1, last)


def named(names: str) -> frozenset[str]:
    """Operators, from their names with spaces between."""
    return frozenset(names.split())


def names() -> list[str]:
    """The files there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def load(name: str) -> Runtime:
    """The rules of a runtime by its name, `ai-edge-litert`. Raises `ValueError` for an unknown one."""
    known: dict[str, Runtime] = {}
    for file in names():
        runtime: Runtime = importlib.import_module(f"{__name__}.{file}").RUNTIME
        known[runtime.name] = runtime
    if name not in known:
        raise ValueError(f"unknown runtime {name!r}; known: {', '.join(sorted(known))}")
    return known[name]
