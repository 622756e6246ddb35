"""The channel-first clusters that XNNPACK's sparse inference makes of a graph, and where they end in wrong answers.

After `xnn_subgraph_rewrite_for_nchw` of XNNPACK's src/subgraph.c. A node that cannot join spoils what follows it, down
to the tail; what stands before it is a cluster still. The last node of that one reads channel-first data and writes
channel-first data, which the spoiling node then reads as channel-last: a wrong answer, and no error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.sparse_tflite.fitness import EXACTLY, Fitness, FitnessRules, Role, fitness
from pipeline.sparse_tflite.operators import Graph, Operator
from pipeline.sparse_tflite.partitions import folded_paddings, partitions
from pipeline.sparse_tflite.tables import Tensor

# Sparse inference needs more zeros than two thirds of a cluster's weights in 1x1 convolutions.
ZEROS, OF_WEIGHTS = 3, 2


@dataclass(frozen=True)
class Rules:
    """What a release of XNNPACK does: the operators its delegate takes, and which of them fit a cluster.

    `convolution_ends`: whether it runs a 1x1 convolution that follows the mean and ends the cluster; else it gives up.
    """

    delegated: frozenset[str]
    fitness: FitnessRules
    convolution_ends: bool


@dataclass(frozen=True)
class Mislaid:
    """An operator whose output is read in another layout than it is written in; `loads` is False where the runtime
    notices and gives up."""

    reason: str
    remedy: str
    loads: bool


@dataclass
class Clusters:
    """What sparse inference would do to a graph, by the operators' numbers.

    `channel_first` read channel-first data, `heads` write it; `mislaid` answer wrongly; `why_not` tells for an operator
    outside of every working cluster what stands in the way: (reason, remedy).
    """

    channel_first: set[int] = field(default_factory=set)
    heads: set[int] = field(default_factory=set)
    mislaid: dict[int, Mislaid] = field(default_factory=dict)
    why_not: dict[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(eq=False)
class _Node:
    operator: Operator
    inputs: list[int]
    fit: Fitness
    role: Role
    leader: int
    spoiled: bool = False
    weights: int = 0
    zeros: int = 0
    blame: tuple[str, str] = ("", "")


class _Partition:
    """One run of operators that the delegate takes together."""

    def __init__(self, graph: Graph, operators: list[Operator], rules: Rules) -> None:
        self.graph, self.rules = graph, rules
        folded = folded_paddings(graph, operators)
        self.nodes = [
            self._node(number, operator, folded.get(operator.number))
            for number, operator in enumerate(each for each in operators if each not in folded.values())
        ]
        self.producer = {tensor.number: node for node in self.nodes for tensor in node.operator.outputs}
        inside = {node.operator for node in self.nodes} | set(folded.values())
        self.external = set(graph.inputs | graph.outputs) | {
            number
            for number, readers in graph.readers.items()
            if number not in self.producer or any(reader not in inside for reader in readers)
        }
        self.consumers: dict[int, list[_Node]] = {}
        for node in self.nodes:
            for number in set(node.inputs):
                self.consumers.setdefault(number, []).append(node)

    def _node(self, number: int, operator: Operator, pad: Operator | None) -> _Node:
        moving = [
            tensor.number
            for tensor in operator.inputs
            if tensor is not None and tensor.number not in self.graph.static
        ]
        padding: Tensor | None = None
        if pad is not None and pad.source is not None:
            moving, padding = [pad.source.number, *moving[1:]], pad.inputs[1]
        fit = fitness(self.graph, operator, padding, self.rules.fitness)
        return _Node(operator, moving, fit, fit.role, number)

    def _join_producers(self, node: _Node) -> bool:
        """Bring the producers of a node's inputs into its cluster; whether that changed anything."""
        changed = False
        for number in node.inputs:
            producer = None if number in self.external else self.producer[number]
            if producer is None or producer.spoiled or not producer.role & (Role.HEAD | Role.INSIDE):
                node.spoiled = True
                node.blame = self._blame(number, producer)
                continue
            producer.role &= ~Role.TAIL
            if producer.leader != node.leader:
                producer.leader = node.leader = max(producer.leader, node.leader)
                changed = True
        return changed

    def _blame(self, number: int, producer: _Node | None) -> tuple[str, str]:
        if producer is None:
            made = self.graph.producers.get(number)
            if number in self.graph.outputs and made is not None:
                remedy = "give the second output from the end of the network, or leave it out"
                return f"{made.title} is an output of the model and goes on as well", remedy
            if made is None:
                return "the cluster has no beginning: it reads the model's input directly", BEGIN
            return f"{made.title} is not taken by XNNPACK or is read by an operator that is not", ""
        return producer.blame if producer.spoiled else (producer.fit.reason, producer.fit.remedy)

    def grow(self) -> bool:
        """Grow the clusters from their tails upwards; False where no cluster has a tail."""
        changed = False
        for node in self.nodes:
            if node.role & Role.TAIL:
                changed |= self._join_producers(node)
        found = changed
        while changed:
            changed = False
            for node in self.nodes:
                if not node.spoiled and node.role & (Role.INSIDE | Role.TAIL):
                    changed |= self._join_producers(node)
        return found

    def spoil(self) -> None:
        """Spoil the clusters that a spoiled node leads to, or of whose values somebody outside reads."""
        for node in self.nodes:
            if node.spoiled:
                self._spoil_leader(node, node.blame)
        reading: dict[int, int] = {}
        for node in self._clustered():
            for number in set(node.inputs):
                reading[number] = reading.get(number, 0) + 1
        for node in self._clustered():
            for number in node.inputs:
                if reading[number] != len(self.consumers[number]) + (number in self.graph.outputs):
                    others = [each for each in self.consumers[number] if not each.role & Role.INSIDE]
                    blame = (others[0].fit.reason, others[0].fit.remedy) if others else (TWICE, "")
                    self._spoil_leader(node, blame)

    def _clustered(self) -> list[_Node]:
        """The nodes that read as part of a cluster that is not spoiled."""
        return [
            node
            for node in self.nodes
            if not self.nodes[node.leader].spoiled and node.role & (Role.INSIDE | Role.TAIL)
        ]

    def _spoil_leader(self, node: _Node, blame: tuple[str, str]) -> None:
        leader = self.nodes[node.leader]
        if not leader.spoiled:
            leader.spoiled, leader.blame = True, blame

    def count(self) -> None:
        """Count weights and zeros of each cluster's matrices."""
        for node in self.nodes:
            weights = node.operator.weights
            one_by_one = node.operator.kind == "CONV_2D" and weights and weights.shape[1:3] == (1, 1)
            if weights and (one_by_one or node.operator.kind == "FULLY_CONNECTED"):
                self.nodes[node.leader].weights += weights.size
                self.nodes[node.leader].zeros += weights.size - weights.nonzeros

    def settle(self, clusters: Clusters) -> None:
        """Write down what becomes of each node."""
        sparse = [node for node in self._clustered() if self._sparse_enough(node)]
        values = {number for node in sparse for number in node.inputs}
        clusters.channel_first |= {node.operator.number for node in sparse}
        for node in self.nodes:
            number, written = node.operator.number, {tensor.number for tensor in node.operator.outputs}
            if node in sparse:
                if not node.role & Role.TAIL and not written <= values and (found := self._mislaid(node)):
                    clusters.mislaid[number] = found
            elif node.role & Role.HEAD and written <= values:
                clusters.heads.add(number)
            else:
                clusters.why_not[number] = self._why_not(node)

    def _sparse_enough(self, node: _Node) -> bool:
        leader = self.nodes[node.leader]
        return leader.zeros * ZEROS > leader.weights * OF_WEIGHTS

    def _mislaid(self, node: _Node) -> Mislaid | None:
        """None where both layouts are the same: of a vector, after the mean."""
        (written,) = node.operator.outputs
        readers = self.consumers.get(written.number, [])
        culprit = next((each for each in readers if not each.role & Role.INSIDE or each.spoiled), None)
        if written.number in self.external or culprit is None:
            reader, remedy = "whoever reads the model's output", "end the network with GlobalAveragePooling2D"
            if written.number in self.consumers:
                remedy = "give the second output from the end of the network, or leave it out"
        else:
            reader, remedy = culprit.fit.reason or culprit.operator.title, culprit.fit.remedy
        if written.spatial > 1:
            told = f"{node.operator.title} writes channel-first data that is read as channel-last"
            return Mislaid(f"{told}: {reader}", remedy, loads=True)
        if node.operator.kind != "CONV_2D" or self.rules.convolution_ends:
            return None
        told = f"{node.operator.title} ends a cluster as a 1x1 convolution after the mean"
        return Mislaid(told, MEAN_THEN_DENSE, loads=False)

    def _why_not(self, node: _Node) -> tuple[str, str]:
        leader = self.nodes[node.leader]
        if not node.role:
            return node.fit.reason, node.fit.remedy
        if node.spoiled or leader.spoiled:
            return node.blame if node.spoiled else leader.blame
        if not leader.weights:
            return "the cluster has no 1x1 convolution", ""
        if not self._sparse_enough(node):
            share = (
                f"{leader.zeros / leader.weights:.0%} of the cluster's weights in 1x1 convolutions are zeros"
            )
            return f"{share}, more than 2/3 are needed", "prune more: 70 % or above in every 1x1 convolution"
        return NO_TAIL


MEAN_THEN_DENSE = f"use Dense after GlobalAveragePooling2D without keepdims{EXACTLY}"
BEGIN = "begin with a 3x3 convolution of stride 2 on 3 channels: ZeroPadding2D(1), then padding='valid'"
TWICE = "a value of the cluster is read twice by one operator"
NO_TAIL = ("the cluster has no end: no mean over height and width", "end with GlobalAveragePooling2D")


def find_clusters(graph: Graph, rules: Rules, direct: frozenset[int] = frozenset()) -> Clusters:
    """What sparse inference would make of a graph, were it asked for: its weights count as they are, however stored.

    The operators numbered in `direct` read their sparse weights themselves, and XNNPACK does not take them.
    """
    clusters = Clusters()
    for operators in partitions(graph, rules.delegated, direct):
        partition = _Partition(graph, operators, rules)
        if partition.grow():
            partition.spoil()
            partition.count()
            partition.settle(clusters)
        else:
            for node in partition.nodes:
                reason = NO_TAIL if node.role else (node.fit.reason, node.fit.remedy)
                clusters.why_not[node.operator.number] = reason
    return clusters
