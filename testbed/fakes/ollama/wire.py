"""Answers as the real server writes them: fields, their order, their content types."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from testbed.fakes.ollama.library import FakeModel
from testbed.fakes.ollama.scheduler import Runner

NDJSON: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"

_ERROR_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def encoded(value: Any) -> bytes:
    """JSON as Go writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339; the time now if none is given."""
    return (moment or datetime.now(UTC)).isoformat().replace("+00:00", "Z")


def native(value: Any, status: int = 200) -> web.Response:
    """An answer of the native API."""
    return web.Response(status=status, body=encoded(value), headers={"Content-Type": "application/json; charset=utf-8"})


def native_error(status: int, message: str) -> web.Response:
    return native({"error": message}, status)


def openai(value: Any, status: int = 200) -> web.Response:
    """An answer below ``/v1``."""
    return web.Response(status=status, body=encoded(value) + b"\n", headers={"Content-Type": "application/json"})


def openai_error(status: int, message: str) -> web.Response:
    kind = _ERROR_TYPES.get(status, "api_error")
    return openai({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last object of a generation carries."""

    reason: str
    timings: Mapping[str, int]


class Native:
    """``/api/generate`` and ``/api/chat``."""

    content_type = NDJSON

    def __init__(self, model: str, *, chat: bool) -> None:
        """``model`` is echoed as the client wrote it."""
        self._model = model
        self._chat = chat

    def piece(self, text: str) -> bytes:
        return self._line({"done": False}, text)

    def last(self, ending: Ending) -> bytes:
        return self._line(self._done(ending), "")

    def whole(self, text: str, ending: Ending) -> web.Response:
        return native(self._object(self._done(ending), text))

    def failed(self, message: str) -> bytes:
        return encoded({"error": message}) + b"\n"

    def empty(self) -> web.Response:
        """What the newer generation answers without a stream when the runner ended without a word."""
        nothing = {"model": "", "created_at": "0001-01-01T00:00:00Z"}
        return native(nothing | self._content("", role="") | {"done": False})

    def at_once(self, reason: str) -> web.Response:
        """Loaded or unloaded; nothing was generated."""
        return native(self._object({"done": True, "done_reason": reason}, ""))

    error = staticmethod(native_error)

    def _done(self, ending: Ending) -> dict[str, Any]:
        context = {} if self._chat else {"context": [1, 2, 3]}
        return {"done": True, "done_reason": ending.reason} | context | dict(ending.timings)

    def _line(self, rest: Mapping[str, Any], text: str) -> bytes:
        return encoded(self._object(rest, text)) + b"\n"

    def _object(self, rest: Mapping[str, Any], text: str) -> dict[str, Any]:
        return {"model": self._model, "created_at": timestamp()} | self._content(text) | dict(rest)

    def _content(self, text: str, role: str = "assistant") -> dict[str, Any]:
        return {"message": {"role": role, "content": text}} if self._chat else {"response": text}


class OpenAI:
    """``/v1/chat/completions`` and ``/v1/completions``."""

    content_type = EVENTS

    def __init__(self, model: str, *, chat: bool, usage: bool) -> None:
        """``usage``: whether the stream's client asked for it."""
        self._model = model
        self._chat = chat
        self._usage = usage
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.randbelow(999)}"

    def piece(self, text: str) -> bytes:
        # Only the older route promises zeros in every chunk.
        zeros = {"usage": _usage({})} if self._usage and not self._chat else {}
        return _event(self._chunk([self._choice(text, None)]) | zeros)

    def last(self, ending: Ending) -> bytes:
        events = _event(self._chunk([self._choice("", ending.reason)]))
        if self._usage:
            events += _event(self._chunk([]) | {"usage": _usage(ending.timings)})
        return events + b"data: [DONE]\n\n"

    def whole(self, text: str, ending: Ending) -> web.Response:
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0} | content | {"finish_reason": ending.reason}
        kind = "chat.completion" if self._chat else "text_completion"
        return openai(self._head(kind) | {"choices": [choice], "usage": _usage(ending.timings)})

    def failed(self, message: str) -> bytes:
        kind = _ERROR_TYPES.get(200, "api_error")
        return encoded({"error": {"message": message, "type": kind, "param": None, "code": None}}) + b"\n"

    def empty(self) -> web.Response:
        return self.whole("", Ending("", {}))

    def at_once(self, reason: str) -> web.Response:
        return self.whole("", Ending(reason, {}))

    error = staticmethod(openai_error)

    def _head(self, kind: str) -> dict[str, Any]:
        created = int(datetime.now(UTC).timestamp())
        return {
            "id": self._id,
            "object": kind,
            "created": created,
            "model": self._model,
            "system_fingerprint": "fp_ollama",
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self._chat else "text_completion") | {"choices": choices}

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": 0} | content | {"finish_reason": reason}


def listed(model: FakeModel, version: str) -> dict[str, Any]:
    """An entry of ``/api/tags``."""
    entry = {
        "name": model.name,
        "model": model.name,
        "modified_at": timestamp(model.modified),
        "size": model.size,
        "digest": model.digest,
        "details": model.details(),
    }
    return entry if version.startswith("0.24.") else entry | {"capabilities": model.capabilities}


def running(runner: Runner, size: int, vram_ratio: float) -> dict[str, Any]:
    """An entry of ``/api/ps``."""
    return {
        "name": runner.model.name,
        "model": runner.model.name,
        "size": size,
        "digest": runner.model.digest,
        "details": runner.model.details(),
        "expires_at": timestamp(runner.expires),
        "size_vram": int(size * vram_ratio),
        "context_length": runner.context_length,
    }


def shown(model: FakeModel) -> dict[str, Any]:
    """``/api/show``."""
    return {
        "modelfile": f'# Modelfile generated by "ollama show"\nFROM {model.name}\n',
        "template": model.template,
        "details": model.details(),
        "model_info": {"general.architecture": model.family, "general.file_type": 0},
        "tensors": [{"name": "token_embd.weight", "type": model.file_type, "shape": [64, 271]}],
        "capabilities": model.capabilities,
        "modified_at": timestamp(model.modified),
    }


def _usage(timings: Mapping[str, int]) -> dict[str, int]:
    prompt, generated = timings.get("prompt_eval_count", 0), timings.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"
