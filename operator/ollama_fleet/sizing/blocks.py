"""What all worst-case graphs share: their inputs, norms, and feed-forward networks.

Only what decides the peak is here: which results are alive at the same time. Additions of biases, scales, soft caps
and further norms write over their input and change nothing.

Source: ``src/llama-graph.cpp`` (``build_ffn``, ``build_moe_ffn``) of llama.cpp, build 10488.
"""

from dataclasses import dataclass, field
from typing import Final

from ollama_fleet.sizing.ggmltypes import GgmlType
from ollama_fleet.sizing.graph import Graph, Node
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Batch:
    """What one graph computes, and over which cache."""

    tokens: int
    """Of a micro-batch."""
    outputs: int
    """Tokens for which logits are wanted."""
    streams: int
    """Sequences, each with its own part of the cache."""
    cells: int
    """Of the cache, per sequence."""
    window_cells: int
    """Of the cache of layers with a sliding window, per sequence."""
    flash: bool
    """Flash attention: no matrix of scores, and a mask of f16."""
    kind: GgmlType
    """Of the cache."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What engines do differently for the same graph."""

    half_copies: bool = True
    """Flash attention over a cache that is not f16 has an f16 copy of it beside its result (CUDA)."""
    rotated: bool = True
    """Before they are quantised, keys and values are rotated."""


@dataclass(slots=True)
class Scene:
    """A graph that is being built, with the inputs that blocks share."""

    model: ModelShape
    batch: Batch
    habits: Habits
    graph: Graph = field(default_factory=Graph)
    _shared: dict[str, Node] = field(default_factory=dict)

    def once(self, name: str, *shape: int, element: int = 4) -> Node:
        """An input that all layers use; it is allocated in the order of first use."""
        found = self._shared.get(name)
        if found is None:
            found = self._shared[name] = self.graph.input(*shape, element=element)
        return found

    def positions(self) -> Node:
        """Of all tokens."""
        return self.once("positions", self.batch.tokens)

    def mask(self, layer: Layer) -> Node:
        """Who may look at whom."""
        batch, element = self.batch, 2 if self.batch.flash else 4
        if self.model.encoder:
            return self.once("mask", batch.tokens, batch.tokens, element=element)
        windowed = layer.window is not None
        cells = batch.window_cells if windowed else batch.cells
        shape = (cells, batch.tokens // batch.streams, 1, batch.streams)
        return self.once("window mask" if windowed else "mask", *shape, element=element)

    def half_copies(self, elements: int) -> int:
        """Bytes of the f16 copies that flash attention makes of so many elements of the cache."""
        return 2 * elements if self.habits.half_copies and self.batch.kind.name != "f16" else 0

    def norm(self, x: Node) -> Node:
        """A norm and its weights."""
        return self.graph.over(self.graph.fresh(x, shape=x.shape) if self.model.centred_norm else self.graph.over(x))

    def project(self, x: Node, width: int) -> Node:
        """A matrix over all rows of ``x``."""
        return self.graph.fresh(x, shape=(width, x.shape[-1]))

    def pick(self, x: Node) -> Node:
        """The rows whose logits are wanted."""
        picked = self.once("picked", self.batch.outputs)
        return self.graph.fresh(x, picked, shape=(x.shape[0], self.batch.outputs))


_WEIGHED_FIRST: Final = frozenset({"llama4"})
"""Tokens are weighed before their experts, not after."""


def feed_forward(scene: Scene, layer: Layer, h: Node) -> Node:
    """The network behind attention: dense, experts, or experts beside a shared one."""
    model = scene.model
    if not model.experts or layer.dense:
        return dense(scene, h, model.feed_forward_length)
    mixed = experts(scene, h)
    if model.shared_expert_length:
        mixed = scene.graph.over(mixed, dense(scene, h, model.shared_expert_length))
    return mixed


def dense(scene: Scene, h: Node, width: int) -> Node:
    """``build_ffn``."""
    graph, model, rows = scene.graph, scene.model, h.shape[-1]
    if model.gate == "none":
        act = graph.over(scene.project(h, width))
    elif model.gate == "fused":
        act = graph.fresh(scene.project(h, 2 * width), shape=(width, rows))
    else:
        gate = scene.project(h, width)
        act = graph.fresh(gate, scene.project(h, width), shape=(width, rows))
    return scene.project(act, model.embedding_length)


def experts(scene: Scene, h: Node) -> Node:
    """``build_moe_ffn``: all chosen experts of all tokens are alive at once."""
    graph, model, rows = scene.graph, scene.model, h.shape[-1]
    used, width, embedding = model.experts_used, model.expert_length, model.embedding_length
    chance = graph.over(scene.project(h, model.experts))
    chosen = graph.view(graph.fresh(chance, shape=(model.experts, rows)), used, rows)
    weights = graph.fresh(graph.view(chance, 1, model.experts, rows), chosen, shape=(1, used, rows))
    graph.expand(weights)
    wide = graph.view(h, embedding, 1, rows)
    first = model.architecture in _WEIGHED_FIRST
    if first:
        wide = graph.over(graph.fresh(wide, shape=(embedding, used, rows)), weights)
    act = graph.fresh(wide, chosen, shape=(width, used, rows))
    if model.gate == "none":
        act = graph.over(act)
    else:
        up = graph.fresh(wide, chosen, shape=(width, used, rows))
        act = graph.fresh(act, up, shape=(width, used, rows))
    down = graph.fresh(act, chosen, shape=(embedding, used, rows))
    if not first:
        down = graph.over(down, weights)
    graph.expand(down)
    parts = [graph.view(down, embedding, rows) for _ in range(used)]
    for part in parts:
        graph.expand(part)
    if used == 1:
        return graph.fresh(parts[0], shape=(embedding, rows))
    mixed = parts[0]
    for part in parts[1:]:
        mixed = graph.over(mixed, part)
        graph.expand(mixed)
    return mixed
