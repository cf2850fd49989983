"""GGUF files of models that are tiny but complete: real servers load them and answer.

Weights are random from a fixed seed, so a file is the same bytes every time. A model made of random weights alone says
bytes that are no UTF-8, on which servers from 0.30 on break off; so one dimension of every state says "speak", and the
output weights turn it into words and away from everything else, for ever.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from testbed.models.vocabulary import Vocabulary, byte_pairs, sentencepiece, wordpieces

CONTEXT_LENGTH: Final = 4096
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

_WORD, _OTHER = 4.0, -8.0
_GAIN: Final = 0.4
"""Of a block's matrix, whatever its width: small, or the blocks would drown the dimension that says "speak"."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a network."""

    layers: int
    width: int
    heads: int = 4
    heads_kv: int = 4

    @property
    def feed_forward(self) -> int:
        return 2 * self.width


def write_llama(path: Path, shape: Shape, *, name: str) -> None:
    """A decoder of the llama architecture."""
    vocabulary = sentencepiece()
    writer = _writer(path, "llama", shape, name=name, vocabulary=vocabulary)
    _decoder(writer, "llama", shape, vocabulary=vocabulary, biased=False)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    _tokenizer(writer, vocabulary)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_token_scores([-float(index) for index in range(len(vocabulary.tokens))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    _finish(writer)


def write_qwen2(path: Path, shape: Shape, *, name: str) -> None:
    """A decoder of the qwen2 architecture: grouped key heads, biases, a byte-pair vocabulary."""
    vocabulary = byte_pairs()
    writer = _writer(path, "qwen2", shape, name=name, vocabulary=vocabulary)
    _decoder(writer, "qwen2", shape, vocabulary=vocabulary, biased=True)
    _tokenizer(writer, vocabulary)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_merges(list(vocabulary.merges))
    count = len(vocabulary.tokens)
    writer.add_bos_token_id(count - 3)
    writer.add_eos_token_id(count - 1)
    writer.add_pad_token_id(count - 3)
    writer.add_add_bos_token(False)
    _finish(writer)


def write_bert(path: Path, shape: Shape, *, name: str) -> None:
    """An encoder that answers embeddings, by the mean over the tokens."""
    vocabulary = wordpieces()
    writer = _writer(path, "bert", shape, name=name, vocabulary=vocabulary)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    _tokenizer(writer, vocabulary)
    # Both pairs of ids: the generations read different ones.
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    random = np.random.default_rng(3)
    width = shape.width
    _add(writer, "token_embd.weight", _random(random, len(vocabulary.tokens), width, gain=8.0))
    _add(writer, "token_types.weight", _random(random, 2, width))
    _add(writer, "position_embd.weight", _random(random, CONTEXT_LENGTH, width))
    _norm(writer, "token_embd_norm", width)
    for index in range(shape.layers):
        block = f"blk.{index}"
        for part, rows, columns in _matrices(shape, gated=False):
            _add(writer, f"{block}.{part}.weight", _random(random, rows, columns))
            _add(writer, f"{block}.{part}.bias", np.zeros(rows, dtype=np.float32))
        _norm(writer, f"{block}.attn_output_norm", width)
        _norm(writer, f"{block}.layer_output_norm", width)
    _finish(writer)


def _decoder(writer: gguf.GGUFWriter, architecture: str, shape: Shape, *, vocabulary: Vocabulary, biased: bool) -> None:
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    random = np.random.default_rng(len(architecture) * shape.width)
    count = len(vocabulary.tokens)
    embedding = _random(random, count, shape.width)
    embedding[:, 0] = 1
    output = _random(random, count, shape.width, gain=4.0)
    output[:, 0] = [_WORD if index in vocabulary.spoken else _OTHER for index in range(count)]
    _add(writer, "token_embd.weight", embedding)
    _add(writer, "output_norm.weight", np.ones(shape.width, dtype=np.float32))
    _add(writer, "output.weight", output)
    for index in range(shape.layers):
        block = f"blk.{index}"
        for part in ("attn_norm", "ffn_norm"):
            _add(writer, f"{block}.{part}.weight", np.ones(shape.width, dtype=np.float32))
        for part, rows, columns in _matrices(shape, gated=True):
            _add(writer, f"{block}.{part}.weight", _random(random, rows, columns))
            if biased and part in {"attn_q", "attn_k", "attn_v"}:
                _add(writer, f"{block}.{part}.bias", np.zeros(rows, dtype=np.float32))


def _matrices(shape: Shape, *, gated: bool) -> list[tuple[str, int, int]]:
    """Name, rows and columns of a block's matrices."""
    width, keys = shape.width, shape.width // shape.heads * shape.heads_kv
    gate = [("ffn_gate", shape.feed_forward, width)] if gated else []
    return [
        ("attn_q", width, width),
        ("attn_k", keys, width),
        ("attn_v", keys, width),
        ("attn_output", width, width),
        *gate,
        ("ffn_up", shape.feed_forward, width),
        ("ffn_down", width, shape.feed_forward),
    ]


def _writer(path: Path, architecture: str, shape: Shape, *, name: str, vocabulary: Vocabulary) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_vocab_size(len(vocabulary.tokens))
    return writer


def _tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Keys of the tokenizer come after those of the architecture: lists of models are read only up to here."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([int(kind) for kind in vocabulary.types])


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _norm(writer: gguf.GGUFWriter, name: str, width: int) -> None:
    _add(writer, f"{name}.weight", np.ones(width, dtype=np.float32))
    _add(writer, f"{name}.bias", np.zeros(width, dtype=np.float32))


def _add(writer: gguf.GGUFWriter, name: str, tensor: Array) -> None:
    writer.add_tensor(name, np.ascontiguousarray(tensor))


def _random(random: np.random.Generator, rows: int, columns: int, *, gain: float = _GAIN) -> Array:
    return np.asarray(random.standard_normal((rows, columns)) * (gain / np.sqrt(columns)), dtype=np.float32)
