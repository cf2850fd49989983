"""Errors in the shape that the client of each dialect reads."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from ollama_fleet.sidecar.routes import Dialect


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, text: str, *, retry_after: int | None = None, busy: bool = False) -> None:
        """``text`` says what is wrong and what to do; ``busy`` marks a full server, which a gateway asks again."""
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.busy = busy


@dataclass(frozen=True, slots=True)
class Rendered:
    """A refusal on the wire."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


def render(refused: Refused, dialect: Dialect) -> Rendered:
    """The refusal as the dialect spells it."""
    headers = []
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.busy:
        headers.append((b"x-ollama-fleet-busy", b"1"))
    return Rendered(refused.status, json.dumps(_body(refused, dialect)).encode(), tuple(headers))


def _body(refused: Refused, dialect: Dialect) -> dict[str, object]:
    text = str(refused)
    match dialect:
        case Dialect.OLLAMA:
            return {"error": text}
        case Dialect.OPENAI:
            return {"error": {"message": text, "type": _openai_type(refused.status), "param": None, "code": None}}
        case Dialect.ANTHROPIC:
            return {"type": "error", "error": {"type": _anthropic_type(refused.status), "message": text}}


def _openai_type(status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return "not_found_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"


def _anthropic_type(status: int) -> str:
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "overloaded_error"
    return _openai_type(status)
