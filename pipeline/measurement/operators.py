"""What ran of a model on a device: which operators a delegate took, by which kernels, and how long each took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipeline.measurement.measurement import Record

XNNPACK = "XNNPACK"


class Kernel(Record):
    """A kernel of a delegate's, by the delegate's own name for it; `ns` in the mean, where it was timed."""

    name: str
    ns: float | None = None


class Node(Record):
    """One operator as it ran, or all those that a delegate took over at once.

    `output` is the tensor it writes, `by` the delegate (null: the runtime's own kernels), `took` the kinds of what the
    delegate took. `sparse`: whether a kernel for sparse weights ran, null where nobody tells. `ns` in the mean.
    """

    kind: str
    output: str
    by: str | None = None
    took: tuple[str, ...] = ()
    sparse: bool | None = None
    ns: float | None = None
    kernels: tuple[Kernel, ...] = ()

    @property
    def title(self) -> str:
        """The operator, or the delegate with how much it took."""
        if not self.by:
            return self.kind
        return f"{_called(self.by)}: {len(self.took)} operator{'' if len(self.took) == 1 else 's'}"


class Row(Record):
    """A line of the table of times: an operator of the runtime's own, or a kernel of a delegate's."""

    name: str
    where: str
    ns: float
    share: float


class Operators(Record):
    """All operators of one inference in the order in which they ran, or the `reason` why nobody knows.

    Times are means of `runs` inferences; `whole_ns` is the mean inference without the stopwatches.
    """

    runs: int = 0
    whole_ns: float | None = None
    nodes: tuple[Node, ...] = ()
    reason: str | None = None

    @property
    def sparse(self) -> bool | None:
        """Whether any kernel for sparse weights ran; None where that is not told of each operator."""
        told = [node.sparse for node in self.nodes]
        return True if True in told else None if not told or None in told else False

    @property
    def sentences(self) -> tuple[str, ...]:
        """Who took what, what was left, and whether sparse kernels ran."""
        if self.reason is not None:
            return (f"what ran is not known: {self.reason}",)
        whole = sum(len(node.took) if node.by else 1 for node in self.nodes)
        found = [_taken(by, self.nodes, whole) for by in dict.fromkeys(n.by for n in self.nodes if n.by)]
        left = [node.kind for node in self.nodes if not node.by]
        if left:
            found.append(f"the runtime's own kernels ran {_counted(left)}")
        return (*found, f"sparse kernels: {self._sparse_in_words()}")

    def _sparse_in_words(self) -> str:
        if self.sparse is None:
            return "not told"
        if not self.sparse:
            return "none ran"
        own = [node.kind for node in self.nodes if node.sparse and not node.by]
        theirs = [
            kernel.name for node in self.nodes if node.sparse for kernel in node.kernels if _is_sparse(kernel)
        ]
        return f"{_counted([*own, *theirs])} ran"

    @property
    def timed_ns(self) -> float | None:
        """What all operators took together; None where they were not timed."""
        times = [node.ns for node in self.nodes]
        return None if not times or None in times else sum(time for time in times if time is not None)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The times, the longest first: of each operator, and in place of a delegate those of its kernels, and of what
        it did between them.
        """
        whole = self.timed_ns
        if not whole:
            return ()
        parts = [part for node in self.nodes for part in _parts(node)]
        rows = [Row(name=name, where=where, ns=ns, share=ns / whole) for name, where, ns in parts]
        return tuple(sorted(rows, key=lambda row: -row.ns))

    @property
    def account(self) -> str | None:
        """The sum of the operators beside the whole inference."""
        if self.timed_ns is None or not self.whole_ns:
            return None
        return (
            f"the operators sum up to {self.timed_ns / 1e6:.4g} ms, {self.timed_ns / self.whole_ns:.1%} of the"
            f" {self.whole_ns / 1e6:.4g} ms that an inference takes (means of {self.runs} each)"
        )


def _parts(node: Node) -> Iterable[tuple[str, str, float]]:
    assert node.ns is not None
    if not node.by:
        yield node.kind, node.output, node.ns
        return
    by, rest = _called(node.by), node.ns
    for kernel in node.kernels:
        if kernel.ns is not None:
            rest -= kernel.ns
            yield kernel.name, by, kernel.ns
    yield ("between its kernels" if node.kernels else node.title), by, max(0.0, rest)


def _taken(by: str, nodes: Iterable[Node], whole: int) -> str:
    parts = [node for node in nodes if node.by == by]
    count = sum(len(node.took) for node in parts)
    return f"{_called(by)} took {count} of {whole} operators" + (
        f" in {len(parts)} parts" if len(parts) > 1 else ""
    )


def _called(by: str | None) -> str:
    return XNNPACK if by == "TfLiteXNNPackDelegate" else by or ""


def _is_sparse(kernel: Kernel) -> bool:
    return "spmm" in kernel.name.lower()


def _counted(names: Iterable[str]) -> str:
    """`2 FULLY_CONNECTED, SOFTMAX`."""
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in Counter(names).items())
