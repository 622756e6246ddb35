"""What a delegate is given of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sparse_tflite.operators import Graph, Operator
from pipeline.sparse_tflite.partitions import partitions
from pipeline.sparse_tflite.tables import Tensor

TAKEN = frozenset({"CONV_2D"})


def graph_of(operators: Sequence[tuple[str, Sequence[int]]]) -> Graph:
    """A graph in which operator n writes tensor n + 1, and reads those named; tensor 0 is what comes in."""
    tensors = tuple(
        Tensor(n, str(n), (1,), "float32", constant=False, fixed=True, integers=None)
        for n in range(len(operators) + 1)
    )
    graph = Graph(tensors, frozenset({0}), frozenset({len(operators)}), [])
    for number, (kind, reads) in enumerate(operators):
        inputs = tuple(tensors[at] for at in reads)
        graph.operators.append(Operator(graph, number, kind, 1, inputs, (tensors[number + 1],), None, None))
    return graph


def pass_by_pass(graph: Graph) -> list[list[int]]:
    """The same by its definition: one pass over all that waits for each run, which is of the first one's kind."""
    known, waiting, found = {0}, list(graph.operators), []
    while waiting:
        run: list[Operator] = []
        for each in waiting:
            if {tensor.number for tensor in each.inputs if tensor} <= known and (
                not run or (each.kind in TAKEN) == (run[0].kind in TAKEN)
            ):
                run.append(each)
                known.add(each.outputs[0].number)
        waiting = [each for each in waiting if each not in run]
        found += [[each.number for each in run]] if run[0].kind in TAKEN else []
    return found


@given(st.data())
def test_a_delegate_gets_as_much_at_once_as_can_run(data: st.DataObject) -> None:
    operators = []
    for number in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(["CONV_2D", "CUSTOM"]))
        operators.append((kind, data.draw(st.lists(st.integers(0, number), min_size=1, max_size=3))))
    graph = graph_of(operators)
    found = [[each.number for each in run] for run in partitions(graph, TAKEN, frozenset())]
    assert found == pass_by_pass(graph)


def test_a_value_that_nobody_writes_is_there_from_the_start() -> None:
    chain = [("CONV_2D", [0]), ("CUSTOM", [1]), ("CONV_2D", [2])]
    found = partitions(graph_of(chain), TAKEN, frozenset())
    assert [[each.number for each in run] for run in found] == [[0], [2]]
    gap = graph_of(chain)
    gap.operators.pop(1)
    assert [[each.number for each in run] for run in partitions(gap, TAKEN, frozenset())] == [[0, 2]]


def test_what_reads_its_sparse_weights_itself_is_not_taken() -> None:
    graph = graph_of([("CONV_2D", [0]), ("CONV_2D", [1]), ("CONV_2D", [2])])
    assert [[each.number for each in run] for run in partitions(graph, TAKEN, frozenset({1}))] == [[0], [2]]
