"""The header reader: it asks for more, it is exact, and nothing hostile gets past its bounds."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.sizing import gguf as reader
from ollama_fleet.sizing.gguf import Array, InvalidHeader, NeedMore, read_header
from ollama_fleet.sizing.shape import shape_of
from testbed.models.catalog import ensure


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(*entries: bytes, tensors: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    counts = struct.pack("<QQ", len(tensors), len(entries))
    return b"GGUF" + struct.pack("<I", version) + counts + b"".join(entries) + b"".join(tensors)


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, *shape: int, kind: int = 0) -> bytes:
    dimensions = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, 0)


def test_values_of_all_kinds_and_the_table_of_tensors() -> None:
    found = read_header(
        header(
            entry("a", 8, text("word")),
            entry("b", 4, struct.pack("<I", 7)),
            entry("c", 7, b"\1"),
            entry("d", 6, struct.pack("<f", 0.5)),
            entry("e", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -1, 0)),
            entry("f", 9, struct.pack("<IQ", 8, 2) + text("one") + text("two")),
            tensors=(tensor("w", 256, 3, kind=12), tensor("x", 5)),
        )
    )
    assert dict(found.metadata) == {
        "a": "word",
        "b": 7,
        "c": True,
        "d": 0.5,
        "e": Array(3, (1, -1, 0)),
        "f": Array(2, ()),
    }
    assert [(t.name, t.bytes) for t in found.tensors] == [("w", 3 * 144), ("x", 20)]


def test_every_cut_asks_for_more_and_the_whole_is_read() -> None:
    raw = ensure("chat").read_bytes()
    size = read_header(raw).size
    assert size < 16384
    for cut in range(0, size, 7):
        with pytest.raises(NeedMore) as more:
            read_header(raw[:cut])
        assert cut < more.value.at_least <= size
    assert read_header(raw[:size]).tensors == read_header(raw).tensors


@pytest.mark.parametrize("name", ["chat", "chat-large", "embed", "qwen"])
def test_the_tensors_fill_the_file(name: str) -> None:
    path = ensure(name)
    raw = path.read_bytes()
    found = read_header(raw)
    data = sum(-(-t.bytes // 32) * 32 for t in found.tensors)
    assert len(raw) - found.size - data < 64
    assert shape_of(found, file_bytes=len(raw)).weights.layers > 0


HOSTILE = {
    "another format": (b"PK\3\4" + bytes(60), "no GGUF"),
    "big-endian": (b"FUGG" + bytes(60), "big-endian"),
    "version": (header(version=9), "version 9"),
    "entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata entries"),
    "tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "tensors"),
    "long key": (header(struct.pack("<Q", 2**50)), "a key"),
    "long string": (header(text("k") + struct.pack("<IQ", 8, 2**50)), "the value of k"),
    "long array": (header(text("k") + struct.pack("<IIQ", 9, 4, 2**50)), "elements in k"),
    "array of arrays": (header(text("k") + struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
    "type": (header(entry("k", 99, b"")), "unknown type 99"),
    "twice": (header(entry("k", 7, b"\1"), entry("k", 7, b"\1")), "comes twice"),
    "key": (header(struct.pack("<Q", 2) + b"\xff\xfe"), "no UTF-8"),
    "dimensions": (header(tensors=(text("w") + struct.pack("<I", 9),)), "9 dimensions"),
    "shape": (header(tensors=(tensor("w", 2**40, 2**40),)), "impossible shape"),
    "zero": (header(tensors=(tensor("w", 0),)), "impossible shape"),
    "data type": (header(tensors=(tensor("w", 4, kind=77),)), "unknown data type 77"),
}


@pytest.mark.parametrize(("raw", "words"), HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_headers_are_refused_with_what_is_wrong(raw: bytes, words: str) -> None:
    with pytest.raises(InvalidHeader, match=words):
        read_header(raw)


def test_a_header_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER", 1000)
    endless = header(entry("k", 9, struct.pack("<IQ", 8, 10_000) + text("x" * 40) * 10_000))
    with pytest.raises(InvalidHeader, match="longer than 1000 bytes"):
        read_header(endless)


def test_a_tensor_with_a_strange_name_is_counted_and_breaks_nothing() -> None:
    entries = [entry("general.architecture", 8, text("llama"))]
    for key, value in {"block_count": 1, "embedding_length": 64, "attention.head_count": 2}.items():
        entries.append(entry(f"llama.{key}", 4, struct.pack("<I", value)))
    found = read_header(header(*entries, tensors=(tensor("blk.weight", 64), tensor("blk..weight", 64), tensor("", 64))))
    assert shape_of(found, file_bytes=1000).weights.layers == 512


@given(st.binary(max_size=400))
def test_any_bytes_are_read_refused_or_too_few(raw: bytes) -> None:
    with contextlib.suppress(InvalidHeader, NeedMore):
        read_header(b"GGUF\3\0\0\0" + raw)


@given(st.data())
def test_a_damaged_header_never_does_more_than_fail(data: st.DataObject) -> None:
    raw = bytearray(ensure("chat").read_bytes()[:9291])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidHeader, NeedMore):
        shape_of(read_header(bytes(raw)), file_bytes=10**6)
