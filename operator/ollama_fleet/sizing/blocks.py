"""The worst-case graph of a model, block by block, as llama.cpp builds it.

Only what decides the peak is here: which results are alive at the same time. Additions of biases, scales, soft caps
and further norms write over their input and change nothing.

Source: ``src/llama-graph.cpp`` (``build_attn``, ``build_ffn``, ``build_moe_ffn``) and ``src/models/*.cpp`` of
llama.cpp, build 10488.
"""

from dataclasses import dataclass

from ollama_fleet.sizing.graph import Graph, Node
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Batch:
    """What one graph computes."""

    tokens: int
    """Tokens of a micro-batch."""
    outputs: int
    """Tokens for which logits are wanted."""
    streams: int
    """Sequences, each with its own part of the cache."""
    cells: int
    """Cells of the cache per sequence."""
    flash: bool
    """Flash attention: no matrix of scores, and a mask of f16."""


_ABSOLUTE = frozenset({"bert", "jina-bert-v2", "gpt2", "starcoder", "bloom", "mpt"})
"""Positions are added to the embeddings, or biases of the scores."""
_DEEP = 3
"""Equal layers that are laid out: the allocator repeats itself from the second on."""


def compute_bytes(model: ModelShape, batch: Batch, *, window_cells: int) -> int:
    """Bytes of the compute buffer. ``window_cells`` is the cache of layers with a sliding window, per sequence."""
    return _Builder(model, batch, window_cells).build().peak()


class _Builder:
    def __init__(self, model: ModelShape, batch: Batch, window_cells: int) -> None:
        self.model, self.batch, self.window_cells = model, batch, window_cells
        self.graph = Graph()
        self.rows = batch.tokens
        self.masks: dict[bool, Node] = {}

    def build(self) -> Graph:
        graph, model, batch = self.graph, self.model, self.batch
        x = graph.input(model.embedding_length, batch.tokens)
        self.position = graph.input(batch.tokens)
        layers = _distinct(model.layers)
        for windowed in sorted({layer.window is not None for layer in layers if layer.kv_heads}):
            self.masks[windowed] = self._mask(self.window_cells if windowed else self._cells())
        picked = graph.input(batch.outputs)
        for index, layer in enumerate(layers):
            x = self._block(layer, x, picked if index == len(layers) - 1 else None)
        normed = self._norm(x)
        if model.vocabulary and not model.encoder:
            graph.op(normed, shape=(model.vocabulary, self.rows))
        return graph

    def _cells(self) -> int:
        return self.batch.tokens if self.model.encoder else self.batch.cells

    def _mask(self, cells: int) -> Node:
        batch = self.batch
        if self.model.encoder:
            return self.graph.input(cells, batch.tokens, element=2 if batch.flash else 4)
        self.graph.input(batch.tokens, element=8)
        self.graph.input(batch.tokens, element=8)
        shape = (cells, batch.tokens // batch.streams, 1, batch.streams)
        return self.graph.input(*shape, element=2 if batch.flash else 4)

    def _norm(self, x: Node) -> Node:
        graph = self.graph
        return graph.over(graph.op(x, shape=x.shape, in_place=True))

    def _block(self, layer: Layer, x: Node, picked: Node | None) -> Node:
        graph, model = self.graph, self.model
        if model.encoder:
            # Norms stand behind each half, and may write over it.
            x = graph.over(self._attention(layer, x), x)
            return graph.over(self._feed_forward(layer, x), x)
        h = self._norm(x)
        if layer.state and not layer.kv_heads:
            mixed = self._recurrent(layer, h)
        elif layer.kv_heads:
            mixed = self._latent(layer, h) if model.latent else self._attention(layer, h)
            if layer.state:
                mixed = graph.over(mixed, self._recurrent(layer, h))
        else:
            mixed = None
        if mixed is not None:
            if picked is not None:
                self.rows = self.batch.outputs
                mixed = graph.op(mixed, picked, shape=(model.embedding_length, self.rows))
                x = graph.op(x, picked, shape=(model.embedding_length, self.rows))
            if model.parallel_blocks:
                h = h if picked is None else graph.op(h, picked, shape=(model.embedding_length, self.rows))
                return graph.over(graph.over(self._feed_forward(layer, h), mixed), x)
            x = graph.over(mixed, x)
            if not model.feed_forward_length and not model.experts:
                return x
            h = self._norm(x)
        return graph.over(self._feed_forward(layer, h), x)

    def _attention(self, layer: Layer, h: Node) -> Node:
        graph, model, tokens = self.graph, self.model, self.batch.tokens
        heads, length = model.heads, layer.key_length or model.head_length
        kv_heads, values = layer.kv_heads, layer.value_length or layer.key_length or model.head_length
        if model.fused_qkv:
            fused = graph.op(h, shape=(heads * length + kv_heads * (length + values), tokens))
            q, v, k = (graph.view(fused, n, tokens) for n in (heads * length, kv_heads * values, kv_heads * length))
            q, k = self._turned(q, heads, length), self._turned(k, kv_heads, length)
        elif model.gated_attention:
            both = graph.op(h, shape=(2 * heads * length, tokens))
            q = graph.over(graph.over(graph.op(graph.view(both, length, heads, tokens), shape=(length, heads, tokens))))
            v = graph.op(h, shape=(kv_heads * values, tokens))
            k = self._turned(graph.op(h, shape=(kv_heads * length, tokens)), kv_heads, length)
            gate = graph.op(graph.view(both, length, heads, tokens), shape=(heads * length, tokens))
        else:
            q = self._turned(graph.op(h, shape=(heads * length, tokens)), heads, length)
            v = graph.op(h, shape=(kv_heads * values, tokens))
            k = self._turned(graph.op(h, shape=(kv_heads * length, tokens)), kv_heads, length)
        if not model.encoder:
            graph.op(graph.view(k, kv_heads * length, tokens), shape=(0,))
            graph.op(graph.view(v, kv_heads * values, tokens), shape=(0,))
        mixed = self._scores(layer, q, () if not model.encoder else (k, v), width=values)
        if model.gated_attention and not model.fused_qkv:
            mixed = graph.op(mixed, graph.over(gate), shape=(heads * values, tokens))
        return graph.op(mixed, shape=(model.embedding_length, tokens))

    def _turned(self, projected: Node, heads: int, length: int) -> Node:
        """Rotary positions, or a norm per head before them: a new tensor, for a view is never written over."""
        view = self.graph.view(projected, length, heads, self.batch.tokens)
        if self.model.architecture in _ABSOLUTE:
            return view
        return self.graph.op(view, self.position, shape=view.shape, in_place=True)

    def _scores(self, layer: Layer, q: Node, fresh: tuple[Node, ...], *, width: int) -> Node:
        """Attention over the cache; for encoders over ``fresh`` keys and values."""
        graph, model, batch = self.graph, self.model, self.batch
        mask = self.masks[layer.window is not None]
        cells, rows, streams = mask.shape[0], batch.tokens // batch.streams, batch.streams
        if model.encoder:
            rows, streams = batch.tokens, 1
        query = graph.view(q, q.shape[0], rows, model.heads, streams)
        if batch.flash:
            halves = tuple(graph.op(one, shape=one.shape, element=2) for one in fresh)
            mixed = graph.op(query, mask, *halves, shape=(width, model.heads, rows, streams))
            return graph.view(mixed, width * model.heads, batch.tokens)
        scores = graph.op(query, *fresh[:1], shape=(cells, rows, model.heads, streams))
        mixed = graph.op(graph.over(scores, mask), *fresh[1:], shape=(width, rows, model.heads, streams))
        turned = graph.view(mixed, width, model.heads, rows, streams)
        return graph.op(turned, shape=(width * model.heads, batch.tokens))

    def _latent(self, layer: Layer, h: Node) -> Node:
        """Multi-head latent attention with the keys absorbed (``deepseek2.cpp``)."""
        graph, model, tokens, latent = self.graph, self.model, self.batch.tokens, self.model.latent
        assert latent is not None
        rope, rank, heads = latent.rope_length, latent.rank, model.heads
        source = self._norm(graph.op(h, shape=(latent.query_rank, tokens))) if latent.query_rank else h
        q = graph.op(source, shape=(heads * latent.key_length, tokens))
        plain, rotary = graph.view(q, latent.key_length - rope, heads, tokens), graph.view(q, rope, heads, tokens)
        compressed = graph.op(h, shape=(rank + rope, tokens))
        rotary = graph.op(rotary, self.position, shape=(rope, heads, tokens), in_place=True)
        key = graph.op(graph.view(compressed, rope, 1, tokens), shape=(rope, 1, tokens), in_place=True)
        kv = graph.over(graph.op(graph.view(compressed, rank, tokens), shape=(rank, tokens), in_place=True))
        absorbed = graph.op(graph.view(plain, latent.key_length - rope, tokens, heads), shape=(rank, tokens, heads))
        query = graph.op(graph.view(absorbed, rank, heads, tokens), rotary, shape=(rank + rope, heads, tokens))
        keys = graph.op(graph.view(kv, rank, 1, tokens), key, shape=(rank + rope, 1, tokens))
        graph.op(graph.view(keys, rank + rope, tokens), shape=(0,))
        mixed = self._scores(layer, query, (), width=rank)
        opened = graph.op(graph.view(mixed, rank, tokens, heads), shape=(latent.value_length, tokens, heads))
        flat = graph.op(
            graph.view(opened, latent.value_length, heads, tokens), shape=(latent.value_length * heads, tokens)
        )
        return graph.op(flat, shape=(model.embedding_length, tokens))

    def _recurrent(self, layer: Layer, h: Node) -> Node:
        """State-space and linear attention layers: the convolution's input, its output and the scan are alive together.

        Their graphs differ a lot between architectures and versions; this is the common part, hence low confidence.
        """
        graph, model, batch = self.graph, self.model, self.batch
        inner = model.recurrent_width or model.embedding_length
        wide = inner + 2 * model.recurrent_keys
        projected = graph.op(h, shape=(wide, batch.tokens))
        gate = graph.op(h, shape=(inner, batch.tokens))
        state = graph.op(shape=(layer.state, batch.streams))
        joined = graph.op(projected, state, shape=(wide, batch.tokens + 4 * batch.streams))
        mixed = graph.over(graph.op(joined, shape=(wide, batch.tokens)))
        scanned = graph.op(mixed, state, shape=(inner * batch.tokens + layer.state * batch.streams,))
        out = graph.op(graph.view(scanned, inner, batch.tokens), shape=(inner, batch.tokens), in_place=True)
        return graph.op(graph.over(out, gate), shape=(model.embedding_length, batch.tokens))

    def _feed_forward(self, layer: Layer, h: Node) -> Node:
        model = self.model
        if not model.experts or layer.dense:
            return self._dense(h, model.feed_forward_length)
        mixed = self._experts(h)
        if model.shared_expert_length:
            mixed = self.graph.over(mixed, self._dense(h, model.shared_expert_length))
        return mixed

    def _dense(self, h: Node, width: int) -> Node:
        graph, rows, kind = self.graph, self.rows, self.model.gate
        if kind == "fused":
            up = graph.op(h, shape=(2 * width, rows))
            act = graph.op(up, shape=(width, rows))
        elif kind == "none":
            act = graph.over(graph.op(h, shape=(width, rows)))
        else:
            up = graph.op(h, shape=(width, rows))
            act = graph.op(graph.op(h, shape=(width, rows)), up, shape=(width, rows))
        return graph.op(act, shape=(self.model.embedding_length, rows))

    def _experts(self, h: Node) -> Node:
        graph, model, rows, used = self.graph, self.model, self.rows, self.model.experts_used
        width, embedding = model.expert_length, model.embedding_length
        probabilities = graph.over(graph.op(h, shape=(model.experts, rows)))
        order = graph.op(probabilities, shape=(model.experts, rows))
        chosen = graph.view(order, used, rows)
        weights = graph.op(graph.view(probabilities, 1, model.experts, rows), chosen, shape=(1, used, rows))
        wide = graph.view(h, embedding, 1, rows)
        up = graph.op(wide, chosen, shape=(width, used, rows))
        act = graph.op(graph.op(wide, chosen, shape=(width, used, rows)), up, shape=(width, used, rows))
        down = graph.over(graph.op(act, chosen, shape=(embedding, used, rows)), weights)
        parts = [graph.view(down, embedding, rows) for _ in range(used)]
        mixed = graph.op(*parts[:2], shape=(embedding, rows), in_place=True)
        for part in parts[2:]:
            mixed = graph.over(mixed, part)
        return mixed


def _distinct(layers: tuple[Layer, ...]) -> list[Layer]:
    """Some layers of each kind in their order: the peak does not grow with equal ones."""
    seen: dict[Layer, int] = {}
    kept = []
    for layer in layers[:-1]:
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= _DEEP:
            kept.append(layer)
    return [*kept, layers[-1]]
