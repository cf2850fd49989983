"""What a model's file says of itself, as far as its memory depends on it: part of the status of a ModelSet."""

from typing import Annotated, Literal

from pydantic import Field

from ollama_fleet.api.base import Bytes, Observed
from ollama_fleet.api.common import Word
from ollama_fleet.api.schema import list_atomic

Count = Annotated[int, Field(ge=0, le=2**40)]


class LayerKind(Observed):
    """Equal layers."""

    count: Count
    """How many there are."""
    kv_heads: Count = 0
    """Heads of keys and values; 0 where the layer keeps none."""
    key_length: Count = 0
    """Elements of a key."""
    value_length: Count = 0
    """Elements of a value; 0 where it is a view of the key."""
    window: Count | None = None
    """Tokens that the layer looks back; absent where it looks at all of them."""
    state: Count = 0
    """Elements of recurrent state per slot."""
    dense: bool = False
    """Without experts, in a mixture of experts."""
    borrows: bool = False
    """Uses the cache of an earlier layer."""
    draft: bool = False
    """Predicts further tokens."""


class LatentAttention(Observed):
    """Multi-head latent attention."""

    rank: Count
    """Of the compressed keys and values."""
    query_rank: Count = 0
    """Of the compressed queries, 0 where they are not."""
    rope_length: Count
    """Elements that carry the position."""
    key_length: Count
    """Elements of a head's key."""
    value_length: Count
    """Elements of a head's value."""


class TensorBytes(Observed):
    """Where the bytes of the tensors go."""

    layers: Bytes
    """Repeating layers."""
    output: Bytes
    """Output norm and matrix."""
    host: Bytes = 0
    """Token embeddings, which stay in host memory."""
    projector: Bytes = 0
    """Vision and audio towers."""
    draft: Bytes = 0
    """Layers that predict further tokens."""


class RecurrentMixer(Observed):
    """How recurrent layers mix tokens."""

    kind: Literal["delta", "mamba", "mamba2", "convolution"]
    """The family."""
    inner: Count = 0
    """Width of the scan."""
    keys: Count = 0
    """Elements of all key heads."""
    state: Count = 0
    """Elements per channel or key head."""
    heads: Count = 0
    """Heads of the values."""
    kernel: Count
    """Tokens of the convolution."""


class ModelHeader(Observed):
    """The header of a GGUF file, digested."""

    architecture: Word
    """As the file names it, e.g. ``llama``."""
    layers: list[LayerKind] = Field(default_factory=list, max_length=32, json_schema_extra=list_atomic())
    """Layers by kind."""
    embedding_length: Count
    """Width of the embeddings."""
    heads: Count = 0
    """Attention heads."""
    kv_heads: Count = 0
    """The least heads of keys and values of any layer."""
    head_length: Count = 0
    """Elements of a query head."""
    feed_forward_length: Count = 0
    """Width of the feed-forward network."""
    experts: Count = 0
    """Experts; 0 for dense models."""
    experts_used: Count = 0
    """Experts per token."""
    expert_length: Count = 0
    """Width of an expert."""
    shared_expert_length: Count = 0
    """Width of the experts that every token uses."""
    vocabulary: Count = 0
    """Tokens of the vocabulary."""
    context_length: Count = 0
    """Tokens that it was trained for; 0 where the file does not say."""
    encoder: bool = False
    """Without generation."""
    pooled: bool = False
    """Its file says how to pool: it answers with vectors, whatever its architecture."""
    weights: TensorBytes
    """Bytes of the tensors."""
    file_bytes: Bytes = 0
    """Bytes of the file."""
    mixer: RecurrentMixer | None = None
    """How recurrent layers mix tokens, where the model has such."""
    gate: Literal["parallel", "fused", "none"] = "parallel"
    """The feed-forward network's gate."""
    fused_qkv: bool = Field(default=False, alias="fusedQKV")
    """Queries, keys and values in one matrix."""
    gated_attention: bool = False
    """Attention with a gate."""
    centred_norm: bool = False
    """Layer norms."""
    parallel_blocks: bool = False
    """Attention and feed-forward network side by side."""
    latent: LatentAttention | None = None
    """Multi-head latent attention, where the model has it."""
    latent_heads: LatentAttention | None = None
    """The same, in a file that keeps the keys and values of all heads."""
