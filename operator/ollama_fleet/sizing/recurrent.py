"""Layers that keep a state instead of a cache: state spaces, delta rules, short convolutions.

Source: ``src/llama-graph.cpp`` (``build_rs``) and ``src/models/{mamba-base,delta-net-base,qwen35,qwen3next,lfm2}.cpp``
of llama.cpp, build 10488.
"""

from ollama_fleet.sizing.blocks import Scene
from ollama_fleet.sizing.graph import Node, Shape
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.shape import Mixer


def recurrent(scene: Scene, layer: Layer, h: Node) -> Node:
    """One recurrent layer: (width, tokens) to the same."""
    mixer = scene.model.mixer
    if mixer is None:
        return _unknown(scene, layer, h)
    if mixer.kind == "delta":
        return _delta(scene, mixer, layer, h)
    if mixer.kind == "convolution":
        return _convolution(scene, mixer, h)
    return _mamba(scene, mixer, h) if mixer.kind == "mamba" else _mamba2(scene, mixer, h)


def _unknown(scene: Scene, layer: Layer, h: Node) -> Node:
    """What all have: an input and a gate, and a scan over both that ends with the new state."""
    graph, batch, width = scene.graph, scene.batch, scene.model.embedding_length
    state = _gathered(scene, layer.state)
    gate = scene.project(h, width)
    scanned = _scanned(scene, scene.project(h, 2 * width), state, inner=width, state=layer.state)
    out = graph.over(graph.fresh(graph.view(scanned, width, batch.tokens), shape=(width, batch.tokens)), gate)
    return scene.project(out, width)


def _gathered(scene: Scene, elements: int) -> Node:
    """The states of the batch's sequences."""
    streams = scene.batch.streams
    rows = scene.graph.fresh(scene.once("states", streams), shape=(elements, streams))
    scene.graph.expand(rows)
    return rows


def _joined(scene: Scene, state: Node, x: Node, *, kernel: int, channels: int) -> Node:
    """The convolution's input: its state, then the tokens; the last columns go back to the state."""
    graph, streams, past = scene.graph, scene.batch.streams, kernel - 1
    tokens = scene.batch.tokens // streams
    before = graph.view(state, past, channels, streams)
    joined = graph.fresh(before, graph.view(x, tokens, channels, streams), shape=(past + tokens, channels, streams))
    graph.spend(graph.view(joined, past, channels, streams))
    return joined


def _scanned(scene: Scene, *sources: Node, inner: int, state: int) -> Node:
    """The scan's result with the new state behind it, which is stored."""
    graph, batch = scene.graph, scene.batch
    scanned = graph.fresh(*sources, shape=(inner * batch.tokens + state * batch.streams,))
    graph.expand(scanned)
    graph.spend(graph.view(scanned, state * batch.streams))
    return scanned


def _out(scene: Scene, y: Node, shape: Shape) -> Node:
    return scene.graph.fresh(scene.graph.view(y, *shape), shape=(scene.model.embedding_length, scene.batch.tokens))


def _mamba(scene: Scene, mixer: Mixer, h: Node) -> Node:
    graph, streams, inner = scene.graph, scene.batch.streams, mixer.inner
    shape = (inner, scene.batch.tokens // streams, streams)
    state = _gathered(scene, (mixer.kernel - 1) * inner)
    both = scene.project(h, 2 * inner)
    joined = _joined(scene, state, graph.view(both, *shape), kernel=mixer.kernel, channels=inner)
    x = graph.over(graph.over(graph.fresh(joined, shape=shape)))
    small = graph.fresh(x, shape=(mixer.heads + 2 * mixer.state, *shape[1:]))
    step = graph.over(graph.fresh(graph.view(small, mixer.heads, *shape[1:]), shape=shape))
    b, c = graph.view(small, mixer.state, 1, *shape[1:]), graph.view(small, mixer.state, 1, *shape[1:])
    scanned = _scanned(scene, graph.view(x, 1, *shape), step, b, c, inner=inner, state=mixer.state * inner)
    y = graph.over(graph.view(scanned, *shape), graph.over(x))
    act = graph.fresh(graph.fresh(graph.view(both, *shape), shape=shape), y, shape=shape)
    return _out(scene, act, shape)


def _mamba2(scene: Scene, mixer: Mixer, h: Node) -> Node:
    graph, streams, inner, heads = scene.graph, scene.batch.streams, mixer.inner, mixer.heads
    tokens, channels = scene.batch.tokens // streams, inner + 2 * mixer.keys
    shape = (inner // heads, heads, tokens, streams)
    state = _gathered(scene, (mixer.kernel - 1) * channels)
    both = scene.project(h, inner + channels + heads)
    kept = graph.view(both, channels, tokens, streams)
    joined = _joined(scene, state, kept, kernel=mixer.kernel, channels=channels)
    mixed = graph.over(graph.over(graph.fresh(joined, shape=(channels, tokens, streams))))
    x, b, c = graph.view(mixed, *shape), graph.view(mixed, mixer.keys), graph.view(mixed, mixer.keys)
    step = graph.over(graph.fresh(graph.view(both, heads, tokens, streams), shape=(heads, tokens, streams)))
    scanned = _scanned(scene, x, step, b, c, inner=inner, state=mixer.state * inner)
    y = graph.over(graph.view(scanned, *shape), graph.over(x))
    y = graph.fresh(graph.fresh(graph.view(both, *shape), shape=shape), y, shape=shape)
    if scene.model.architecture != "falcon-h1":
        y = graph.over(graph.over(graph.view(y, *shape)))
    return _out(scene, y, (inner, tokens, streams))


def _delta(scene: Scene, mixer: Mixer, layer: Layer, h: Node) -> Node:
    """A gated delta rule: the state is read as a whole, and one operation does the rest."""
    graph, streams, inner, heads = scene.graph, scene.batch.streams, mixer.inner, mixer.heads
    tokens, channels, past = scene.batch.tokens // streams, inner + 2 * mixer.keys, mixer.kernel - 1
    shape = (inner // heads, heads, tokens, streams)
    mixed, z = scene.project(h, channels), scene.project(h, inner)
    beta, gate = _factors(scene, h, (1, *shape[1:]))
    state = _gathered(scene, past * channels)
    joined = _joined(scene, state, mixed, kernel=mixer.kernel, channels=channels)
    memory = _gathered(scene, layer.state - past * channels)
    conv = graph.over(graph.fresh(joined, shape=(channels, tokens, streams)))
    q, k = _unit_keys(scene, mixer, conv), _unit_keys(scene, mixer, conv)
    v = graph.view(conv, *shape)
    size = layer.state - past * channels
    scanned = _scanned(scene, q, k, v, gate, beta, graph.view(memory, size), inner=inner, state=size)
    out = graph.over(graph.over(graph.view(scanned, *shape)))
    act = graph.over(out, graph.over(graph.view(z, *shape)))
    return _out(scene, act, (inner, tokens, streams))


def _unit_keys(scene: Scene, mixer: Mixer, conv: Node) -> Node:
    """Normed keys or queries; qwen3next repeats them for all heads of the values."""
    graph, streams, groups = scene.graph, scene.batch.streams, mixer.keys // mixer.state
    tokens = scene.batch.tokens // streams
    normed = graph.fresh(graph.view(conv, mixer.state), shape=(mixer.state, groups, tokens, streams))
    if scene.model.architecture != "qwen3next" or groups == mixer.heads:
        return normed
    repeated = graph.fresh(graph.view(normed, mixer.state), shape=(mixer.state, mixer.heads, tokens, streams))
    return graph.view(repeated, *repeated.shape)


def _factors(scene: Scene, h: Node, shape: Shape) -> tuple[Node, Node]:
    """How much of a step is learnt, and how much of the state is kept."""
    graph, heads = scene.graph, shape[1]
    if scene.model.architecture == "qwen3next":
        both = scene.project(h, 2 * heads)
        beta = graph.over(graph.fresh(graph.view(both, *shape), shape=shape))
        alpha = graph.fresh(graph.view(both, *shape), shape=shape[1:])
        return graph.view(beta, *shape), graph.view(graph.over(graph.over(graph.over(alpha))), *shape)
    beta = graph.over(graph.view(scene.project(h, heads), *shape))
    alpha = graph.over(graph.over(graph.over(graph.view(scene.project(h, heads), *shape[1:]))))
    return beta, graph.view(alpha, *shape)


def _convolution(scene: Scene, mixer: Mixer, h: Node) -> Node:
    graph, streams, width = scene.graph, scene.batch.streams, scene.model.embedding_length
    shape = (width, scene.batch.tokens // streams, streams)
    every = scene.project(h, 3 * width)
    b, c, x = (graph.view(every, *shape) for _ in range(3))
    gated = graph.over(b, x)
    state = _gathered(scene, (mixer.kernel - 1) * width)
    joined = _joined(scene, state, gated, kernel=mixer.kernel, channels=width)
    return _out(scene, graph.over(c, graph.fresh(joined, shape=shape)), shape)
