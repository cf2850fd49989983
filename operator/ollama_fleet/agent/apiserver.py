"""The API server as the agent needs it: lists, watches and server-side apply, with the pod's own token."""

import base64
import json
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit

from ollama_fleet.agent.http import HttpClient, HttpFailed, Origin, Response

Json = dict[str, Any]

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FIELD_MANAGER: Final = "ollama-fleet-agent"

_TIMEOUT_SECONDS: Final = 10.0
_STALL_SECONDS: Final = 75.0
"""Bookmarks come about once a minute: longer silence is a dead connection."""
_WATCH_SECONDS: Final = 300
_LIMIT_BYTES: Final = 16 * 2**20
_LINE_BYTES: Final = 4 * 2**20
_TOKEN_BYTES: Final = 64 * 1024


class ApiFailed(Exception):
    """The API server refused or did not answer.

    ``status`` is 0 without an answer; the message is the server's own.
    """

    def __init__(self, status: int, message: str) -> None:
        """Messages of the server are cut: they end in logs."""
        super().__init__(message[:500])
        self.status = status


@dataclass(frozen=True, slots=True)
class Account:
    """Who the agent is. The token is read for each request: the kubelet replaces it long before it expires."""

    token_file: Path = ACCOUNT / "token"

    def headers(self) -> dict[str, str]:
        """Raises ApiFailed without a token."""
        return {"Authorization": f"Bearer {self._token()}"}

    def node(self) -> tuple[str, str]:
        """Name and UID of the node that the token is bound to; empty where it names none."""
        try:
            payload = self._token().split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            node = claims["kubernetes.io"]["node"]
            return str(node["name"]), str(node["uid"])
        except (ApiFailed, IndexError, KeyError, TypeError, ValueError):
            return "", ""

    def _token(self) -> str:
        try:
            with self.token_file.open() as file:
                return file.read(_TOKEN_BYTES).strip()
        except (OSError, ValueError) as error:
            raise ApiFailed(0, f"the token cannot be read: {error}") from error


def address() -> str:
    """The API server's URL as the kubelet tells it to every container. Raises ApiFailed."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ApiFailed(0, "not in a cluster: KUBERNETES_SERVICE_HOST is not set")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class ApiServer:
    """Every method raises ApiFailed."""

    def __init__(self, origin: Origin, account: Account) -> None:
        """Nothing is connected yet."""
        self.account = account
        self._http = HttpClient(origin)

    @classmethod
    def at(cls, url: str, *, account: Account, ca_file: Path) -> Self:
        """``ca_file`` counts for ``https``. Raises ApiFailed when it cannot be used."""
        parts = urlsplit(url)
        tls = None
        if parts.scheme == "https":
            try:
                tls = ssl.create_default_context(cafile=str(ca_file))
            except (OSError, ssl.SSLError) as error:
                raise ApiFailed(0, f"{ca_file}: {error}") from error
        return cls(Origin(parts.hostname or "", parts.port or (443 if tls else 80), tls), account)

    async def apply(self, path: str, obj: Mapping[str, Any]) -> Json:
        """Server-side apply as the agent's field manager; the object as it is then."""
        query = urlencode({"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"})
        headers = {"Content-Type": "application/apply-patch+yaml"}
        return await self._json("PATCH", f"{path}?{query}", headers, json.dumps(obj, separators=(",", ":")).encode())

    async def list(self, path: str, **query: str) -> Json:
        """Whatever the server has at hand: it may be a moment old."""
        return await self._json("GET", f"{path}?{urlencode({**query, 'resourceVersion': '0'})}", {}, b"")

    async def watch(self, path: str, *, version: str, **query: str) -> AsyncGenerator[Json, None]:
        """Events from ``version`` on until the server ends the watch, which it does after some minutes."""
        wish = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        target = f"{path}?{urlencode({**query, **wish, 'timeoutSeconds': str(_WATCH_SECONDS)})}"
        headers = {**self.account.headers(), "Accept": "application/json"}
        lines = self._http.lines(target, headers=headers, stall=_STALL_SECONDS, limit=_LINE_BYTES)
        try:
            async with aclosing(lines):
                async for part in lines:
                    if isinstance(part, Response):
                        _raise_for(part)
                    elif part:
                        yield _event(part)
        except HttpFailed as error:
            raise ApiFailed(0, str(error)) from error

    def close(self) -> None:
        """Close the kept connection."""
        self._http.close()

    async def _json(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Json:
        every = {**self.account.headers(), "Accept": "application/json", **headers}
        try:
            answer = await self._http.request(
                method, target, headers=every, body=body, timeout=_TIMEOUT_SECONDS, limit=_LIMIT_BYTES
            )
        except HttpFailed as error:
            raise ApiFailed(0, str(error)) from error
        _raise_for(answer)
        return _object(answer.body)


def _raise_for(answer: Response) -> None:
    if answer.status >= 300:
        try:
            message = str(_object(answer.body).get("message", ""))
        except ApiFailed:
            message = ""
        raise ApiFailed(answer.status, message or f"HTTP {answer.status}")


def _event(line: bytes) -> Json:
    event = _object(line)
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        raise ApiFailed(int(status.get("code") or 0), str(status.get("message", "the watch broke off")))
    return event


def _object(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ApiFailed(0, "the API server's answer is not JSON") from error
    if not isinstance(found, dict):
        raise ApiFailed(0, "the API server's answer is no object")
    return found
