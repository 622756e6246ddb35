"""What a delegate takes of a graph: the runs of operators it gets, and the paddings that XNNPACK folds away in them."""

from __future__ import annotations

from pipeline.sparse_tflite.operators import Graph, Operator


def partitions(graph: Graph, delegated: frozenset[str], direct: frozenset[int]) -> list[list[Operator]]:
    """The runs of operators that the delegate takes, as TFLite cuts a graph: as many at once as can run."""
    states = {tensor.number for tensor in graph.tensors} - set(graph.producers)
    ready = set(graph.static | graph.inputs | states)
    waiting = graph.computing
    found: list[list[Operator]] = []
    while waiting:
        taken: list[Operator] = []
        left: list[Operator] = []
        taken_by_it = False
        for operator in waiting:
            takes = operator.kind in delegated and operator.number not in direct
            needs = {tensor.number for tensor in operator.inputs if tensor is not None}
            if needs <= ready and (not taken or takes == taken_by_it):
                taken_by_it = takes
                taken.append(operator)
                ready |= {tensor.number for tensor in operator.outputs}
            else:
                left.append(operator)
        if not taken:
            break
        waiting = left
        found += [taken] if taken_by_it else []
    return found


def folded_paddings(graph: Graph, operators: list[Operator]) -> dict[int, Operator]:
    """The PAD that XNNPACK folds into a convolution, by the convolution's number: zeros around an image that nobody
    else reads."""
    found = {}
    for operator in operators:
        pad = graph.producers.get(operator.source.number) if operator.source is not None else None
        if (
            operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
            and operator.options.padding == 1
            and pad is not None
            and pad.kind == "PAD"
            and pad in operators
            and len(graph.readers[pad.outputs[0].number]) == 1
            and pad.outputs[0].number not in graph.outputs
            and (around := pad.inputs[1]) is not None
            and around.integers is not None
            and len(around.integers) == 8
            and not any((*around.integers[:2], *around.integers[6:]))
        ):
            found[operator.number] = pad
    return found
