"""The parts of an HTTP/1.1 message that relays look at, and the bounds on what they accept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, in the order of the wire."""

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that concern one connection only (RFC 9110, 7.6.1); they are never forwarded."""


class BadMessage(Exception):
    """The peer's message is refused; ``status`` is what to answer."""

    def __init__(self, status: int, text: str) -> None:
        """``text`` is shown to the peer."""
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request."""

    method: str
    path: str
    """Without the query, still percent-encoded."""
    query: str
    headers: Headers

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header, None when it is absent."""
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


def forwardable(
    headers: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes] = frozenset()
) -> Iterator[tuple[bytes, bytes]]:
    """The headers that may go on: none of this connection's, none that ``Connection`` names, none of ``drop``."""
    kept = list(headers)
    named = {token.strip().lower() for key, value in kept if key == b"connection" for token in value.split(b",")}
    for key, value in kept:
        if key not in HOP_BY_HOP and key not in named and key not in drop:
            yield key, value


def check_framing(head: Head) -> None:
    """Refuse what two parsers could read in two ways. Raises BadMessage."""
    if len(head.all(b"host")) != 1:
        raise BadMessage(HTTPStatus.BAD_REQUEST, "exactly one Host header is needed")
    lengths, codings = head.all(b"content-length"), head.all(b"transfer-encoding")
    if lengths and codings:
        raise BadMessage(HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other")
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise BadMessage(HTTPStatus.BAD_REQUEST, "Content-Length must be one number")
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        raise BadMessage(HTTPStatus.NOT_IMPLEMENTED, "the only transfer coding understood is chunked")
    if head.get(b"upgrade") is not None:
        raise BadMessage(HTTPStatus.NOT_IMPLEMENTED, "upgrades are not served")


def head_bytes(start: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head on the wire."""
    lines = [start, *(name + b": " + value for name, value in headers), b"", b""]
    return b"\r\n".join(lines)


def phrase(status: int) -> str:
    """The reason phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
