"""The worst-case graph of a model, which decides the compute buffer of each GPU.

Source: ``src/llama-context.cpp`` (``graph_reserve``) and ``src/models/*.cpp`` of llama.cpp, build 10488.
"""

from typing import Final

from ollama_fleet.sizing.attention import attended, attention, written
from ollama_fleet.sizing.blocks import Batch, Habits, Scene, feed_forward
from ollama_fleet.sizing.graph import Node
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.recurrent import recurrent
from ollama_fleet.sizing.shape import ModelShape

_DEEP: Final = 2
"""Equal layers that are laid out: the allocator repeats itself from the second on."""
_LATE_PICK: Final = frozenset(
    {
        *("bailingmoe3", "cohere2moe", "deepseek32", "deepseek4", "gemma4", "glm-dsa", "gpt-oss", "gptoss", "hy-v3"),
        *("mimo2", "nemotron_h", "nemotron_h_moe", "qwen3next", "qwen35", "qwen35moe", "step35"),
    }
)
"""Architectures that compute all tokens up to the end: a draft may want them."""
_NORM_FIRST: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_INPUT_FIRST: Final = frozenset({"jamba", "lfm2", "lfm2moe"})


def compute_bytes(model: ModelShape, batch: Batch, habits: Habits) -> int:
    """Bytes of the compute buffer of the GPU that computes the logits."""
    scene = Scene(model, batch, habits)
    x = scene.once("hidden", model.embedding_length, batch.tokens)
    layers = _distinct(model.layers)
    for index, layer in enumerate(layers):
        x = _layer(scene, layer, x, last=index == len(layers) - 1)
    if not model.encoder:
        x = scene.norm(x)
        if model.architecture in _LATE_PICK:
            x = scene.pick(x)
        if model.vocabulary:
            x = scene.project(x, model.vocabulary)
    scene.graph.expand(x)
    return scene.graph.peak()


def _layer(scene: Scene, layer: Layer, x: Node, *, last: bool) -> Node:
    graph, model = scene.graph, scene.model
    if model.encoder:
        # Norms stand behind each half, and may write over it.
        x = scene.norm(graph.over(attention(scene, layer, x), x))
        return scene.norm(graph.over(feed_forward(scene, layer, x), x))
    pick = last and model.architecture not in _LATE_PICK
    h = scene.norm(x)
    if model.architecture in _NORM_FIRST:
        graph.expand(h)
    if model.parallel_blocks:
        return _beside(scene, layer, x, h, pick=pick)
    mixed = _mixed(scene, layer, x, h)
    if mixed is None:
        return graph.over(feed_forward(scene, layer, h), x)
    if pick:
        mixed, x = scene.pick(mixed), scene.pick(x)
    x = _sum(scene, mixed, x)
    if model.single_parts or not (model.feed_forward_length or model.experts):
        return x
    return _sum(scene, feed_forward(scene, layer, scene.norm(x)), x)


def _sum(scene: Scene, added: Node, x: Node) -> Node:
    """What a block adds to its input: most write it over the addend, some over the input."""
    first = scene.model.architecture in _INPUT_FIRST
    return scene.graph.over(x, added) if first else scene.graph.over(added, x)


def _beside(scene: Scene, layer: Layer, x: Node, h: Node, *, pick: bool) -> Node:
    """Attention and network read the same input; the output matrix of attention comes behind the network."""
    graph, mixed = scene.graph, attended(scene, layer, h)
    fed = feed_forward(scene, layer, scene.pick(h) if pick else h)
    x = graph.over(fed, scene.pick(x) if pick else x)
    out = written(scene, layer, mixed)
    return graph.over(x, scene.pick(out) if pick else out)


def _mixed(scene: Scene, layer: Layer, x: Node, h: Node) -> Node | None:
    """What tokens learn from each other; None where they do not."""
    if layer.state and layer.kv_heads:
        read = written(scene, layer, attended(scene, layer, h))
        return scene.graph.over(read, recurrent(scene, layer, scene.norm(x)))
    if layer.state:
        return recurrent(scene, layer, h)
    return attention(scene, layer, h) if layer.kv_heads else None


def _distinct(layers: tuple[Layer, ...]) -> list[Layer]:
    """Some layers of each kind, whatever their order: the peak does not grow with equal ones."""
    kinds = {layer: layers.count(layer) for layer in dict.fromkeys(layers) if not layer.draft}
    return [layer for turn in range(_DEEP) for layer, count in kinds.items() if count > turn]
