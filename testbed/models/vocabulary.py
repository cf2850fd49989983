"""Small vocabularies: a few words that a tiny model says, and what is needed to read any text."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

WORDS: Final = ("the", "fleet", "answers", "with", "tokens", "from", "vram", "and", "every", "node", "serves", "models")
"""What the models say."""


class TokenType(IntEnum):
    """Token types of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids."""

    model: str
    """``tokenizer.ggml.model``."""
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    spoken: frozenset[int]
    """Ids of the words: all that the model is made to say."""
    merges: tuple[str, ...] = ()
    """Of a byte-pair encoding."""


def sentencepiece() -> Vocabulary:
    """As Llama 2 has it: special tokens, all bytes, words."""
    special = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    raw = [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
    words = [(f"\u2581{word}", TokenType.NORMAL) for word in WORDS]
    return _vocabulary("llama", [*special, *raw, *words], spoken=range(len(special) + len(raw), 259 + len(words)))


def byte_pairs() -> Vocabulary:
    """As Qwen 2 has it: bytes as printable characters, the steps of the merges, control tokens last."""
    tokens = list(_byte_characters())
    merges: list[str] = []
    spoken: list[int] = []
    for word in WORDS:
        left = "\u0120"
        for letter in word:
            if left + letter not in tokens:
                merges.append(f"{left} {letter}")
                tokens.append(left + letter)
            left += letter
        spoken.append(tokens.index(left))
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    entries = [(token, TokenType.NORMAL) for token in tokens] + [(token, TokenType.CONTROL) for token in control]
    return _vocabulary("gpt2", entries, spoken=spoken, merges=merges)


def wordpieces() -> Vocabulary:
    """As BERT has it: special tokens, letters that begin a word and letters that go on, words."""
    special = [(f"[{name}]", TokenType.CONTROL) for name in ("PAD", "CLS", "SEP", "MASK")]
    special.insert(1, ("[UNK]", TokenType.UNKNOWN))
    printable = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    begins = [(f"\u2581{letter}", TokenType.NORMAL) for letter in printable]
    goes_on = [(letter, TokenType.NORMAL) for letter in printable]
    words = [(f"\u2581{word}", TokenType.NORMAL) for word in WORDS]
    return _vocabulary("bert", [*special, *begins, *goes_on, *words], spoken=())


def _vocabulary(
    model: str, entries: Sequence[tuple[str, TokenType]], *, spoken: Sequence[int], merges: Sequence[str] = ()
) -> Vocabulary:
    tokens, types = zip(*entries, strict=True)
    return Vocabulary(model, tokens, types, frozenset(spoken), tuple(merges))


def _byte_characters() -> list[str]:
    """The printable stand-ins of GPT-2 for the bytes 0 to 255, in the order of the bytes."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters: list[str] = []
    moved = 0
    for byte in range(256):
        characters.append(chr(byte) if byte in kept else chr(256 + moved))
        moved += byte not in kept
    return characters
