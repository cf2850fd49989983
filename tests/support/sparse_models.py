"""Sparse files of published models, by name."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.support.sparse import decoders, encoders, hybrids
from tests.support.sparse.pieces import Sketch

MODELS: Final[dict[str, Callable[[], Sketch]]] = {
    "llama": decoders.llama,
    "phi3": decoders.phi3,
    "gemma2": decoders.gemma2,
    "gemma3": decoders.gemma3,
    "cohere2": decoders.cohere2,
    "qwen3moe": decoders.qwen3moe,
    "mixtral": decoders.mixtral,
    "glm4moe": decoders.glm4moe,
    "gpt_oss": decoders.gpt_oss,
    "llama4": decoders.llama4,
    "deepseek2": decoders.deepseek2,
    "deepseek2_heads": decoders.deepseek2_heads,
    "mamba": hybrids.mamba_1,
    "jamba": hybrids.jamba,
    "falcon_h1": hybrids.falcon_h1,
    "nemotron_h": hybrids.nemotron_h,
    "granitehybrid": hybrids.granitehybrid,
    "lfm2": hybrids.lfm2,
    "qwen35": hybrids.qwen35,
    "qwen3next": hybrids.qwen3next,
    "bert": encoders.bert,
    "nomic_bert": encoders.nomic_bert,
}


def write(path: Path, name: str, *, vocabulary: int | None = None, spoken: bool = False) -> None:
    """The model ``name`` of ``MODELS`` as a sparse file.

    With few tokens in its ``vocabulary`` the logits hide nothing of what its layers need. ``spoken``: its tokens have
    words, so that it can be asked.
    """
    made = MODELS[name]()
    if vocabulary is not None:
        made = _with_vocabulary(made, vocabulary)
    if spoken:
        _add_words(made)
    writer = gguf.GGUFWriter(path, made.architecture)
    for key, value in made.metadata.items():
        _add(writer, key if key.startswith("tokenizer.") else f"{made.architecture}.{key}", value)
    size = 0
    for tensor, (shape, kind) in made.tensors.items():
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


def _with_vocabulary(made: Sketch, vocabulary: int) -> Sketch:
    made.metadata["vocab_size"] = vocabulary
    for name in ("token_embd.weight", "output.weight"):
        if name in made.tensors:
            (width, _), kind = made.tensors[name]
            made.tensors[name] = ((width, vocabulary), kind)
    return made


def _add_words(made: Sketch) -> None:
    """A letter is a token: all that a byte-level vocabulary needs are the 256 signs that stand for bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = [chr(byte) for byte in plain] + [chr(0x100 + index) for index in range(256 - len(plain))]
    count = made.tensors["token_embd.weight"][0][1]
    made.metadata |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": signs + [f"<{index}>" for index in range(len(signs), count)],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": count - 1,
        "tokenizer.ggml.eos_token_id": count - 1,
        "tokenizer.ggml.add_bos_token": False,
    }


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
