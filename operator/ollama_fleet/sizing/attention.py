"""Attention in worst-case graphs: over a cache of keys and values, over compressed ones, and without any cache.

Source: ``src/llama-graph.cpp`` (``build_qkv``, ``build_attn``, ``build_attn_mha``), ``src/models/deepseek2.cpp`` and
``ggml/src/ggml-cuda/fattn.cu`` of llama.cpp, build 10488.
"""

from ollama_fleet.sizing.blocks import Scene
from ollama_fleet.sizing.graph import Node
from ollama_fleet.sizing.layers import Layer

_ABSOLUTE = frozenset(
    {"bert", "jina-bert-v2", "gpt2", "starcoder", "bloom", "mpt", "jamba", "nemotron_h", "nemotron_h_moe"}
)
"""Positions are added to the embeddings, or biases of the scores, or there are none."""
_WINDOWS_TURN = frozenset({"cohere2", "llama4"})
"""Only layers with a window turn positions in."""


def attention(scene: Scene, layer: Layer, h: Node) -> Node:
    """Attention of one layer: (width, tokens) to the same."""
    return written(scene, layer, attended(scene, layer, h))


def written(scene: Scene, layer: Layer, mixed: Node) -> Node:
    """The output matrix over what the heads read."""
    if _rotates(scene, layer) and not scene.model.gated_attention:
        mixed = _rotated(scene, mixed)
    return scene.project(mixed, scene.model.embedding_length)


def attended(scene: Scene, layer: Layer, h: Node) -> Node:
    """What the heads of one layer read: (heads x values, tokens)."""
    model = scene.model
    if model.latent:
        return _opened(scene, layer, *_compressed(scene, h))
    if model.encoder:
        return _uncached(scene, layer, *_plain(scene, layer, h))
    if model.gated_attention:
        return _gated(scene, layer, h)
    if model.latent_heads:
        return _read(scene, layer, *_expanded(scene, layer, h))
    return _read(scene, layer, *_plain(scene, layer, h))


def _plain(scene: Scene, layer: Layer, h: Node) -> tuple[Node, Node, Node]:
    """Queries, keys and values: (length, heads, tokens)."""
    model, length, values = scene.model, layer.key_length, layer.value_length
    wide, kv_heads = model.heads * length, layer.kv_heads
    if model.fused_qkv:
        fused = scene.project(h, wide + kv_heads * (length + values))
        v = scene.graph.view(fused, values, kv_heads, scene.batch.tokens)
        return _turned(scene, layer, fused, model.heads), _turned(scene, layer, fused, kv_heads), v
    q = _turned(scene, layer, scene.project(h, wide), model.heads)
    k = _turned(scene, layer, scene.project(h, kv_heads * length), kv_heads)
    return q, k, scene.project(h, kv_heads * values)


def _turned(scene: Scene, layer: Layer, projected: Node, heads: int) -> Node:
    """Rotary positions, or a norm per head before them: a new tensor, for a view is never written over."""
    graph, architecture = scene.graph, scene.model.architecture
    view = graph.view(projected, layer.key_length, heads, scene.batch.tokens)
    if architecture in _ABSOLUTE or (layer.window is None and architecture in _WINDOWS_TURN):
        return view
    return graph.over(view, scene.positions())


def _rotates(scene: Scene, layer: Layer) -> bool:
    """Whether a Hadamard matrix spreads keys and values, so that less is lost when they are quantised."""
    plain = scene.model.latent is None and not scene.model.encoder
    return plain and scene.habits.rotated and scene.batch.kind.block > 1 and layer.key_length % 64 == 0


def _rotated(scene: Scene, x: Node) -> Node:
    graph = scene.graph
    turned = graph.fresh(graph.view(x, *x.shape), scene.once("rotation", 64, 64), shape=x.shape)
    return graph.view(turned, *x.shape)


def _gated(scene: Scene, layer: Layer, h: Node) -> Node:
    """Queries and the gate of the output in one matrix (``qwen35.cpp``)."""
    graph, model, tokens = scene.graph, scene.model, scene.batch.tokens
    heads, length = model.heads, layer.key_length
    both = scene.project(h, 2 * heads * length)
    q = graph.over(graph.over(graph.over(graph.view(both, length, heads, tokens))), scene.positions())
    k = _turned(scene, layer, scene.project(h, layer.kv_heads * length), layer.kv_heads)
    v = scene.project(h, layer.kv_heads * layer.value_length)
    mixed = _read(scene, layer, q, k, v)
    if _rotates(scene, layer):
        mixed = _rotated(scene, mixed)
    gate = graph.over(graph.fresh(graph.view(both, length, heads, tokens), shape=(length * heads, tokens)))
    return graph.over(mixed, gate)


def _read(scene: Scene, layer: Layer, q: Node, k: Node, v: Node) -> Node:
    """Write to the cache and read it."""
    graph, model = scene.graph, scene.model
    if _rotates(scene, layer):
        q, k, v = (_rotated(scene, x) for x in (q, k, v))
    # Caches with windows take keys before values, others after them.
    for x in (q, k, v) if model.windowed else (q, v, k):
        graph.expand(x)
    if not layer.borrows:
        _write(scene, layer, k, v)
    copied = layer.kv_heads * (layer.key_length + layer.value_length)
    return _scores(scene, layer, q, width=layer.value_length, copied=copied)


def _write(scene: Scene, layer: Layer, k: Node, v: Node) -> None:
    graph, tokens, width = scene.graph, scene.batch.tokens, layer.kv_heads * layer.value_length
    which = "window" if layer.window is not None else "all"
    rows = scene.once(f"keys of {which}", tokens, element=8)
    graph.spend(graph.view(k, layer.kv_heads * layer.key_length, tokens), rows)
    # Without flash attention every element of a value has an index of its own.
    by_element = not scene.batch.flash
    if by_element and scene.model.fused_qkv:
        v = graph.fresh(v, shape=(width, tokens))
    count = tokens * width if by_element else tokens
    graph.spend(graph.view(v, width, tokens), scene.once(f"values of {which}", count, element=8))


def _scores(scene: Scene, layer: Layer, q: Node, *, width: int, copied: int) -> Node:
    """``build_attn_mha`` over the cache; ``copied`` elements per cell may have to be f16 for flash attention."""
    graph, model, batch = scene.graph, scene.model, scene.batch
    mask, heads, streams = scene.mask(layer), model.heads, batch.streams
    cells, rows = mask.shape[0], batch.tokens // streams
    query = graph.view(q, q.shape[0], rows, heads, streams)
    if batch.flash:
        more = scene.half_copies(copied * cells * streams)
        mixed = graph.fresh(query, mask, shape=(width, heads, rows, streams), more=more)
        mixed = graph.view(mixed, width * heads, batch.tokens)
    else:
        scores = graph.over(graph.fresh(query, shape=(cells, rows, heads, streams)), mask)
        mixed = graph.fresh(scores, shape=(width, rows, heads, streams))
        mixed = graph.fresh(graph.view(mixed, width, heads, rows, streams), shape=(width * heads, batch.tokens))
    graph.expand(mixed)
    return mixed


def _uncached(scene: Scene, layer: Layer, q: Node, k: Node, v: Node) -> Node:
    """Encoders look at the whole batch, which is nowhere but in the graph."""
    graph, tokens, heads, width = scene.graph, scene.batch.tokens, scene.model.heads, layer.value_length
    for x in (q, k, v):
        graph.expand(x)
    mask = scene.mask(layer)
    query = graph.view(q, q.shape[0], tokens, heads)
    if scene.batch.flash:
        halves = [graph.fresh(graph.view(x, *x.shape), shape=x.shape, element=2) for x in (k, v)]
        mixed = graph.view(graph.fresh(query, *halves, mask, shape=(width, heads, tokens)), width * heads, tokens)
    else:
        turned = graph.fresh(graph.view(v, *v.shape), shape=v.shape)
        scores = graph.over(graph.fresh(graph.view(k, *k.shape), query, shape=(tokens, tokens, heads)), mask)
        mixed = graph.fresh(turned, scores, shape=(width, tokens, heads))
        mixed = graph.fresh(graph.view(mixed, width, heads, tokens), shape=(width * heads, tokens))
    graph.expand(mixed)
    return mixed


def _compressed(scene: Scene, h: Node) -> tuple[Node, Node]:
    """Latent attention with the keys absorbed: queries of all heads and the one key, both of rank and position."""
    graph, model, tokens, latent = scene.graph, scene.model, scene.batch.tokens, scene.model.latent
    assert latent is not None
    rope, rank, heads = latent.rope_length, latent.rank, model.heads
    plain = latent.key_length - rope
    source = scene.norm(scene.project(h, latent.query_rank)) if latent.query_rank else h
    q = scene.project(source, heads * latent.key_length)
    absorbed = graph.fresh(graph.view(q, plain, tokens, heads), shape=(rank, tokens, heads))
    rotary = graph.over(graph.view(q, rope, heads, tokens), scene.positions())
    query = graph.fresh(graph.view(absorbed, rank, heads, tokens), rotary, shape=(rank + rope, heads, tokens))
    both = scene.project(h, rank + rope)
    kept = scene.norm(graph.view(both, rank, tokens))
    key = graph.over(graph.view(both, rope, 1, tokens), scene.positions())
    return query, graph.fresh(graph.view(kept, rank, 1, tokens), key, shape=(rank + rope, 1, tokens))


def _opened(scene: Scene, layer: Layer, query: Node, key: Node) -> Node:
    """Scores over compressed keys, and the values of each head from the compressed ones."""
    graph, model, batch, latent = scene.graph, scene.model, scene.batch, scene.model.latent
    assert latent is not None
    rank, heads, tokens, streams = latent.rank, model.heads, batch.tokens, batch.streams
    graph.expand(query)
    graph.spend(graph.view(key, key.shape[0], tokens), scene.once("keys of all", tokens, element=8))
    mask = scene.mask(layer)
    cells, rows, values = mask.shape[0], tokens // streams, latent.value_length
    q = graph.view(query, query.shape[0], rows, heads, streams)
    if batch.flash:
        more = scene.half_copies(query.shape[0] * cells * streams)
        mixed = graph.fresh(q, mask, shape=(rank, heads, rows, streams), more=more)
        opened = graph.fresh(graph.view(mixed, rank, rows, heads, streams), shape=(values, rows, heads, streams))
    else:
        turned = graph.fresh(shape=(cells, rank, 1, streams), element=2)
        scores = graph.over(graph.fresh(q, shape=(cells, rows, heads, streams)), mask)
        mixed = graph.fresh(turned, scores, shape=(rank, rows, heads, streams))
        opened = graph.fresh(mixed, shape=(values, rows, heads, streams))
    flat = graph.fresh(graph.view(opened, values, heads, rows, streams), shape=(values * heads, tokens))
    graph.expand(flat)
    return flat


def _expanded(scene: Scene, layer: Layer, h: Node) -> tuple[Node, Node, Node]:
    """Files from before the keys were absorbed: keys and values of all heads, from compressed ones."""
    graph, model, tokens, latent = scene.graph, scene.model, scene.batch.tokens, scene.model.latent_heads
    assert latent is not None
    rope, rank, heads, values = latent.rope_length, latent.rank, model.heads, layer.value_length
    plain = layer.key_length - rope
    source = scene.norm(scene.project(h, latent.query_rank)) if latent.query_rank else h
    q = scene.project(source, heads * layer.key_length)
    rotary = graph.over(graph.view(q, rope, heads, tokens), scene.positions())
    query = graph.fresh(graph.view(q, plain, heads, tokens), rotary, shape=(layer.key_length, heads, tokens))
    both = scene.project(h, rank + rope)
    kv = scene.project(scene.norm(graph.view(both, rank, tokens)), heads * (plain + values))
    value = graph.fresh(graph.view(kv, values, heads, tokens), shape=(values, heads, tokens))
    key = graph.over(graph.view(both, rope, 1, tokens), scene.positions())
    every = graph.fresh(key, rotary, shape=(rope, heads, tokens))
    return query, graph.fresh(graph.view(kv, plain, heads, tokens), every, shape=query.shape), value
