"""A registry in the test's own event loop: every request is recorded, and faults are played in order."""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ollama_fleet.store.manifest import LAYER_MODEL, LAYER_PARAMS


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Request:
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


@dataclass
class Fault:
    """Played instead of (``status``) or within (the others) one answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    reset_after: int | None = None
    stall_after: int | None = None
    corrupt: bool = False
    shorten: int = 0


class RegistryStub:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.requests: list[Request] = []
        self.body_bytes = 0
        self.faults: list[Fault] = []
        self.fault_for: Callable[[Request], Fault | None] = lambda request: None
        self.ranges = True
        self.by_digest = True
        self.bearer: tuple[str, str | None] | None = None
        """Token that opens the registry, and the Basic header that the token endpoint wants."""
        self.basic: str | None = None
        self.redirect_blobs_to: str | None = None
        self.bytes_per_second: int | None = None
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_blob(self, content: bytes) -> str:
        self.blobs[digest(content)] = content
        return digest(content)

    def add_model(
        self,
        weights: bytes,
        *,
        repository: str = "library/tiny",
        tag: str = "latest",
        params: dict[str, object] | None = None,
    ) -> str:
        """Push a model; returns the digest of its manifest."""
        config = json.dumps({"model_format": "gguf", "weights": digest(weights)}).encode()
        parts = [(LAYER_MODEL, weights)]
        if params is not None:
            parts.append((LAYER_PARAMS, json.dumps(params).encode()))
        layers = [
            {"mediaType": kind, "digest": self.add_blob(content), "size": len(content), "from": "/home/pusher/x"}
            for kind, content in parts
        ]
        raw = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "digest": self.add_blob(config),
                    "size": len(config),
                },
                "layers": layers,
            }
        ).encode()
        self.add_manifest(raw, repository=repository, tag=tag)
        return digest(raw)

    def add_manifest(self, raw: bytes, *, repository: str, tag: str) -> None:
        self.manifests[repository, tag] = raw
        self.manifests[repository, digest(raw)] = raw

    def count(self) -> Counter[str]:
        """Requests by kind."""
        return Counter(
            "token" if request.path.startswith("/token") else request.path.rsplit("/", 2)[1]
            for request in self.requests
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RegistryStub"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        headers = {key.lower(): value for key, _, value in (item.partition(": ") for item in rest)}
        request = Request(line.split(" ")[1], headers)
        self.requests.append(request)
        fault = self.fault_for(request) or (
            self.faults.pop(0) if self.faults and "/blobs/" in request.path else Fault()
        )
        status, extra, body = self._answer(request)
        if fault.status:
            status, extra, body = fault.status, fault.headers, b""
        if fault.corrupt and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{key}: {value}" for key, value in extra.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await self._body(writer, body[: len(body) - fault.shorten], fault)

    async def _body(self, writer: asyncio.StreamWriter, body: bytes, fault: Fault) -> bool:
        cut = fault.reset_after if fault.reset_after is not None else fault.stall_after
        if cut is not None:
            body = body[:cut]
        step = 65536
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            self.body_bytes += len(body[start : start + step])
            await writer.drain()
            if self.bytes_per_second:
                await asyncio.sleep(step / self.bytes_per_second)
        await writer.drain()
        if fault.stall_after is not None:
            await asyncio.sleep(3600)
        if fault.reset_after is not None:
            writer.transport.abort()
        return fault.reset_after is None and not fault.shorten

    def _answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if request.path.startswith("/token"):
            return self._token(request)
        authorization = request.headers.get("authorization")
        if self.bearer and authorization != f"Bearer {self.bearer[0]}":
            challenge = f'Bearer realm="http://{self.host}/token",service="stub",scope="repository:x:pull"'
            return 401, {"WWW-Authenticate": challenge}, b""
        if self.basic and authorization != self.basic:
            return 401, {"WWW-Authenticate": 'Basic realm="stub"'}, b""
        _, _, repository, kind, name = re.split(r"^/(v2)/(.+)/(manifests|blobs)/", request.path)
        return self._manifest(repository, name) if kind == "manifests" else self._blob(request, name)

    def _manifest(self, repository: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if not self.by_digest and name.startswith("sha256:"):
            return 500, {}, b""
        raw = self.manifests.get((repository, name))
        return (404, {}, b"") if raw is None else (200, {"Docker-Content-Digest": digest(raw)}, raw)

    def _token(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        assert self.bearer is not None
        token, wanted = self.bearer
        if wanted and request.headers.get("authorization") != wanted:
            return 401, {}, b""
        return 200, {}, json.dumps({"token": token, "expires_in": 300}).encode()

    def _blob(self, request: Request, name: str) -> tuple[int, dict[str, str], bytes]:
        if self.redirect_blobs_to:
            return 307, {"Location": f"http://{self.redirect_blobs_to}{request.path}"}, b""
        content = self.blobs.get(name)
        if content is None:
            return 404, {}, b""
        if request.range is None or not self.ranges:
            return 200, {}, content
        start, end = request.range
        return 206, {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, content[start:end]
