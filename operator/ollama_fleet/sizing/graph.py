"""How much memory a compute graph needs: ggml's own allocator, on graphs that only have sizes.

llama.cpp reserves its compute buffer by running the allocator over a worst-case graph. Doing the same with the same
rules (what may overwrite its input, when memory is given back, which gap is taken) gives the same number, which no
closed formula does: the peak moves between attention, feed-forward and output as the model's widths change.

Source: ``ggml/src/ggml-alloc.c`` of llama.cpp, build 10488.
"""

import math
from bisect import insort
from dataclasses import dataclass, field
from typing import Final

_ALIGNMENT: Final = 128
"""Of a CUDA buffer."""

Shape = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """A tensor of the graph."""

    shape: Shape
    element: int = 4
    """Bytes per element."""
    sources: tuple["Node", ...] = ()
    view_of: "Node | None" = None
    in_place: bool = False
    """Whether its operation may write over a source of the same layout."""
    children: int = 0
    views: int = 0
    offset: int | None = None
    """Where it lies while it is allocated."""

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.element


@dataclass(slots=True)
class Graph:
    """Nodes in the order in which they are computed. Weights and caches lie elsewhere and are left out."""

    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def input(self, *shape: int, element: int = 4) -> Node:
        """Data that comes from outside."""
        node = Node(shape, element)
        self.inputs.append(node)
        return node

    def op(self, *sources: Node, shape: Shape, in_place: bool = False, element: int = 4) -> Node:
        """An operation with a result of its own; ``in_place`` for those of ``ggml_op_can_inplace``."""
        node = Node(shape, element, sources, in_place=in_place)
        self.nodes.append(node)
        return node

    def over(self, *sources: Node) -> Node:
        """An operation that may overwrite its first source."""
        return self.op(*sources, shape=sources[0].shape, in_place=True, element=sources[0].element)

    def view(self, source: Node, *shape: int) -> Node:
        """Other dimensions, or a part, of the same data."""
        root = source.view_of or source
        node = Node(shape, source.element, (source,), view_of=root)
        self.nodes.append(node)
        return node

    def peak(self) -> int:
        """Bytes that the allocator needs for the whole graph."""
        for node in self.nodes:
            if node.view_of is not None:
                node.view_of.views += 1
            for source in node.sources:
                source.children += 1
        memory = _Memory()
        for node in self.inputs:
            node.offset = memory.take(node.bytes)
        for node in self.nodes:
            _place(memory, node)
            for source in node.sources:
                _release(memory, source)
        return memory.peak


def _place(memory: "_Memory", node: Node) -> None:
    if node.view_of is not None:
        return
    for source in node.sources if node.in_place else ():
        # A view is never written over: the allocator does not hold it for its own.
        free = source.view_of is None and source.children == 1 and source.views == 0
        if free and source.offset is not None and _same_layout(node, source):
            node.offset, source.offset = source.offset, None
            return
    node.offset = memory.take(node.bytes)


def _same_layout(one: Node, other: Node) -> bool:
    return one.shape == other.shape and one.element == other.element


def _release(memory: "_Memory", source: Node) -> None:
    source.children -= 1
    if source.children or source.views:
        return
    root = source.view_of
    if root is None:
        memory.free(source)
        return
    root.views -= 1
    if not root.views and not root.children:
        memory.free(root)


class _Memory:
    """Free gaps by offset; the last one has no end."""

    def __init__(self) -> None:
        self._gaps: list[tuple[int, int]] = []
        self._end = 0
        self.peak = 0

    def take(self, size: int) -> int:
        """The smallest gap that is large enough, else room at the end."""
        size = _aligned(size)
        fitting = [gap for gap in self._gaps if gap[1] >= size]
        if fitting:
            smallest = min(gap[1] for gap in fitting)
            offset, length = next(gap for gap in reversed(fitting) if gap[1] == smallest)
            self._gaps.remove((offset, length))
            if length > size:
                insort(self._gaps, (offset + size, length - size))
            return offset
        offset = self._end
        self._end += size
        self.peak = max(self.peak, self._end)
        return offset

    def free(self, node: Node) -> None:
        """Give back what a node holds, if it does."""
        if node.offset is not None:
            self.give(node.offset, _aligned(node.bytes))
            node.offset = None

    def give(self, offset: int, size: int) -> None:
        """Take a range back and join it with the gaps beside it."""
        if size <= 0:
            return
        end = offset + size
        for gap in [gap for gap in self._gaps if gap[0] + gap[1] == offset or gap[0] == end]:
            self._gaps.remove(gap)
            offset, end = min(offset, gap[0]), max(end, gap[0] + gap[1])
        if end == self._end:
            self._end = offset
        else:
            insort(self._gaps, (offset, end - offset))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
