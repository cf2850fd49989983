"""Asking the servers inside a pod: the sidecar for its state, the puller for its progress.

Pods are other people's territory: answers are bounded in size and time, and silence is an answer (None).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from ollama_fleet.api import names
from ollama_fleet.api.base import Observed
from ollama_fleet.api.progress import PullProgress
from ollama_fleet.api.state import SidecarState

_LIMIT_BYTES: Final = 256 * 1024
_TIMEOUT_SECONDS: Final = 2.0
_AT_ONCE: Final = 64

T = TypeVar("T", bound=Observed)


def _client() -> httpx.AsyncClient:
    # Pods are reached directly: a proxy of the environment would see every one of them.
    return httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)


@dataclass(slots=True)
class PodServers:
    """HTTP client for the admin ports of pods."""

    _http: httpx.AsyncClient = field(default_factory=_client)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def state(self, ip: str) -> SidecarState | None:
        """The sidecar's snapshot, None when it does not answer properly within two seconds."""
        return await self._ask(ip, names.PORT_ADMIN, "/fleet/v1/state", SidecarState)

    async def progress(self, ip: str) -> PullProgress | None:
        """The puller's progress, None when it does not answer properly within two seconds."""
        return await self._ask(ip, names.PORT_PROGRESS, "/progress", PullProgress)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._http.aclose()

    async def _ask(self, ip: str, port: int, path: str, answer: type[T]) -> T | None:
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with (
                self._slots,
                asyncio.timeout(_TIMEOUT_SECONDS),
                self._http.stream("GET", f"http://{host}:{port}{path}") as response,
            ):
                return answer.model_validate_json(await _read(response)) if response.status_code == 200 else None
        except (httpx.HTTPError, TimeoutError, ValidationError, ValueError):
            return None


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LIMIT_BYTES:
            raise ValueError(f"answer larger than {_LIMIT_BYTES} bytes")
    return bytes(body)
