"""How much memory a compute graph needs: ggml's own allocator, on graphs that only have sizes.

llama.cpp reserves its compute buffer by running the allocator over a worst-case graph. Doing the same with the same
rules (what may overwrite its input, when memory is given back, which gap is taken) gives the same number, which no
closed formula does: the peak moves between attention, feed-forward and output as the model's widths change.

Source: ``ggml/src/ggml-alloc.c`` of llama.cpp, build 10488. Planning asks for many graphs, so the allocator is plain
loops over small lists.
"""

from math import prod
from typing import Final

_ALIGNMENT: Final = 128
"""Of a CUDA buffer."""

Shape = tuple[int, ...]


class Node:
    """A tensor of the graph."""

    __slots__ = ("children", "offset", "over", "root", "seen", "shape", "size", "sources", "views")

    def __init__(self, shape: Shape, size: int, sources: tuple["Node", ...], *, over: bool = False) -> None:
        """``size`` in bytes; ``over``: its operation may write over a source of the same layout."""
        self.shape = shape
        self.size = -(-size // _ALIGNMENT) * _ALIGNMENT
        self.sources = sources
        self.over = over
        self.root: Node | None = None
        """Of a view: whose data it is."""
        self.seen = False
        self.children = 0
        self.views = 0
        self.offset = -1
        """Where it lies while it is allocated."""


class Graph:
    """Nodes in the order in which they are computed. Weights and caches lie elsewhere and are left out.

    As in ggml an operation only stands in the graph when something expands it, behind all that it needs.
    """

    def __init__(self) -> None:
        self._inputs: list[Node] = []
        self._nodes: list[Node] = []

    def input(self, *shape: int, element: int = 4) -> Node:
        """Data that comes from outside."""
        node = Node(shape, prod(shape) * element, ())
        node.seen = True
        self._inputs.append(node)
        return node

    def fresh(self, *sources: Node, shape: Shape, element: int = 4, more: int = 0) -> Node:
        """An operation with a result of its own, and ``more`` bytes to work with."""
        return Node(shape, prod(shape) * element + more, sources)

    def over(self, *sources: Node) -> Node:
        """An operation of ``ggml_op_can_inplace``: its result has the shape of its first source."""
        shape = sources[0].shape
        return Node(shape, prod(shape) * 4, sources, over=True)

    def view(self, source: Node, *shape: int) -> Node:
        """Other dimensions, or a part, of the same data."""
        node = Node(shape, 0, (source,))
        node.root = source.root or source
        return node

    def spend(self, *sources: Node) -> None:
        """An operation that writes to memory elsewhere: to a cache."""
        self.expand(Node((), 0, sources))

    def expand(self, node: Node) -> None:
        """``ggml_build_forward_expand``: what the node needs, from left to right, then the node."""
        if node.seen:
            return
        node.seen = True
        for source in node.sources:
            self.expand(source)
            source.children += 1
        if node.root is not None:
            node.root.views += 1
        self._nodes.append(node)

    def peak(self) -> int:
        """Bytes that the allocator needs for the whole graph. A graph is laid out once."""
        memory = _Memory()
        for node in self._inputs:
            node.offset = memory.take(node.size)
        for node in self._nodes:
            if node.root is None and not (node.over and _take_over(node)):
                node.offset = memory.take(node.size)
            for source in node.sources:
                source.children -= 1
                if source.children == 0 and source.views == 0:
                    _release(memory, source)
        return memory.peak


def _take_over(node: Node) -> bool:
    """Whether the node writes over a source that nobody else needs. A view is nobody's own, so it never is one."""
    for source in node.sources:
        free = source.children == 1 and source.views == 0 and source.offset >= 0
        if free and source.size == node.size and source.shape == node.shape:
            node.offset, source.offset = source.offset, -1
            return True
    return False


def _release(memory: "_Memory", source: Node) -> None:
    root = source.root
    if root is None:
        memory.give(source)
        return
    root.views -= 1
    if root.views == 0 and root.children == 0:
        memory.give(root)


class _Memory:
    """Free gaps in their order; behind the last byte in use there is no end."""

    __slots__ = ("_end", "_gaps", "peak")

    def __init__(self) -> None:
        self._gaps: list[tuple[int, int]] = []
        """Offset and length."""
        self._end = 0
        self.peak = 0

    def take(self, size: int) -> int:
        """The smallest gap that is large enough, the last one of several, else room at the end."""
        if not size:
            return -1
        best, chosen = 0, -1
        for index, (_, length) in enumerate(self._gaps):
            if length >= size and (chosen < 0 or length <= best):
                best, chosen = length, index
        if chosen < 0:
            offset = self._end
            self._end = offset + size
            self.peak = max(self.peak, self._end)
            return offset
        offset = self._gaps[chosen][0]
        if best == size:
            del self._gaps[chosen]
        else:
            self._gaps[chosen] = (offset + size, best - size)
        return offset

    def give(self, node: Node) -> None:
        """Take back what a node holds, if it does, and join it with the gaps beside it."""
        offset = node.offset
        if offset < 0:
            return
        node.offset = -1
        gaps, end = self._gaps, offset + node.size
        index = 0
        while index < len(gaps) and gaps[index][0] < offset:
            index += 1
        if index and sum(gaps[index - 1]) == offset:
            index -= 1
            offset = gaps.pop(index)[0]
        if index < len(gaps) and gaps[index][0] == end:
            end += gaps.pop(index)[1]
        if end == self._end:
            self._end = offset
        else:
            gaps.insert(index, (offset, end - offset))
