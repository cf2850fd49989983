"""What sizing needs to know of a model, whatever its architecture: what each layer remembers, and where bytes lie.

The rules per architecture are those of llama.cpp, build 10488: ``src/models/*.cpp`` (patterns of sliding windows,
recurrent layers), ``src/llama-hparams.cpp`` (recurrent state), ``src/llama-model.cpp`` (which memory, which tensors
stay on the CPU).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ollama_fleet.sizing.gguf import Header, InvalidHeader, Tensor
from ollama_fleet.sizing.metadata import MAX_LAYERS, Metadata


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps per sequence."""

    kv_heads: int
    """0: no cache of keys and values."""
    key_length: int = 0
    value_length: int = 0
    """Elements per head; with multi-head latent attention the value is a view of the key and counts 0."""
    window: int | None = None
    """Tokens that the layer looks back; None: all."""
    state: int = 0
    """Elements of recurrent state, f32."""
    dense: bool = False
    """In a mixture of experts: a layer without experts."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of tensors, by where they go."""

    layers: int
    """Repeating layers."""
    output: int
    """Output norm and matrix; a tied model's copy of the token embeddings."""
    host: int
    """Token embeddings, which stay in host memory."""
    projector: int = 0
    """Vision and audio towers inside the file."""

    @property
    def gpu(self) -> int:
        """Bytes on the GPU when every layer is offloaded."""
        return self.layers + self.output + self.projector


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: keys and values are kept compressed."""

    rank: int
    """Of the compressed keys and values."""
    query_rank: int
    """0: queries are not compressed."""
    rope_length: int
    key_length: int
    """Of a head, the rotary part included."""
    value_length: int


Gate = Literal["parallel", "fused", "none"]
"""A feed-forward network's gate: beside the input matrix, in one matrix with it, or absent."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as sizing sees it."""

    architecture: str
    layers: tuple[Layer, ...]
    embedding_length: int
    heads: int
    kv_heads: int
    """The least over the layers, as Ollama's prediction reads it."""
    head_length: int
    """Elements of a query head, the largest over the layers."""
    feed_forward_length: int
    experts: int
    experts_used: int
    expert_length: int
    """Width of one expert; 0 for dense models."""
    vocabulary: int
    context_length: int
    """That it was trained for; 0 where the file does not say."""
    encoder: bool
    """One forward pass per input; only Ollama's old runner keeps a cache for it all the same."""
    weights: Weights
    file_bytes: int
    """Of the file with the weights."""
    recurrent_width: int = 0
    """Inner size of recurrent layers."""
    recurrent_keys: int = 0
    """Elements of the keys (and of the queries) of a recurrent layer."""
    shared_expert_length: int = 0
    """Width of the experts that every token uses."""
    gate: Gate = "parallel"
    fused_qkv: bool = False
    gated_attention: bool = False
    parallel_blocks: bool = False
    """Attention and feed-forward network read the same input."""
    latent: Latent | None = None

    @property
    def recurrent(self) -> bool:
        """Whether any layer keeps a recurrent state."""
        return any(layer.state for layer in self.layers)

    def with_projector(self, size: int) -> "ModelShape":
        """The shape with a projector of ``size`` bytes in a file of its own."""
        return replace(self, weights=replace(self.weights, projector=self.weights.projector + size))


ENCODERS: Final = frozenset(
    {
        *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "eurobert"),
        *("modern-bert", "gemma-embedding"),
    }
)
"""Architectures for which llama.cpp makes no memory (``create_memory``)."""
_PERIODS: Final[Mapping[str, tuple[int, bool]]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone4": (4, False),
    "exaone-moe": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "gptoss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Sliding windows where the file names no pattern: of so many layers one looks at everything, the last or the first."""
_WINDOWS: Final = {"gemma2": 4096, "exaone4": 4096, "exaone-moe": 128, "llama4": 8192}
"""Windows that are not in every file."""
_GEMMA3N_OWN_LAYERS: Final = 20
"""Later layers of gemma3n use the cache of earlier ones."""
_FUSED_GATE: Final = frozenset({"phi3", "phimoe", "glm4", "chatglm"})
_UNGATED: Final = frozenset(
    {"bert", "jina-bert-v2", "falcon", "bloom", "gpt2", "gptneox", "mpt", "nemotron", "phi2", "starcoder", "starcoder2"}
)
_FUSED_QKV: Final = frozenset({"phi3", "qwen", "chatglm", "falcon", "bloom", "gpt2", "gptneox", "mpt", "phi2"})
_GATED_ATTENTION: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_PARALLEL: Final = frozenset({"command-r", "cohere2", "phi2", "falcon", "gptneox", "stablelm"})
"""What a table of tensors would show, for models of which only the metadata is known."""
_INTERVAL_ARCHITECTURES: Final = frozenset({"qwen3next", "qwen35", "qwen35moe", "minimax-01"})
_BY_KV_HEADS: Final = frozenset({"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "kimi-linear"})
_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_HOST_TENSORS: Final = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_PROJECTOR: Final = ("v.", "mm.", "a.")


def shape_of(header: Header, *, file_bytes: int) -> ModelShape:
    """The shape of the model in a file of ``file_bytes``. Raises InvalidHeader when the header makes no sense."""
    metadata = Metadata(header.metadata)
    return shape_from(metadata, weights=weights_of(header.tensors), file_bytes=file_bytes, tensors=header.tensors)


def shape_from(metadata: Metadata, *, weights: Weights, file_bytes: int, tensors: Iterable[Tensor] = ()) -> ModelShape:
    """As :func:`shape_of` from its parts, for models of which only the metadata is known."""
    architecture = metadata.architecture
    count = metadata.required("block_count")
    if count > MAX_LAYERS:
        raise InvalidHeader(f"{count} layers: at most {MAX_LAYERS} are believed")
    embedding = metadata.required("embedding_length")
    heads = metadata.number("attention.head_count")
    layers = _layers(metadata, count, embedding, heads)
    tensors = tuple(tensors)
    # Of all layers: the first ones of a mixture of experts are often dense.
    names = {t.name.split(".")[2]: t for t in tensors if t.name.startswith("blk.") and t.name.endswith(".weight")}
    embeddings = next((tensor.shape for tensor in tensors if tensor.name == "token_embd.weight"), ())
    vocabulary = metadata.number("vocab_size") or metadata.array_length("tokenizer.ggml.tokens")
    return ModelShape(
        architecture=architecture,
        layers=layers,
        embedding_length=embedding,
        heads=heads,
        kv_heads=min(metadata.per_layer("attention.head_count_kv", count, default=heads)),
        head_length=_head_length(metadata, embedding, heads),
        feed_forward_length=metadata.number("feed_forward_length"),
        experts=metadata.number("expert_count"),
        experts_used=metadata.number("expert_used_count"),
        expert_length=metadata.number("expert_feed_forward_length"),
        vocabulary=embeddings[1] if len(embeddings) > 1 else vocabulary,
        context_length=metadata.number("context_length"),
        encoder=architecture in ENCODERS,
        weights=weights,
        file_bytes=file_bytes,
        recurrent_width=metadata.number("ssm.inner_size"),
        recurrent_keys=metadata.number("ssm.group_count") * metadata.number("ssm.state_size"),
        shared_expert_length=_shared_expert_length(metadata),
        gate=_gate(metadata, names),
        fused_qkv="attn_qkv" in names if names else architecture in _FUSED_QKV,
        gated_attention=architecture in _GATED_ATTENTION,
        parallel_blocks=architecture in _PARALLEL,
        latent=_latent(metadata),
    )


def _shared_expert_length(metadata: Metadata) -> int:
    explicit = metadata.number("expert_shared_feed_forward_length")
    return explicit or metadata.number("expert_shared_count") * metadata.number("expert_feed_forward_length")


def _gate(metadata: Metadata, names: Mapping[str, Tensor]) -> Gate:
    up = names.get("ffn_up")
    if up is None:
        architecture = metadata.architecture
        return "fused" if architecture in _FUSED_GATE else "none" if architecture in _UNGATED else "parallel"
    if "ffn_gate" in names:
        return "parallel"
    return "fused" if up.shape[-1] == 2 * metadata.number("feed_forward_length") else "none"


def _latent(metadata: Metadata) -> Latent | None:
    if not metadata.has("attention.key_length_mla"):
        return None
    return Latent(
        rank=metadata.required("attention.kv_lora_rank"),
        query_rank=metadata.number("attention.q_lora_rank"),
        rope_length=metadata.required("rope.dimension_count"),
        key_length=metadata.required("attention.key_length_mla"),
        value_length=metadata.required("attention.value_length_mla"),
    )


def weights_of(tensors: Iterable[Tensor]) -> Weights:
    """Where llama.cpp puts each tensor when every layer goes to the GPU."""
    layers = output = host = projector = embeddings = 0
    tied = True
    for tensor in tensors:
        if tensor.name.startswith("blk."):
            layers += tensor.bytes
        elif tensor.name.startswith(_PROJECTOR):
            projector += tensor.bytes
        elif tensor.name.startswith(_HOST_TENSORS):
            host += tensor.bytes
            embeddings += tensor.bytes if tensor.name == "token_embd.weight" else 0
        else:
            output += tensor.bytes
            tied = tied and tensor.name != "output.weight"
    has_output = output > 0
    return Weights(layers, output + (embeddings if tied and has_output else 0), host, projector)


def _head_length(metadata: Metadata, embedding: int, heads: int) -> int:
    return metadata.number("attention.key_length") or (embedding // heads if heads else 0)


def _layers(metadata: Metadata, count: int, embedding: int, heads: int) -> tuple[Layer, ...]:
    architecture = metadata.architecture
    kv_heads = metadata.per_layer("attention.head_count_kv", count, default=heads)
    key = _head_length(metadata, embedding, heads)
    value = metadata.number("attention.value_length") or (embedding // heads if heads else 0)
    if metadata.has("attention.key_length_mla"):
        # The values are a view of the compressed keys.
        value = 0
    windows, recurrent = _windows(metadata, count), _recurrent(metadata, count, kv_heads)
    state = _state(metadata, embedding)
    feed_forward = metadata.per_layer("feed_forward_length", count)
    own = _GEMMA3N_OWN_LAYERS if architecture == "gemma3n" else count - metadata.number("attention.shared_kv_layers")
    # The last layers of models that predict several tokens only serve a draft.
    own = min(own, count - metadata.number("nextn_predict_layers"))
    leading = metadata.number("leading_dense_block_count")
    found = []
    for index in range(count):
        keeps = index < own and not _only_feeds_forward(architecture, feed_forward[index])
        attends = keeps and (not recurrent[index] or architecture == "falcon-h1")
        window = windows[index]
        short_key = metadata.number("attention.key_length_swa", key) if window is not None else key
        short_value = metadata.number("attention.value_length_swa", value) if window is not None else value
        found.append(
            Layer(
                kv_heads=kv_heads[index] if attends else 0,
                key_length=short_key if attends else 0,
                value_length=short_value if attends else 0,
                window=window if attends else None,
                state=state if keeps and recurrent[index] else 0,
                dense=index < leading,
            )
        )
    return tuple(found)


def _only_feeds_forward(architecture: str, feed_forward: int) -> bool:
    return architecture.startswith("nemotron_h") and feed_forward > 0


def _windows(metadata: Metadata, count: int) -> tuple[int | None, ...]:
    architecture = metadata.architecture
    window = metadata.number("attention.sliding_window", _WINDOWS.get(architecture, 0))
    if architecture == "llama4":
        window = metadata.number("attention.chunk_size", window) or window
    pattern = metadata.array("attention.sliding_window_pattern")
    known = _PERIODS.get(architecture)
    if not window or (pattern is None and known is None and not metadata.has("attention.sliding_window_pattern")):
        # phi3 and mistral name a window that llama.cpp does not use for a smaller cache.
        return (None,) * count
    if pattern is not None:
        return tuple(window if pattern[index % len(pattern)] else None for index in range(count))
    period, dense_first = known or (1, False)
    period = metadata.number("attention.sliding_window_pattern", period) or 1
    dense = 0 if dense_first else period - 1
    return tuple(None if index % period == dense else window for index in range(count))


def _recurrent(metadata: Metadata, count: int, kv_heads: tuple[int, ...]) -> tuple[bool, ...]:
    architecture = metadata.architecture
    if architecture in _RECURRENT or architecture == "falcon-h1":
        return (True,) * count
    named = metadata.array("attention.recurrent_layers")
    if named is not None and len(named) >= count:
        return tuple(bool(value) for value in named[:count])
    if architecture in _INTERVAL_ARCHITECTURES:
        interval = metadata.number("full_attention_interval", 4) or 4
        return tuple((index + 1) % interval != 0 for index in range(count))
    if architecture in _BY_KV_HEADS or architecture.startswith("nemotron_h"):
        return tuple(heads == 0 for heads in kv_heads)
    return (False,) * count


def _state(metadata: Metadata, embedding: int) -> int:
    """Elements of recurrent state of one layer and sequence: ``n_embd_r`` and ``n_embd_s``."""
    if metadata.has("wkv.head_size"):
        return metadata.number("token_shift_count", 2) * embedding + embedding * metadata.number("wkv.head_size")
    if metadata.has("shortconv.l_cache"):
        return embedding * max(0, metadata.number("shortconv.l_cache") - 1)
    kernel, inner = metadata.number("ssm.conv_kernel"), metadata.number("ssm.inner_size")
    size, groups = metadata.number("ssm.state_size"), metadata.number("ssm.group_count")
    return max(0, kernel - 1) * (inner + 2 * groups * size) + size * inner
