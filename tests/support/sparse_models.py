"""GGUF files with true shapes and no data: sparse files of many gigabytes that take some kilobytes of disk.

Dimensions are those of published models; the tables of tensors are what llama.cpp asks of each architecture
(``src/models/*.cpp``).
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Tensors = dict[str, tuple[tuple[int, ...], str]]
Metadata = dict[str, Any]


def write(path: Path, name: str) -> None:
    """The model ``name`` of ``MODELS`` as a sparse file."""
    architecture, metadata, tensors = MODELS[name]()
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    size = 0
    for tensor, (shape, kind) in tensors.items():
        quantisation = gguf.GGMLQuantizationType[kind.upper()]
        block, width = gguf.GGML_QUANT_SIZES[quantisation]
        count = math.prod(shape) // block * width
        stored: tuple[int, ...] = tuple(reversed(shape))
        plain = {"f32": np.float32, "f16": np.float16}.get(kind)
        if plain is None:
            stored = gguf.quant_shape_to_byte_shape(stored, quantisation)
        writer.add_tensor_info(tensor, stored, np.dtype(plain or np.uint8), count, raw_dtype=quantisation)
        size += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    offset = writer.fout[0].tell()
    writer.close()
    os.truncate(path, -(-offset // 32) * 32 + size)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _base(  # noqa: PLR0917 - the dimensions of a model, in the order of its card
    layers: int, width: int, heads: int, kv_heads: int, vocabulary: int, head: int
) -> tuple[Metadata, Tensors]:
    metadata: Metadata = {
        "block_count": layers,
        "context_length": 131072,
        "embedding_length": width,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head,
        "vocab_size": vocabulary,
        # llama.cpp needs no vocabulary to reserve memory.
        "tokenizer.ggml.model": "no_vocab",
    }
    if head:
        metadata |= {"attention.key_length": head, "attention.value_length": head}
    return metadata, {"token_embd.weight": ((width, vocabulary), "q4_k"), "output_norm.weight": ((width,), "f32")}


def _attention(tensors: Tensors, p: str, dimensions: tuple[int, int, int, int], *, wide: int = 1) -> None:
    width, heads, kv_heads, head = dimensions
    tensors |= {
        f"{p}attn_norm.weight": ((width,), "f32"),
        f"{p}attn_q.weight": ((width, wide * heads * head), "q4_k"),
        f"{p}attn_k.weight": ((width, kv_heads * head), "q4_k"),
        f"{p}attn_v.weight": ((width, kv_heads * head), "q6_k"),
        f"{p}attn_output.weight": ((heads * head, width), "q4_k"),
    }


def _head_norms(tensors: Tensors, p: str, head: int) -> None:
    tensors |= {f"{p}attn_q_norm.weight": ((head,), "f32"), f"{p}attn_k_norm.weight": ((head,), "f32")}


def _gated(tensors: Tensors, p: str, width: int, inner: int, norm: str = "ffn_norm") -> None:
    tensors |= {
        f"{p}{norm}.weight": ((width,), "f32"),
        f"{p}ffn_gate.weight": ((width, inner), "q4_k"),
        f"{p}ffn_up.weight": ((width, inner), "q4_k"),
        f"{p}ffn_down.weight": ((inner, width), "q6_k"),
    }


def _experts(tensors: Tensors, p: str, width: int, inner: int, *, count: int, kind: str) -> None:
    tensors |= {
        f"{p}ffn_gate_inp.weight": ((width, count), "f32"),
        f"{p}ffn_gate_exps.weight": ((width, inner, count), kind),
        f"{p}ffn_up_exps.weight": ((width, inner, count), kind),
        f"{p}ffn_down_exps.weight": ((inner, width, count), kind),
    }


def llama() -> tuple[str, Metadata, Tensors]:
    """Llama 3.1 8B."""
    metadata, tensors = _base(32, 4096, 32, 8, 128256, 128)
    metadata["feed_forward_length"] = 14336
    tensors["output.weight"] = ((4096, 128256), "q6_k")
    for p in map("blk.{}.".format, range(32)):
        _attention(tensors, p, (4096, 32, 8, 128))
        _gated(tensors, p, 4096, 14336)
    return "llama", metadata, tensors


def phi3() -> tuple[str, Metadata, Tensors]:
    """Phi-3 mini: one matrix for queries, keys and values, one for gate and input."""
    metadata, tensors = _base(32, 3072, 32, 32, 32064, 96)
    metadata |= {"feed_forward_length": 8192, "attention.sliding_window": 0}
    tensors["output.weight"] = ((3072, 32064), "q6_k")
    for p in map("blk.{}.".format, range(32)):
        tensors |= {
            f"{p}attn_norm.weight": ((3072,), "f32"),
            f"{p}attn_qkv.weight": ((3072, 9216), "q4_k"),
            f"{p}attn_output.weight": ((3072, 3072), "q4_k"),
            f"{p}ffn_norm.weight": ((3072,), "f32"),
            f"{p}ffn_up.weight": ((3072, 16384), "q4_k"),
            f"{p}ffn_down.weight": ((8192, 3072), "q6_k"),
        }
    return "phi3", metadata, tensors


def qwen3moe() -> tuple[str, Metadata, Tensors]:
    """Qwen3 30B A3B: 128 experts."""
    metadata, tensors = _base(48, 2048, 32, 4, 151936, 128)
    metadata |= {"feed_forward_length": 6144, "expert_count": 128, "expert_used_count": 8}
    metadata["expert_feed_forward_length"] = 768
    tensors["output.weight"] = ((2048, 151936), "q6_k")
    for p in map("blk.{}.".format, range(48)):
        _attention(tensors, p, (2048, 32, 4, 128))
        _head_norms(tensors, p, 128)
        tensors[f"{p}ffn_norm.weight"] = ((2048,), "f32")
        _experts(tensors, p, 2048, 768, count=128, kind="q4_k")
    return "qwen3moe", metadata, tensors


def gemma3() -> tuple[str, Metadata, Tensors]:
    """Gemma 3 12B: sliding windows, tied embeddings."""
    metadata, tensors = _base(48, 3840, 16, 8, 262208, 256)
    metadata |= {"feed_forward_length": 15360, "attention.sliding_window": 1024}
    for p in map("blk.{}.".format, range(48)):
        _attention(tensors, p, (3840, 16, 8, 256))
        _head_norms(tensors, p, 256)
        _gated(tensors, p, 3840, 15360)
        tensors |= {f"{p}post_{name}_norm.weight": ((3840,), "f32") for name in ("attention", "ffw")}
    return "gemma3", metadata, tensors


def gpt_oss() -> tuple[str, Metadata, Tensors]:
    """gpt-oss 20B: sliding windows and experts."""
    metadata, tensors = _base(24, 2880, 64, 8, 201088, 64)
    metadata |= {"feed_forward_length": 2880, "attention.sliding_window": 128, "expert_count": 32}
    metadata |= {"expert_used_count": 4, "expert_feed_forward_length": 2880}
    tensors |= {"output.weight": ((2880, 201088), "q8_0"), "token_embd.weight": ((2880, 201088), "q8_0")}
    for p in map("blk.{}.".format, range(24)):
        tensors |= {f"{p}{name}.weight": ((2880,), "f32") for name in ("attn_norm", "post_attention_norm")}
        tensors[f"{p}attn_sinks.weight"] = ((64,), "f32")
        for name, (rows, columns) in {
            "attn_q": (2880, 4096),
            "attn_k": (2880, 512),
            "attn_v": (2880, 512),
            "attn_output": (4096, 2880),
        }.items():
            tensors |= {f"{p}{name}.weight": ((rows, columns), "q8_0"), f"{p}{name}.bias": ((columns,), "f32")}
        _experts(tensors, p, 2880, 2880, count=32, kind="mxfp4")
        tensors[f"{p}ffn_gate_inp.bias"] = ((32,), "f32")
        tensors |= {f"{p}ffn_{name}_exps.bias": ((2880, 32), "f32") for name in ("gate", "up", "down")}
    return "gpt-oss", metadata, tensors


def deepseek2() -> tuple[str, Metadata, Tensors]:
    """DeepSeek V2 Lite: multi-head latent attention, a leading dense layer, shared experts."""
    width, heads, rank, rope = 2048, 16, 512, 64
    metadata, tensors = _base(27, width, heads, 1, 102400, 0)
    metadata |= {
        "feed_forward_length": 11008,
        "leading_dense_block_count": 1,
        "rope.dimension_count": rope,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "expert_count": 64,
        "expert_used_count": 6,
        "expert_shared_count": 2,
        "expert_feed_forward_length": 1408,
    }
    tensors["output.weight"] = ((width, 102400), "q6_k")
    for index in range(27):
        p = f"blk.{index}."
        tensors |= {
            f"{p}attn_norm.weight": ((width,), "f32"),
            f"{p}attn_q.weight": ((width, heads * 192), "q4_k"),
            f"{p}attn_kv_a_mqa.weight": ((width, rank + rope), "q4_k"),
            f"{p}attn_kv_a_norm.weight": ((rank,), "f32"),
            f"{p}attn_k_b.weight": ((128, rank, heads), "q8_0"),
            f"{p}attn_v_b.weight": ((rank, 128, heads), "q8_0"),
            f"{p}attn_output.weight": ((heads * 128, width), "q4_k"),
        }
        if index == 0:
            _gated(tensors, p, width, 11008)
            continue
        tensors[f"{p}ffn_norm.weight"] = ((width,), "f32")
        _experts(tensors, p, width, 1408, count=64, kind="q8_0")
        tensors |= {f"{p}ffn_{name}_shexp.weight": ((width, 2816), "q8_0") for name in ("gate", "up")}
        tensors[f"{p}ffn_down_shexp.weight"] = ((2816, width), "q8_0")
    return "deepseek2", metadata, tensors


def qwen35() -> tuple[str, Metadata, Tensors]:
    """Qwen3.5 9B: three recurrent layers for each one that attends."""
    width, state, groups, rank = 4096, 128, 16, 32
    metadata, tensors = _base(32, width, 16, 4, 248320, 256)
    metadata |= {
        "feed_forward_length": 12288,
        "full_attention_interval": 4,
        "rope.dimension_count": 64,
        "rope.dimension_sections": [11, 11, 10, 0],
        "ssm.conv_kernel": 4,
        "ssm.inner_size": rank * state,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "ssm.group_count": groups,
    }
    tensors["output.weight"] = ((width, 248320), "q6_k")
    mixed = 2 * state * groups + rank * state
    for index in range(32):
        p = f"blk.{index}."
        if (index + 1) % 4 == 0:
            _attention(tensors, p, (width, 16, 4, 256), wide=2)
            _head_norms(tensors, p, 256)
        else:
            tensors |= {
                f"{p}attn_norm.weight": ((width,), "f32"),
                f"{p}attn_qkv.weight": ((width, mixed), "q4_k"),
                f"{p}attn_gate.weight": ((width, rank * state), "q4_k"),
                f"{p}ssm_conv1d.weight": ((4, mixed), "f32"),
                f"{p}ssm_dt.bias": ((rank,), "f32"),
                f"{p}ssm_a": ((rank,), "f32"),
                f"{p}ssm_beta.weight": ((width, rank), "f32"),
                f"{p}ssm_alpha.weight": ((width, rank), "f32"),
                f"{p}ssm_norm.weight": ((state,), "f32"),
                f"{p}ssm_out.weight": ((rank * state, width), "q4_k"),
            }
        _gated(tensors, p, width, 12288, norm="post_attention_norm")
    return "qwen35", metadata, tensors


def bert() -> tuple[str, Metadata, Tensors]:
    """BGE large: an encoder."""
    width, inner, vocabulary, context = 1024, 4096, 30522, 512
    metadata, tensors = _base(24, width, 16, 16, vocabulary, 0)
    del tensors["output_norm.weight"], metadata["rope.dimension_count"]
    metadata |= {
        "feed_forward_length": inner,
        "context_length": context,
        "pooling_type": 1,
        "attention.causal": False,
        "attention.layer_norm_epsilon": 1e-12,
        "tokenizer.ggml.token_type_count": 2,
    }
    tensors |= {
        "token_embd.weight": ((width, vocabulary), "f16"),
        "position_embd.weight": ((width, context), "f32"),
        "token_types.weight": ((width, 2), "f32"),
        "token_embd_norm.weight": ((width,), "f32"),
        "token_embd_norm.bias": ((width,), "f32"),
    }
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    for p in map("blk.{}.".format, range(24)):
        for name, (rows, columns) in {**square, "ffn_up": (width, inner), "ffn_down": (inner, width)}.items():
            tensors |= {f"{p}{name}.weight": ((rows, columns), "f16"), f"{p}{name}.bias": ((columns,), "f32")}
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors |= {f"{p}{name}.{part}": ((width,), "f32") for part in ("weight", "bias")}
    return "bert", metadata, tensors


MODELS: dict[str, Callable[[], tuple[str, Metadata, Tensors]]] = {
    made.__name__: made for made in (llama, phi3, qwen3moe, gemma3, gpt_oss, deepseek2, qwen35, bert)
}
