"""Which operators share a kernel: a graph problem, told apart from Relax.

Five rules, in this order:

1. *Operands.* A batched matmul reads its operands through the operators that only move elements in
   front of it: transposed heads, slices of a merged projection.
2. *Epilogues.* From each anchor (convolution, matmul, pooling, row operator) the group grows along
   its result: a consumer joins when it is element-wise, or moves elements one to one, and the
   result has no other way out. Where it has several (`x * sigmoid(x)`), the operators between the
   fork and the place where all ways meet join together. Where another anchor computes the rest, the
   group ends where its result is smallest: a quantized residual stays in bytes.
3. *Choices.* A concatenation of what other kernels need not store first (a rotation of halves in
   rotary embeddings) grows likewise, and takes prologues as an element-wise chain does. With
   another operand it stays alone: that operand's kernel can store its result in place.
4. *Operands of epilogues.* What an epilogue adds or multiplies is computed in it, where nothing
   else needs it and it is as large: a residual's dequantization.
5. *Prologues.* What is left joins the group of its consumers, when all of them are in one group
   that computes its operands on the fly: another element-wise chain, a choice or a row operator.

Reshapes at the border of a group leave it: alone they are views and cost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an operator may be fused with."""

    ELEMENTWISE = "elementwise"  # also with broadcast
    MOVE = "move"  # each output element is a copy of one input element
    RESHAPE = "reshape"  # a move that keeps the order in memory
    ROW = "row"  # takes a prologue and an epilogue: softmax, norms, reductions
    CHOICE = "choice"  # each output element is one of one of its operands: concatenation
    ANCHOR = "anchor"  # takes an epilogue only
    ANCHOR_MOVED = "anchor-moved"  # takes an epilogue, and a prologue that only moves elements
    OPAQUE = "opaque"  # alone


_FOLLOWERS = frozenset({Kind.ELEMENTWISE, Kind.MOVE, Kind.RESHAPE})
_MOVES = frozenset({Kind.MOVE, Kind.RESHAPE})
_LEADERS = frozenset({Kind.ROW, Kind.ANCHOR, Kind.ANCHOR_MOVED})


@dataclass(frozen=True)
class Node:
    """One operator: its kind and the indices of the operators whose results it reads.

    `escapes` says that its result is also needed outside the graph, as a model output is; `size` is
    the number of its result's elements, each of `item_bytes`.
    """

    kind: Kind
    inputs: Sequence[int] = ()
    escapes: bool = False
    size: int = 0
    item_bytes: int = 4


def group(nodes: Sequence[Node], max_ops: int = 64) -> list[list[int]]:
    """Partitions operators, given in topological order, into kernels of at most `max_ops`.

    Returns:
        Groups of node indices in ascending order, sorted by their last member, which is the only
        one whose result leaves the group.
    """
    return _Grouping(nodes, max_ops).groups()


def order(nodes: Sequence[Node], members: Sequence[int]) -> list[int]:
    """A group in an order of execution: what its leader reads, the leader, and then the rest."""
    leader = next((m for m in members if nodes[m].kind in _LEADERS), None)
    if leader is None:
        return list(members)
    ahead = {leader}
    for member in reversed(members):
        if member in ahead:
            ahead.update(set(members).intersection(nodes[member].inputs))
    return [*(m for m in members if m in ahead), *(m for m in members if m not in ahead)]


class _Grouping:
    def __init__(self, nodes: Sequence[Node], max_ops: int) -> None:
        self.nodes = nodes
        self.max_ops = max_ops
        self.consumers: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            for producer in sorted(set(node.inputs)):
                self.consumers[producer].append(index)
        # A group is named by its last member.
        self.owner = list(range(len(nodes)))
        self.members = {index: [index] for index in self.owner}
        self.mapped: set[int] = set()  # choices that read only what can be computed on the fly

    def groups(self) -> list[list[int]]:
        for index, node in enumerate(self.nodes):
            if node.kind is Kind.ANCHOR_MOVED:
                self._take_operands(index)
        for index, node in enumerate(self.nodes):
            if node.kind in _LEADERS:
                self._grow(index)
        for index, node in enumerate(self.nodes):
            if node.kind is Kind.CHOICE and self._is_mapped(node):
                self.mapped.add(index)
                self._grow(index)
        for join in (self._join_epilogue, self._join_consumers):
            for index in reversed(range(len(self.nodes))):
                if len(self.members.get(index, ())) == 1:
                    join(index)
        for last in list(self.members):
            self._peel_reshapes(last)
        return [self.members[last] for last in sorted(self.members)]

    def _join(self, index: int, other: int) -> None:
        last = max(self.owner[index], self.owner[other])
        first = min(self.owner[index], self.owner[other])
        self.members[last] = sorted(self.members[last] + self.members.pop(first))
        for member in self.members[last]:
            self.owner[member] = last

    def _take_operands(self, anchor: int) -> None:
        for index in range(anchor - 1, -1, -1):
            moves = self.nodes[index].kind in _MOVES and not self.nodes[index].escapes
            readers = {self.owner[consumer] for consumer in self.consumers[index]}
            alone = len(self.members.get(index, ())) == 1
            room = len(self.members[anchor]) < self.max_ops
            if moves and alone and room and readers == {anchor}:
                self._join(index, anchor)

    def _is_mapped(self, choice: Node) -> bool:
        return bool(choice.inputs) and all(
            self.nodes[index].kind in _FOLLOWERS
            and not self.nodes[index].escapes
            and len(self.consumers[index]) == 1
            and len(self.members.get(index, ())) == 1
            for index in choice.inputs
        )

    def _grow(self, tail: int) -> None:
        tails = [tail]
        while not self.nodes[tail].escapes:
            room = self.max_ops - len(self.members[self.owner[tail]])
            block = self._until_ways_meet(tail, room)
            if not block:
                return
            if any(len(self.members.get(index, ())) != 1 for index in block):
                self._shrink(tails)
                return
            for index in block:
                self._join(tail, index)
            tail = block[-1]
            tails.append(tail)

    def _shrink(self, tails: list[int]) -> None:
        """Releases what makes the result larger, for the group that reads it to compute."""
        smallest = tails[-1]
        for index in reversed(tails):
            if self._result_bytes(index) < self._result_bytes(smallest):
                smallest = index
        rest = [index for index in tails if index > smallest]
        group = self.members[self.owner[smallest]]
        if any(index > smallest and index not in rest for index in group):
            return
        if any(self.nodes[index].kind is not Kind.ELEMENTWISE for index in rest):
            return
        group = [index for index in group if index not in rest]
        del self.members[tails[-1]]
        for one in (group, *([index] for index in rest)):
            self.members[one[-1]] = one
            for index in one:
                self.owner[index] = one[-1]

    def _result_bytes(self, index: int) -> int:
        return self.nodes[index].size * self.nodes[index].item_bytes

    def _until_ways_meet(self, tail: int, room: int) -> list[int]:
        """The operators after `tail` up to where all ways from it meet; empty if they do not."""
        block: list[int] = []
        todo = set(self.consumers[tail])
        while todo and len(block) < room:
            index = min(todo)  # topologically first: nothing open leads to it any more
            todo.discard(index)
            if self.nodes[index].kind not in _FOLLOWERS:
                return []
            block.append(index)
            if not todo:
                return block
            if self.nodes[index].escapes or not self.consumers[index]:
                return []
            todo.update(self.consumers[index])
        return []

    def _join_epilogue(self, index: int) -> None:
        node = self.nodes[index]
        targets = {self.owner[consumer] for consumer in self.consumers[index]}
        if node.kind is not Kind.ELEMENTWISE or node.escapes or len(targets) != 1:
            return
        group = self.members[targets.pop()]
        kinds = {self.nodes[member].kind for member in group}
        readers = [self.nodes[consumer] for consumer in self.consumers[index]]
        alike = all(one.kind is Kind.ELEMENTWISE and one.size == node.size for one in readers)
        if kinds & {Kind.ANCHOR, Kind.ANCHOR_MOVED} and alike and len(group) < self.max_ops:
            self._join(index, group[-1])

    def _join_consumers(self, index: int) -> None:
        node = self.nodes[index]
        targets = {self.owner[consumer] for consumer in self.consumers[index]}
        if node.kind not in _FOLLOWERS or node.escapes or len(targets) != 1:
            return
        group = self.members[targets.pop()]
        kinds = {self.nodes[member].kind for member in group}
        if len(group) >= self.max_ops or kinds & {Kind.OPAQUE, Kind.ANCHOR, Kind.ANCHOR_MOVED}:
            return
        if any(self.nodes[m].kind is Kind.CHOICE and m not in self.mapped for m in group):
            return
        self._join(index, group[-1])

    def _peel_reshapes(self, last: int) -> None:
        group = self.members[last]
        while len(group) > 1:
            inside = set(group)
            border = [
                index
                for index in group
                if self.nodes[index].kind is Kind.RESHAPE
                and (index == group[-1] or not inside.intersection(self.nodes[index].inputs))
            ]
            if not border:
                break
            for index in border:
                group.remove(index)
                self.members[index] = [index]
                self.owner[index] = index
        if group:
            self.members[group[-1]] = group
            for index in group:
                self.owner[index] = group[-1]
