"""How the fake registry behaves, and what goes wrong with single answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Behaviour:
    """What holds for every answer. Set attributes in-process, or ``POST /_fake/behaviour`` with any of them as JSON."""

    missing: bool = False
    """Every blob is 404."""
    ranges: bool = True
    """Without, parts that are asked for are answered with the whole."""
    by_digest: bool = True
    """Without, manifests are known by tag only, as in registry.ollama.ai."""
    first_byte_seconds: float = 0.0
    bytes_per_second: float = 0.0
    """Of each connection; 0 is as fast as it goes."""
    redirect_to: str | None = None
    """Blobs answer 307 to this ``http://HOST:PORT``."""
    bearer: str | None = None
    """The token to ask for, which ``/token`` of this server gives."""
    password: str | None = None
    """``USER:PASSWORD`` that ``/token`` asks for, or every request where there is no ``bearer``."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set attributes by name. Raises KeyError for a name that does not exist, and changes nothing then."""
        unknown = sorted(set(changes) - {one.name for one in fields(self)})
        if unknown:
            raise KeyError(", ".join(unknown))
        for name, value in changes.items():
            setattr(self, name, value)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer; without any field set, nothing."""

    status: int = 0
    """Answered instead, without a body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer with ``status``."""
    reset_after: int | None = None
    """Bytes of the body that arrive before the connection breaks."""
    stall_after: int | None = None
    """Bytes that arrive before nothing more does."""
    corrupt: bool = False
    """The first byte is another one."""
    short: int = 0
    """Bytes at the end that ``Content-Length`` promises and that never come."""

    @property
    def breaks(self) -> bool:
        """Whether the connection ends with the answer."""
        return self.reset_after is not None or self.short > 0

    def parts(self, body: bytes, *, size: int) -> Iterator[bytes]:
        """The pieces of a body that are sent, of ``size`` bytes at most."""
        if self.corrupt and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        cut = self.reset_after if self.reset_after is not None else self.stall_after
        end = max(0, len(body) - self.short) if cut is None else min(cut, len(body))
        for start in range(0, end, size):
            yield body[start : min(end, start + size)]
