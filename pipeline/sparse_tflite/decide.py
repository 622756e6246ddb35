"""What becomes of an operator on a runtime and a core: the one query of convert, lint and whoever tunes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.sparse_tflite.clusters import Clusters, find_clusters
from pipeline.sparse_tflite.operators import Graph, Operator
from pipeline.sparse_tflite.runtimes import Runtime, Storage
from pipeline.sparse_tflite.stored_weights import BLOCKS, Encoding, Weights
from targets.cores import Core

Outcome = Literal[
    "runs sparse", "runs dense", "stored sparse for size only", "would be wrong", "does not load"
]
BAD: tuple[Outcome, ...] = ("would be wrong", "does not load")
DIRECT: tuple[Encoding, ...] = ("fc_1x4", "fc_1x16", "fc_unstructured")
# The version of FULLY_CONNECTED that knows sparse weights; XNNPACK takes those of any other for dense ones.
SPARSE_VERSION = 8
# The outputs and inputs from which on there is a kernel for the product with one int8 vector.
VECTOR = (4, 8)
# Of the share of zeros: where fewer blocks of 16 hold nothing but zeros, blocks are a waste.
BLOCKY = 0.8
DENSELY = "store the weights densely"
BIAS = "give the layer a bias: `edgepipe rewrite --only zero_bias` adds one of zeros"
OTHER_PRECISION = "convert in float32, float16 or int8"
NO_VALUE = (
    "weights that are stored sparsely without a single value are taken for a constant that was never given"
)
IN_CLUSTER = "in a sparse cluster of XNNPACK's"


@dataclass(frozen=True)
class Decision:
    """How an operator's weights are stored, what comes of it, why, and what would help (empty: nothing known)."""

    encoding: Encoding
    outcome: Outcome
    reason: str
    remedy: str = ""


def decide(operator: Operator, runtime: Runtime, core: Core, encoding: Encoding | None = None) -> Decision:
    """What becomes of the operator with its weights stored in `encoding`, the file's others being as they are.

    Without `encoding`: the best there is for it, if every operator of the graph gets what is best for it. That one
    always loads and answers rightly where the dense file does, and is never larger than dense.
    """
    missing = gate(operator, runtime, core)
    if encoding is not None:
        return missing or _judge(operator, runtime, core, encoding)
    return missing or _best(operator, runtime, core)


def choose(graphs: Sequence[Graph], runtime: Runtime, core: Core) -> dict[tuple[int, int], Decision]:
    """The best for every operator with weights, by subgraph and by the tensor that its weights are stored in.

    A tensor that several operators read is stored as the first of them in the file has it.
    """
    found: dict[tuple[int, int], Decision] = {}
    for at, graph in enumerate(graphs):
        for operator in graph.operators:
            if operator.weights is not None:
                found.setdefault((at, operator.weights.number), decide(operator, runtime, core))
    return found


def gate(operator: Operator, runtime: Runtime, core: Core | None) -> Decision | None:
    """Why the runtime does not have this operator, however its weights are stored; None when it has it. Where the core
    is not known, what is about some cores only is left out."""
    encoding: Encoding = operator.weights.encoding if operator.weights else "dense"
    dense = runtime.fate(operator, "dense")
    if dense is not None and dense.fate == "refused":
        reason = f"{_kind(operator)} is refused by {runtime.title}: {dense.words}"
        return Decision(encoding, "does not load", reason, OTHER_PRECISION)
    if any(tensor is not None and tensor.sparse and not tensor.constant for tensor in operator.inputs):
        return Decision(encoding, "does not load", f"{operator.kind}: {NO_VALUE}", DENSELY)
    if core in runtime.needs_bias and _reads_no_bias(operator):
        told = f"{_kind(operator)} without a bias, with a scale for each output: {runtime.title} crashes on {core}"
        return Decision(encoding, "does not load", told, BIAS)
    kind, _, custom = operator.kind.partition(": ")
    if custom:
        if custom in runtime.customs:
            return None
        reason = f"{runtime.title} does not have the custom operator {custom}"
        remedy = "build the model of layers that TFLite has operators for"
        return Decision(encoding, "does not load", reason, remedy)
    first, last = runtime.versions.get(kind, (0, 0))
    if first <= operator.version <= last:
        return None
    has = f"versions {first} to {last}" if last > first else f"version {last}" if last else "none"
    reason = f"{kind} version {operator.version} is needed, {runtime.title} has {has}"
    return Decision(encoding, "does not load", reason, _gate_remedy(operator, last))


def _reads_no_bias(operator: Operator) -> bool:
    """Whether the operator is one of those that `Runtime.needs_bias` is about."""
    if operator.kind != "FULLY_CONNECTED" or operator.precision != "int8":
        return False
    source, weights, bias = (*operator.inputs, None)[:3]
    if source is None or weights is None or bias is not None or weights.scales < 2 or len(weights.shape) != 2:
        return False
    outputs, inputs = weights.shape
    return math.prod(source.shape) > inputs or inputs < VECTOR[1] or outputs < VECTOR[0]


def _gate_remedy(operator: Operator, last: int) -> str:
    if operator.precision == "dynamic_range":
        return (
            "convert in float32, float16 or int8: dynamic range needs newer versions; or take a newer runtime"
        )
    return "take a newer runtime" if last else "take a newer runtime, or other layers"


@functools.lru_cache(maxsize=8)
def _as_stored(graph: Graph, runtime: Runtime, core: Core) -> Clusters:
    """The clusters that the file as it is brings about: none without a DENSIFY, which is what XNNPACK looks for."""
    asked = any(operator.kind == "DENSIFY" for operator in graph.operators)
    if not asked or core not in runtime.sparse_cores:
        return Clusters()
    direct = {each.number for each in graph.operators if each.weights and each.weights.encoding in DIRECT}
    return find_clusters(graph, runtime.xnnpack, frozenset(direct))


@functools.lru_cache(maxsize=8)
def _at_best(graph: Graph, runtime: Runtime, core: Core) -> Clusters:
    """The clusters that there would be with DENSIFY, every FULLY_CONNECTED being stored as is best for it."""
    if core not in runtime.sparse_cores:
        return Clusters()
    direct = {
        each.number for each in graph.operators if each.weights and _direct(each, runtime, core) is not None
    }
    return find_clusters(graph, runtime.xnnpack, frozenset(direct))


def _sizes_open(graph: Graph) -> bool:
    """Whether sizes are computed at run time, from a batch that is open; XNNPACK then leaves off somewhere."""
    batches = {graph.tensors[at].shape[:1] for at in graph.inputs if graph.tensors[at].shape}
    return batches != {(1,)} or any(operator.kind == "SHAPE" for operator in graph.computing)


def _best(operator: Operator, runtime: Runtime, core: Core) -> Decision:
    weights = operator.weights
    if weights is None:
        return _dense(operator, runtime, core, _at_best(operator.graph, runtime, core))
    if (direct := _direct(operator, runtime, core)) is not None and not _padded_out(
        operator, runtime, direct
    ):
        return direct
    clusters = _at_best(operator.graph, runtime, core)
    storage = runtime.fate(operator, "csr_densify")
    if storage is None or storage.fate != "densified":
        told = storage.words if storage else f"{runtime.title} is not known to read them sparse"
        return Decision("dense", "runs dense", f"{_kind(operator)}: {told}")
    if clusters.mislaid:
        number, found = min(clusters.mislaid.items())
        title = operator.graph.operators[number].title
        fault = f"{title} would answer wrongly" if found.loads else "the model would not load"
        details = f": {found.reason}" if number == operator.number else ""
        told = f"with any weight behind DENSIFY, {fault}{details}"
        return Decision("dense", "runs dense", told, found.remedy)
    dense, sparse = (weights.stored_bytes(encoding) or 0 for encoding in ("dense", "csr_densify"))
    if sparse >= dense:
        larger = f"sparse storage would take {sparse:,} bytes, dense takes {dense:,}"
        return _dense(operator, runtime, core, clusters, larger)
    return _densified(operator, runtime, core, clusters)


@functools.lru_cache(maxsize=64)
def _direct(operator: Operator, runtime: Runtime, core: Core) -> Decision | None:
    """The best encoding that a kernel of the runtime reads as it is; None where none is smaller than dense."""
    weights = operator.weights
    if weights is None or operator.options is None or not _own_matrix(operator):
        return None
    dense = weights.stored_bytes("dense")
    found: list[tuple[bool, int, Decision]] = []
    for encoding in DIRECT:
        storage, size = runtime.fate(operator, encoding), weights.stored_bytes(encoding)
        if storage and storage.fate == "kernel" and size is not None and dense is not None and size < dense:
            decision = _kernel(operator, runtime, core, storage)
            found.append((decision.outcome != "runs sparse", size, decision))
    return min(found, key=lambda each: each[:2])[2] if found else None


def _padded_out(operator: Operator, runtime: Runtime, direct: Decision) -> bool:
    """Whether blocks of 16 would store more zeros than their speed is worth, where single weights do with less: the
    share of zero blocks is below `BLOCKY` of that of zeros, the bound of TensorFlow's own converter."""
    weights, storage = operator.weights, runtime.fate(operator, "csr_densify")
    if direct.encoding != "fc_1x16" or weights is None or storage is None or storage.fate != "densified":
        return False
    blocks, single = (weights.stored_bytes(encoding) or 0 for encoding in (direct.encoding, "csr_densify"))
    return single < blocks and _zero_blocks(weights, BLOCKS["fc_1x16"]) <= BLOCKY * weights.zeros


def _own_matrix(operator: Operator) -> bool:
    """Whether the weights are a plain matrix that no other operator shares."""
    if operator.kind != "FULLY_CONNECTED" or operator.weights is None or len(operator.weights.shape) != 2:
        return False
    tensor = operator.inputs[1]
    alone = tensor is not None and len(operator.graph.readers[tensor.number]) == 1
    return alone and operator.options.weightsFormat == 0


def _kernel(operator: Operator, runtime: Runtime, core: Core, storage: Storage) -> Decision:
    limit, width = runtime.break_even.get((core, storage.encoding)), BLOCKS.get(storage.encoding, 1)
    share = _zero_blocks(operator.weights, width) if operator.weights else 0.0
    what = "zeros" if width == 1 else f"zero blocks of {width}"
    if limit is not None and share > limit:
        return Decision(storage.encoding, "runs sparse", f"{share:.0%} {what}; {storage.words}")
    faster = f"that is faster above {limit:.0%}" if limit is not None else "that is never faster there"
    return Decision(
        storage.encoding,
        "stored sparse for size only",
        f"{share:.0%} {what}; {storage.words}: on {core} {faster}",
        "prune more of this layer" if limit is not None else "",
    )


def _zero_blocks(weights: Weights, width: int) -> float:
    """The share of blocks that hold no value; where only the values are known, the most it can be."""
    blocks = weights.nonzero_blocks(width)
    return 1 - weights.nonzeros / max(weights.size, 1) if blocks is None else 1 - float(blocks.mean())


def _judge(operator: Operator, runtime: Runtime, core: Core, encoding: Encoding) -> Decision:
    clusters = _as_stored(operator.graph, runtime, core)
    if (mislaid := clusters.mislaid.get(operator.number)) is not None:
        outcome: Outcome = "would be wrong" if mislaid.loads else "does not load"
        return Decision(encoding, outcome, mislaid.reason, mislaid.remedy or DENSELY)
    if encoding == "dense":
        return _dense(operator, runtime, core, clusters)
    storage = runtime.fate(operator, encoding)
    if storage is None:
        told = f"{runtime.title} is not known to read {_kind(operator)} weights as {encoding}"
        return Decision(encoding, "would be wrong", told, DENSELY)
    if storage.fate == "refused":
        return Decision(encoding, "does not load", storage.words, DENSELY)
    if storage.fate == "wrong":
        return Decision(encoding, "would be wrong", storage.words, DENSELY)
    if storage.fate == "densified":
        if operator.version < storage.version:
            return Decision(encoding, "does not load", storage.words, f"write version {storage.version}")
        return _densified(operator, runtime, core, clusters)
    width, inputs = BLOCKS.get(encoding, 1), operator.weights.shape[-1] if operator.weights else 0
    if inputs % width:
        told = f"blocks of {width} do not fill rows of {inputs}: the rest of a row is left out"
        return Decision(encoding, "would be wrong", told, DENSELY)
    if operator.version != SPARSE_VERSION:
        told = f"XNNPACK takes sparse weights for dense ones at version {operator.version} of {operator.kind}"
        return Decision(encoding, "would be wrong", told, f"write version {SPARSE_VERSION}")
    return _kernel(operator, runtime, core, storage)


def _kind(operator: Operator) -> str:
    return f"{operator.precision.replace('_', ' ')} {operator.kind}"


def _densified(operator: Operator, runtime: Runtime, core: Core, clusters: Clusters) -> Decision:
    if _sparse_matrix(operator, clusters):
        return Decision("csr_densify", "runs sparse", f"{_zeros(operator)}, {IN_CLUSTER}")
    why, remedy = _why_not(operator, runtime, core, clusters)
    return Decision("csr_densify", "stored sparse for size only", why, remedy)


def _dense(operator: Operator, runtime: Runtime, core: Core, clusters: Clusters, words: str = "") -> Decision:
    if _sparse_matrix(operator, clusters):
        return Decision("dense", "runs sparse", f"{_zeros(operator)}, {IN_CLUSTER}")
    if operator.number in clusters.channel_first | clusters.heads and not _sizes_open(operator.graph):
        return Decision("dense", "runs dense", f"{IN_CLUSTER}, on channel-first data")
    if operator.weights is None:
        return Decision("dense", "runs dense", *clusters.why_not.get(operator.number, ("has no weights", "")))
    why, remedy = _why_not(operator, runtime, core, clusters)
    told = [words or f"stored densely, {_zeros(operator)}", why]
    return Decision("dense", "runs dense", "; ".join(filter(None, told)), remedy)


def _zeros(operator: Operator) -> str:
    return f"{operator.weights.zeros if operator.weights else 0:.0%} zeros"


def _sparse_matrix(operator: Operator, clusters: Clusters) -> bool:
    """Whether a cluster computes the operator with its zeros left out."""
    inside = operator.number in clusters.channel_first and not _sizes_open(operator.graph)
    return inside and operator.kind == "CONV_2D"


def _why_not(operator: Operator, runtime: Runtime, core: Core, clusters: Clusters) -> tuple[str, str]:
    """Why no sparse kernel computes the operator, and what would help."""
    if operator.kind == "FULLY_CONNECTED":
        return f"{_kind(operator)} has no kernel that reads weights behind DENSIFY as sparse", ""
    if core not in runtime.sparse_cores:
        others = ", ".join(sorted(runtime.sparse_cores))
        return f"{runtime.title} has sparse convolutions on {others} only, not on {core}", ""
    if _sizes_open(operator.graph):
        return "the batch is not 1, or open where a RESHAPE needs it", "convert with a fixed batch of 1"
    if operator.precision not in ("float32", "float16"):
        return f"XNNPACK has no sparse kernel for {_kind(operator)}", "convert in float32 or float16"
    if operator.number in clusters.channel_first:
        return f"{IN_CLUSTER}, which computes with the zeros of this operator", ""
    return clusters.why_not.get(operator.number, ("", ""))
