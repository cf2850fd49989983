"""The few calls that the sidecar makes to its own Ollama."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from ollama_fleet.relay.upstream import Upstream, UpstreamFailed

_LIMIT_BYTES: Final = 16 * 2**20
SETTLE_SECONDS: Final = 60.0
"""How long Ollama may take to give up a load."""
_LAST_YEAR: Final = 2200


class _Panicked(UpstreamFailed):
    """A handler of Ollama broke down: 500 without a word."""


class OllamaError(Exception):
    """Ollama answered with an error; the message is its own."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is in memory, from ``/api/ps``."""

    digest: str
    """Of the manifest, with ``sha256:``."""
    size: int
    size_vram: int
    context_length: int
    expires_at: str
    """RFC 3339 in UTC; empty for one that stays."""


class Ollama:
    """A client of one Ollama. Every method raises UpstreamFailed when it cannot be reached, OllamaError on refusal."""

    def __init__(self, upstream: Upstream) -> None:
        """Nothing is connected yet."""
        self._upstream = upstream

    async def version(self) -> str:
        """Its version; the cheapest sign of life."""
        return str((await self._call("GET", "/api/version")).get("version", ""))

    async def resident(self) -> tuple[Resident, ...]:
        """What is in memory. Names are not unique there: the digest is the key."""
        try:
            answer = await self._call("GET", "/api/ps")
        except _Panicked:
            # Both generations read the list without its lock: for microseconds a model that goes has no name any more.
            answer = await self._call("GET", "/api/ps")
        try:
            return tuple(_resident(entry) for entry in answer.get("models") or ())
        except (AttributeError, TypeError, ValueError) as error:
            raise UpstreamFailed("/api/ps: the answer has an unknown form") from error

    async def is_embedder(self, model: str) -> bool:
        """Whether a model gives vectors and no text."""
        answer = await self._call("POST", "/api/show", {"model": model})
        capabilities = answer.get("capabilities") or ()
        return "embedding" in capabilities and "completion" not in capabilities

    async def load(self, model: str, *, keep_alive: int | str, embedder: bool) -> None:
        """Bring a model into memory; returns when it is there."""
        if embedder:
            path, body = "/api/embed", {"model": model, "input": "", "keep_alive": keep_alive}
        else:
            path, body = "/api/generate", {"model": model, "keep_alive": keep_alive, "stream": False}
        await self._call("POST", path, body, settle=True)

    async def unload(self, model: str, *, embedder: bool) -> None:
        """Take a model out of memory as soon as it is idle."""
        await self.load(model, keep_alive=0, embedder=embedder)

    async def prove(self, model: str, *, keep_alive: int | str, embedder: bool) -> None:
        """Have a model do its work once: a token, or a vector. Raises OllamaError when nothing comes."""
        if embedder:
            answer = await self._call(
                "POST", "/api/embed", {"model": model, "input": "ready", "keep_alive": keep_alive}
            )
            if not any(answer.get("embeddings") or ()):
                raise OllamaError("the model gave no vector")
            return
        body = {
            "model": model,
            "prompt": "ready",
            "stream": False,
            "raw": True,
            "keep_alive": keep_alive,
            "options": {"num_predict": 1, "temperature": 0},
        }
        answer = await self._call("POST", "/api/generate", body)
        if not answer.get("eval_count"):
            raise OllamaError("the model gave no token")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, settle: bool = False
    ) -> dict[str, Any]:
        raw = None if body is None else json.dumps(body).encode()
        headers = () if body is None else ((b"content-type", b"application/json"),)
        async with self._upstream.request(method, path, headers=headers, body=raw) as answer:
            try:
                await answer.read_head()
                content = await answer.read(_LIMIT_BYTES)
            except asyncio.CancelledError:
                if settle:
                    # A load that was given up has ended when Ollama closes; what follows must not race with it.
                    await answer.settle(SETTLE_SECONDS)
                raise
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and not content:
            raise _Panicked(f"{path}: 500 without a word")
        try:
            document = json.loads(content)
        except ValueError as error:
            raise UpstreamFailed(f"{path}: the answer is not JSON") from error
        if not isinstance(document, dict):
            raise UpstreamFailed(f"{path}: the answer is no JSON object")
        if answer.status != HTTPStatus.OK or "error" in document:
            raise OllamaError(str(document.get("error", f"HTTP {answer.status}"))[:256])
        return document


def _resident(entry: Mapping[str, Any]) -> Resident:
    return Resident(
        digest=_digest(str(entry.get("digest", ""))),
        size=int(entry.get("size") or 0),
        size_vram=int(entry.get("size_vram") or 0),
        # Ollama up to 0.24 may leave it out.
        context_length=int(entry.get("context_length") or 0),
        expires_at=_expiry(str(entry.get("expires_at", ""))),
    )


def _expiry(text: str) -> str:
    """Ollama writes the year 2318 for a model that stays."""
    try:
        # More digits of a second than Python reads.
        moment = datetime.fromisoformat(re.sub(r"\.\d+", "", text)).astimezone(UTC)
    except ValueError:
        return ""
    return "" if moment.year > _LAST_YEAR else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"
