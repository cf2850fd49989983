"""An API server for the agent's tests: keeps reports as they are applied, tells pods, counts requests."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

from aiohttp import web

REPORTS = "/apis/ollamafleet.io/v1alpha1/nodevramreports"


class AgentApi:
    """``async with AgentApi() as api: api.url``."""

    def __init__(self) -> None:
        self.reports: dict[str, dict[str, Any]] = {}
        self.writes: list[dict[str, Any]] = []
        """The status of every write, in order."""
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.pods: list[dict[str, Any]] = []
        self.slices: list[dict[str, Any]] = []
        self.refuse = 0
        """Status of every answer to a write, 0 to take it."""
        self.refuse_list = 0
        self.refuse_watch = 0
        """The same for lists and watches of pods."""
        self.list_seconds = 0.0
        """How long a list of pods takes."""
        self.slow: asyncio.Event | None = None
        """Writes wait for it."""
        self.under_way = 0
        self.most_under_way = 0
        self.connections: set[int] = set()
        self._watches: list[asyncio.Queue[dict[str, Any] | None]] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_patch(REPORTS + "/{name}", self._apply)
        app.router.add_patch(REPORTS + "/{name}/status", self._apply_status)
        app.router.add_get("/api/v1/pods", self._pods)
        app.router.add_get("/apis/resource.k8s.io/v1/resourceslices", self._slices)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_watches()
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def watched(self) -> bool:
        """Whether somebody has watched."""
        return bool(self._watches)

    def tell(self, kind: str, pod: dict[str, Any]) -> None:
        """Send an event to everybody who watches."""
        for watch in self._watches:
            watch.put_nowait({"type": kind, "object": pod})

    def end_watches(self) -> None:
        """As the server does after some minutes."""
        for watch in self._watches:
            watch.put_nowait(None)

    def _note(self, request: web.Request) -> None:
        self.requests.append((request.method, request.path))
        self.tokens.append(request.headers.get("Authorization", ""))
        if request.method == "PATCH":
            assert request.headers["Content-Type"] == "application/apply-patch+yaml"
            # Without force the server refuses while anybody else has written a field of the report.
            wish = {"fieldManager": "ollama-fleet-agent", "force": "true", "fieldValidation": "Strict"}
            assert dict(request.query) == wish
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])

    async def _apply(self, request: web.Request) -> web.Response:
        self._note(request)
        body = json.loads(await request.read())
        report = self.reports.setdefault(request.match_info["name"], {"metadata": {"generation": 1}})
        report["metadata"] |= body["metadata"]
        return web.json_response(report)

    async def _apply_status(self, request: web.Request) -> web.Response:
        self._note(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.slow is not None:
                await self.slow.wait()
            if self.refuse:
                return web.json_response({"message": "told to refuse"}, status=self.refuse)
            report = self.reports.get(request.match_info["name"])
            if report is None:
                return web.json_response({"message": "not found"}, status=404)
            report["status"] = json.loads(await request.read())["status"]
            self.writes.append(report["status"])
            return web.json_response(report)
        finally:
            self.under_way -= 1

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        if "watch" not in request.query:
            await asyncio.sleep(self.list_seconds)
            if self.refuse_list:
                return web.json_response({"message": "told to refuse"}, status=self.refuse_list)
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": self.pods})
        if self.refuse_watch:
            return web.json_response({"message": "told to refuse"}, status=self.refuse_watch)
        assert request.query["resourceVersion"] == "7"
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._watches.append(queue)
        answer = web.StreamResponse()
        await answer.prepare(request)
        while (event := await queue.get()) is not None:
            await answer.write(json.dumps(event).encode() + b"\n")
        return answer

    async def _slices(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({"items": self.slices})


def pod(name: str, *, uid: str, ip: str = "", phase: str = "Running") -> dict[str, Any]:
    """A pod as the API server sends it, as far as the agent reads it."""
    return {
        "metadata": {"namespace": "team", "name": name, "uid": uid},
        "status": {"phase": phase, "podIP": ip},
    }
