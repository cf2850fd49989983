"""Reading protobuf messages field by field. The library for it costs the agent 10 MiB of memory."""

from collections.abc import Iterator
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_VARINT_LIMIT: Final = 64


class Malformed(ValueError):
    """Bytes that are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of every field in the order of the message; groups are not read. Raises Malformed."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(message, place)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise Malformed(f"field {number} has the unknown wire type {kind}")
        if place + size > len(message):
            raise Malformed(f"field {number} ends after the message")
        yield number, message[place : place + size]
        place += size


def parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """The values of a repeated field of messages, strings or bytes."""
    for found, value in fields(message):
        if found == number and isinstance(value, memoryview):
            yield value


def text(message: memoryview, number: int) -> str:
    """A string; the last one counts, an absent one is empty."""
    found = ""
    for value in parts(message, number):
        found = bytes(value).decode(errors="replace")
    return found


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_LIMIT:
        if place >= len(message):
            raise Malformed("a number ends after the message")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise Malformed("a number has more than 64 bits")
