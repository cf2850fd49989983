"""Reading the header of a GGUF file, versions 2 and 3: metadata and the table of tensors, never their data.

The reader is fed with the first bytes of a file and says when it needs more, so that the header of a 40 GB model costs
some megabytes of transfer. Everything in a header is bounded: counts, lengths, nesting.

Format: ggml-org/ggml, docs/gguf.md.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.ggmltypes import GGML_TYPES, GgmlType

Scalar = int | float | bool | str


class InvalidHeader(ValueError):
    """The bytes are no header that can be trusted; the message says what is wrong and where."""


class NeedMore(Exception):
    """The header goes on behind the bytes that were given."""

    def __init__(self, at_least: int) -> None:
        """``at_least`` bytes from the start of the file are needed; the header may still be longer."""
        super().__init__(f"at least {at_least} bytes")
        self.at_least = at_least


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata. Long ones (the vocabulary) are only counted."""

    length: int
    values: tuple[Scalar, ...]
    """All elements if there are at most ``MAX_KEPT``, else none."""


Value = Scalar | Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the table of tensors."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    """Elements per dimension, the innermost first."""

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return self.kind.row_bytes(self.shape[0]) * math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the tensors' data."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    size: int
    """Bytes of the header itself."""


MAGIC: Final = b"GGUF"
MAX_HEADER: Final = 256 * 2**20
"""Bytes. The largest seen has some tens of MiB: a vocabulary of 256k tokens with merges and scores."""
MAX_ENTRIES: Final = 65_536
MAX_TENSORS: Final = 262_144
MAX_ELEMENTS: Final = 16 * 2**20
"""Of an array: merges of large vocabularies have some hundred thousand."""
MAX_STRING: Final = 16 * 2**20
"""Bytes; the longest are chat templates."""
MAX_NAME: Final = 65_535
MAX_DIMENSIONS: Final = 4
MAX_KEPT: Final = 4096
"""Elements of an array that are kept: per-layer values, not vocabularies."""
_MAX_TENSOR_ELEMENTS: Final = 2**48

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    _BOOL: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


def read_header(data: bytes | memoryview) -> Header:
    """Read the header at the start of ``data``. Raises NeedMore or InvalidHeader, nothing else."""
    cursor = _Cursor(memoryview(data))
    magic = bytes(cursor.take(4))
    if magic == MAGIC[::-1]:
        raise InvalidHeader("a big-endian GGUF file: no server here reads it")
    if magic != MAGIC:
        raise InvalidHeader(f"no GGUF file: it begins with {magic!r}")
    version = cursor.number(_U32)
    if version not in {2, 3}:
        raise InvalidHeader(f"GGUF version {version}: 2 and 3 are known")
    tensors = cursor.count("tensors", MAX_TENSORS)
    entries = cursor.count("metadata entries", MAX_ENTRIES)
    metadata: dict[str, Value] = {}
    for _ in range(entries):
        key = cursor.string("a key", MAX_NAME)
        if key in metadata:
            raise InvalidHeader(f"key {key!r} comes twice")
        metadata[key] = _value(cursor, key)
    table = tuple(_tensor(cursor) for _ in range(tensors))
    return Header(version, metadata, table, cursor.position)


class _Cursor:
    """Walks over the bytes; stops with NeedMore at their end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > MAX_HEADER:
            raise InvalidHeader(f"the header is longer than {MAX_HEADER} bytes")
        if end > len(self._data):
            raise NeedMore(end)
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def number(self, form: struct.Struct) -> int:
        (value,) = form.unpack(self.take(form.size))
        return int(value)

    def scalar(self, kind: int) -> Scalar:
        form = _SCALARS[kind]
        value: int | float
        (value,) = form.unpack(self.take(form.size))
        return bool(value) if kind == _BOOL else value

    def count(self, what: str, limit: int) -> int:
        value = self.number(_U64)
        if value > limit:
            raise InvalidHeader(f"{value} {what}: at most {limit} are read")
        return value

    def string(self, what: str, limit: int) -> str:
        length = self.count(f"bytes in {what}", limit)
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidHeader(f"{what} is no UTF-8 at byte {self.position}") from error

    def skip_strings(self, count: int) -> None:
        """The vocabulary: hundreds of thousands, none of which is needed."""
        data, position, size = self._data, self.position, len(self._data)
        unpack = _U64.unpack_from
        for _ in range(count):
            if position + 8 > size:
                raise NeedMore(position + 8)
            (length,) = unpack(data, position)
            if length > MAX_STRING:
                raise InvalidHeader(f"{length} bytes in a string of an array: at most {MAX_STRING} are read")
            position += 8 + length
        self.position = position
        self.take(0)
        if position > size:
            raise NeedMore(position)


def _value(cursor: _Cursor, key: str) -> Value:
    kind = cursor.number(_U32)
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind == _STRING:
        return cursor.string(f"the value of {key}", MAX_STRING)
    if kind not in _SCALARS:
        raise InvalidHeader(f"{key} has the unknown type {kind}")
    return cursor.scalar(kind)


def _array(cursor: _Cursor, key: str) -> Array:
    kind = cursor.number(_U32)
    length = cursor.count(f"elements in {key}", MAX_ELEMENTS)
    if kind == _STRING:
        cursor.skip_strings(length)
        return Array(length, ())
    if kind not in _SCALARS:
        # Arrays of arrays are allowed by the format and used by nobody: unbounded depth for nothing.
        raise InvalidHeader(f"{key} is an array of the unknown type {kind}")
    if length <= MAX_KEPT:
        return Array(length, tuple(cursor.scalar(kind) for _ in range(length)))
    cursor.take(length * _SCALARS[kind].size)
    return Array(length, ())


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.string("the name of a tensor", MAX_NAME)
    dimensions = cursor.number(_U32)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidHeader(f"tensor {name} has {dimensions} dimensions: 1 to {MAX_DIMENSIONS} are known")
    shape = tuple(cursor.number(_U64) for _ in range(dimensions))
    if not 0 < math.prod(shape) <= _MAX_TENSOR_ELEMENTS:
        raise InvalidHeader(f"tensor {name} has the impossible shape {shape}")
    kind = cursor.number(_U32)
    if kind not in GGML_TYPES:
        raise InvalidHeader(f"tensor {name} has the unknown data type {kind}")
    cursor.number(_U64)
    return Tensor(name, GGML_TYPES[kind], shape)
