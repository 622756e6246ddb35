"""What a delegate takes of a graph: the runs of operators it gets, and the paddings that XNNPACK folds away in them."""

from __future__ import annotations

import heapq

from pipeline.sparse_tflite.operators import Graph, Operator


def partitions(graph: Graph, delegated: frozenset[str], direct: frozenset[int]) -> list[list[Operator]]:
    """The runs of operators that the delegate takes, as TFLite cuts a graph: as many at once as can run.

    A run goes on while there is an operator of its kind, taken or not, whose inputs are all there; it begins with the
    first operator in the graph's order that can run.
    """
    states = {tensor.number for tensor in graph.tensors} - set(graph.producers)
    known = set(graph.static | graph.inputs | states)
    operators = graph.computing
    awaited: dict[int, list[int]] = {}
    missing = []
    # What can run now, by place in the graph; of those the delegate does not take, and of those it takes.
    ready: tuple[list[int], list[int]] = ([], [])
    takes = [each.kind in delegated and each.number not in direct for each in operators]
    for place, operator in enumerate(operators):
        needs = {tensor.number for tensor in operator.inputs if tensor is not None} - known
        missing.append(len(needs))
        for number in needs:
            awaited.setdefault(number, []).append(place)
        if not needs:
            ready[takes[place]].append(place)
    found: list[list[Operator]] = []
    while any(ready):
        by_it = min((each[0], kind) for kind, each in enumerate(ready) if each)[1]
        run = []
        while ready[by_it]:
            place = heapq.heappop(ready[by_it])
            run.append(operators[place])
            for number in {tensor.number for tensor in operators[place].outputs}:
                for reader in awaited.pop(number, ()):
                    missing[reader] -= 1
                    if not missing[reader]:
                        heapq.heappush(ready[takes[reader]], reader)
        found += [run] if by_it else []
    return found


def folded_paddings(graph: Graph, operators: list[Operator]) -> dict[int, Operator]:
    """The PAD that XNNPACK folds into a convolution, by the convolution's number: zeros around an image that nobody
    else reads."""
    found = {}
    numbers = {each.number for each in operators}
    for operator in operators:
        pad = graph.producers.get(operator.source.number) if operator.source is not None else None
        if (
            operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
            and operator.options.padding == 1
            and pad is not None
            and pad.kind == "PAD"
            and pad.number in numbers
            and len(graph.readers[pad.outputs[0].number]) == 1
            and pad.outputs[0].number not in graph.outputs
            and (around := pad.inputs[1]) is not None
            and around.integers is not None
            and len(around.integers) == 8
            and not any((*around.integers[:2], *around.integers[6:]))
        ):
            found[operator.number] = pad
    return found
