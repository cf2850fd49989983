"""What sizing needs to know of a model, whatever its architecture: its layers, its widths, and where bytes lie."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ollama_fleet.sizing.gguf import Header, InvalidHeader, Tensor
from ollama_fleet.sizing.layers import Layer, head_length, layers_of
from ollama_fleet.sizing.metadata import MAX_LAYERS, Metadata
from ollama_fleet.sizing.weights import Weights, weights_of


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


MixerKind = Literal["delta", "mamba", "mamba2", "convolution"]


@dataclass(frozen=True, slots=True)
class Mixer:
    """What recurrent layers do with their state; lengths in elements."""

    kind: MixerKind
    inner: int
    """Width of the scan."""
    keys: int
    """Of all key heads (and of the queries) together."""
    state: int
    """Per channel or key head."""
    heads: int
    """Of the values; of mamba: the rank of the time step."""
    kernel: int
    """Of the convolution, in tokens."""

    @property
    def whole(self) -> bool:
        """Whether nothing that its graph needs is missing."""
        return self.kernel > 0 and (self.kind == "convolution" or min(self.inner, self.heads, self.state) > 0)


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
    mixer: Mixer | None = None
    """Of recurrent layers."""
    shared_expert_length: int = 0
    """Width of the experts that every token uses."""
    gate: Gate = "parallel"
    fused_qkv: bool = False
    gated_attention: bool = False
    centred_norm: bool = False
    """Layer norms, which never write over their input, not those of root mean squares."""
    parallel_blocks: bool = False
    """Attention and feed-forward network read the same input."""
    latent: Latent | None = None
    latent_heads: Latent | None = None
    """The same in a file that keeps the keys and values of all heads."""
    pooled: bool = False
    """The file says how to pool: Ollama takes it for a model that answers with vectors, whatever its architecture."""

    @property
    def single_parts(self) -> bool:
        """Whether each layer is attention, a recurrence or a network, never two of them."""
        return self.architecture.startswith("nemotron_h")

    @property
    def embeds(self) -> bool:
        """Whether it answers with vectors."""
        return self.encoder or self.pooled

    @property
    def windowed(self) -> bool:
        """Whether any layer looks back over a window only."""
        return any(layer.window is not None for layer in self.layers)

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
_FUSED_GATE: Final = frozenset({"phi3", "phimoe", "glm4", "chatglm"})
_UNGATED: Final = frozenset(
    {"bert", "jina-bert-v2", "falcon", "bloom", "gpt2", "gptneox", "mpt", "nemotron", "phi2", "starcoder", "starcoder2"}
)
_FUSED_QKV: Final = frozenset({"phi3", "qwen", "chatglm", "falcon", "bloom", "gpt2", "gptneox", "mpt", "phi2"})
_GATED_ATTENTION: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_MIXERS: Final[Mapping[str, MixerKind]] = {
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), "delta"),
    **dict.fromkeys(("mamba", "jamba"), "mamba"),
    **dict.fromkeys(("mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe", "plamo2"), "mamba2"),
    **dict.fromkeys(("lfm2", "lfm2moe"), "convolution"),
}
_PARALLEL: Final = frozenset({"command-r", "cohere2", "phi2", "falcon", "gptneox", "stablelm"})
"""What a table of tensors would show, for models of which only the metadata is known."""
_MOST_KINDS: Final = 32
"""Of layers: the most varied models have four."""
_MOST_EXPERTS_USED: Final = 64
"""Per token; models use up to some ten. Each is several nodes of every layer's graph."""
_BLOCK: Final = re.compile(r"blk\.\d+\.(\w+)\.weight")


def shape_of(header: Header, *, file_bytes: int) -> ModelShape:
    """The shape of the model in a file of ``file_bytes``. Raises InvalidHeader when the header makes no sense."""
    metadata = Metadata(header.metadata)
    drafts = metadata.required("block_count") - metadata.number("nextn_predict_layers")
    weights = weights_of(header.tensors, drafts=drafts, encoder=metadata.architecture in ENCODERS)
    return shape_from(metadata, weights=weights, file_bytes=file_bytes, tensors=header.tensors)


def shape_from(metadata: Metadata, *, weights: Weights, file_bytes: int, tensors: Iterable[Tensor] = ()) -> ModelShape:
    """As :func:`shape_of` from its parts, for models of which only the metadata is known."""
    architecture = metadata.architecture
    count = metadata.required("block_count")
    if count > MAX_LAYERS:
        raise InvalidHeader(f"{count} layers: at most {MAX_LAYERS} are believed")
    embedding = metadata.required("embedding_length")
    heads = metadata.number("attention.head_count")
    layers = layers_of(metadata, count, embedding, heads)
    tensors = tuple(tensors)
    # Of all layers: the first ones of a mixture of experts are often dense.
    names = {found[1]: t for t in tensors if (found := _BLOCK.fullmatch(t.name))}
    embeddings = next((tensor.shape for tensor in tensors if tensor.name == "token_embd.weight"), ())
    vocabulary = metadata.number("vocab_size") or metadata.array_length("tokenizer.ggml.tokens")
    shape = ModelShape(
        architecture=architecture,
        layers=layers,
        embedding_length=embedding,
        heads=heads,
        kv_heads=min(metadata.per_layer("attention.head_count_kv", count, default=heads)),
        head_length=head_length(metadata, embedding, heads),
        feed_forward_length=metadata.number("feed_forward_length"),
        experts=metadata.number("expert_count"),
        experts_used=metadata.number("expert_used_count"),
        # Experts of older models have the width of the network that they stand for.
        expert_length=metadata.number("expert_feed_forward_length") or metadata.number("feed_forward_length"),
        vocabulary=embeddings[1] if len(embeddings) > 1 else vocabulary,
        context_length=metadata.number("context_length"),
        encoder=architecture in ENCODERS,
        weights=weights,
        file_bytes=file_bytes,
        mixer=_mixer(metadata),
        shared_expert_length=_shared_expert_length(metadata, names),
        gate=_gate(metadata, names),
        fused_qkv="attn_qkv" in names if names else architecture in _FUSED_QKV,
        gated_attention=architecture in _GATED_ATTENTION,
        centred_norm=metadata.has("attention.layer_norm_epsilon")
        and not metadata.has("attention.layer_norm_rms_epsilon"),
        parallel_blocks=architecture in _PARALLEL,
        latent=_latent(metadata, heads=False),
        latent_heads=_latent(metadata, heads=True),
        pooled=metadata.has("pooling_type"),
    )
    check(shape)
    return shape


def check(shape: ModelShape) -> None:
    """Raise InvalidHeader for what no model has, and with which a graph could not be laid out, or not soon."""
    kinds, used, experts = len(set(shape.layers)), shape.experts_used, shape.experts
    if kinds > _MOST_KINDS:
        raise InvalidHeader(f"{kinds} kinds of layers: at most {_MOST_KINDS} are believed")
    if experts and not 0 < used <= min(experts, _MOST_EXPERTS_USED):
        raise InvalidHeader(
            f"{used} experts used of {experts}: at least 1 and at most {_MOST_EXPERTS_USED} are believed"
        )


def _shared_expert_length(metadata: Metadata, names: Mapping[str, Tensor]) -> int:
    if "ffn_up_shexp" in names:
        return names["ffn_up_shexp"].shape[-1]
    explicit = metadata.number("expert_shared_feed_forward_length")
    return explicit or metadata.number("expert_shared_count") * metadata.number("expert_feed_forward_length")


def _mixer(metadata: Metadata) -> Mixer | None:
    kind = _MIXERS.get(metadata.architecture)
    if kind is None:
        return None
    kernel = "shortconv.l_cache" if kind == "convolution" else "ssm.conv_kernel"
    mixer = Mixer(
        kind=kind,
        inner=metadata.number("ssm.inner_size"),
        keys=metadata.number("ssm.group_count") * metadata.number("ssm.state_size"),
        state=metadata.number("ssm.state_size"),
        heads=metadata.number("ssm.time_step_rank"),
        kernel=metadata.number(kernel),
    )
    return mixer if mixer.whole else None


def _gate(metadata: Metadata, names: Mapping[str, Tensor]) -> Gate:
    up = names.get("ffn_up")
    if up is None:
        architecture = metadata.architecture
        return "fused" if architecture in _FUSED_GATE else "none" if architecture in _UNGATED else "parallel"
    if "ffn_gate" in names:
        return "parallel"
    return "fused" if up.shape[-1] == 2 * metadata.number("feed_forward_length") else "none"


def _latent(metadata: Metadata, *, heads: bool) -> Latent | None:
    """Of files that keep the keys and values of all ``heads``, or of those that keep them compressed."""
    absorbed = metadata.has("attention.key_length_mla")
    if absorbed is heads or (heads and not metadata.has("attention.kv_lora_rank")):
        return None
    read, suffix = (metadata.number, "") if heads else (metadata.required, "_mla")
    return Latent(
        rank=metadata.required("attention.kv_lora_rank"),
        query_rank=metadata.number("attention.q_lora_rank"),
        rope_length=metadata.required("rope.dimension_count"),
        key_length=read(f"attention.key_length{suffix}"),
        value_length=read(f"attention.value_length{suffix}"),
    )
