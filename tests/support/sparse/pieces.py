"""Tensors that architectures share, by the names and shapes that llama.cpp expects; the innermost dimension first."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Sketch:
    """A model: its metadata (keys without the architecture's prefix) and its tensors (shape and data type)."""

    architecture: str
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def add(self, name: str, *shape: int, kind: str = "q4_k") -> None:
        # As llama-quantize does with rows that are no whole blocks.
        fits = not kind.endswith("_k") or shape[0] % 256 == 0
        self.tensors[name] = (shape, kind if fits else "q8_0" if shape[0] % 32 == 0 else "f16")

    def norms(self, *names: str, width: int, bias: bool = False) -> None:
        for name in names:
            self.add(f"{name}.weight", width, kind="f32")
            if bias:
                self.add(f"{name}.bias", width, kind="f32")


def decoder(
    architecture: str,
    *,
    layers: int,
    width: int,
    vocabulary: int,
    inner: int,
    heads: int = 0,
    kv_heads: int | list[int] = 0,
    head: int = 0,
    embeddings: str = "q4_k",
    output: str | None = "q6_k",
    context: int = 131072,
) -> Sketch:
    """Metadata and the tensors outside the layers; ``output`` None: tied to the embeddings."""
    made = Sketch(architecture)
    made.metadata = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": inner,
        "vocab_size": vocabulary,
        "attention.layer_norm_rms_epsilon": 1e-5,
        # llama.cpp needs no vocabulary to reserve memory.
        "tokenizer.ggml.model": "no_vocab",
    }
    if heads:
        made.metadata |= {"attention.head_count": heads, "attention.head_count_kv": kv_heads}
    if head:
        made.metadata |= {"attention.key_length": head, "attention.value_length": head, "rope.dimension_count": head}
    made.add("token_embd.weight", width, vocabulary, kind=embeddings)
    made.norms("output_norm", width=width)
    if output:
        made.add("output.weight", width, vocabulary, kind=output)
    return made


def attention(
    made: Sketch, p: str, *, heads: int, kv_heads: int, head: int, wide: int = 1, norms: bool = False
) -> None:
    """Queries, keys, values and the output; ``wide`` 2: a gate beside the queries."""
    width = made.metadata["embedding_length"]
    made.norms(f"{p}attn_norm", width=width)
    made.add(f"{p}attn_q.weight", width, wide * heads * head)
    made.add(f"{p}attn_k.weight", width, kv_heads * head)
    made.add(f"{p}attn_v.weight", width, kv_heads * head, kind="q6_k")
    made.add(f"{p}attn_output.weight", heads * head, width)
    if norms:
        made.norms(f"{p}attn_q_norm", f"{p}attn_k_norm", width=head)


def dense(made: Sketch, p: str, inner: int, *, norm: str | None = "ffn_norm", gate: bool = True) -> None:
    """A feed-forward network."""
    width = made.metadata["embedding_length"]
    if norm:
        made.norms(f"{p}{norm}", width=width)
    if gate:
        made.add(f"{p}ffn_gate.weight", width, inner)
    made.add(f"{p}ffn_up.weight", width, inner)
    made.add(f"{p}ffn_down.weight", inner, width, kind="q6_k")


def experts(
    made: Sketch, p: str, *, count: int, inner: int, shared: int = 0, kind: str = "q4_k", norm: str | None = "ffn_norm"
) -> None:
    """A mixture of experts, and one that every token uses."""
    width = made.metadata["embedding_length"]
    if norm:
        made.norms(f"{p}{norm}", width=width)
    made.add(f"{p}ffn_gate_inp.weight", width, count, kind="f32")
    made.add(f"{p}ffn_gate_exps.weight", width, inner, count, kind=kind)
    made.add(f"{p}ffn_up_exps.weight", width, inner, count, kind=kind)
    made.add(f"{p}ffn_down_exps.weight", inner, width, count, kind=kind)
    if shared:
        made.add(f"{p}ffn_gate_shexp.weight", width, shared, kind=kind)
        made.add(f"{p}ffn_up_shexp.weight", width, shared, kind=kind)
        made.add(f"{p}ffn_down_shexp.weight", shared, width, kind=kind)


def mamba(made: Sketch, p: str, *, inner: int, state: int, rank: int, norms: bool = False) -> None:
    """A state-space layer of the first kind."""
    width = made.metadata["embedding_length"]
    made.norms(f"{p}attn_norm", width=width)
    made.add(f"{p}ssm_in.weight", width, 2 * inner)
    made.add(f"{p}ssm_conv1d.weight", 4, inner, kind="f32")
    made.add(f"{p}ssm_conv1d.bias", inner, kind="f32")
    made.add(f"{p}ssm_x.weight", inner, rank + 2 * state)
    made.add(f"{p}ssm_dt.weight", rank, inner, kind="f32")
    made.add(f"{p}ssm_dt.bias", inner, kind="f32")
    made.add(f"{p}ssm_a", state, inner, kind="f32")
    made.add(f"{p}ssm_d", inner, kind="f32")
    made.add(f"{p}ssm_out.weight", inner, width)
    if norms:
        made.norms(f"{p}ssm_dt_norm", width=rank)
        made.norms(f"{p}ssm_b_norm", f"{p}ssm_c_norm", width=state)


def mamba2(made: Sketch, p: str, *, inner: int, state: int, heads: int, groups: int, normed: bool = True) -> None:
    """A state-space layer of the second kind."""
    width = made.metadata["embedding_length"]
    channels = inner + 2 * groups * state
    made.norms(f"{p}attn_norm", width=width)
    made.add(f"{p}ssm_in.weight", width, inner + channels + heads)
    made.add(f"{p}ssm_conv1d.weight", 4, channels, kind="f32")
    made.add(f"{p}ssm_conv1d.bias", channels, kind="f32")
    made.add(f"{p}ssm_dt.bias", heads, kind="f32")
    made.add(f"{p}ssm_a", 1, heads, kind="f32")
    made.add(f"{p}ssm_d", 1, heads, kind="f32")
    if normed:
        made.add(f"{p}ssm_norm.weight", inner // groups, groups, kind="f32")
    made.add(f"{p}ssm_out.weight", inner, width)


def state_space(*, inner: int, state: int, rank: int, groups: int = 0) -> dict[str, int]:
    """Metadata of recurrent layers."""
    found = {"ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    return found | ({"ssm.group_count": groups} if groups else {})
