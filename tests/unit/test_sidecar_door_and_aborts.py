"""The data port over real sockets, in front of a scripted Ollama."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.relay.server import RelayServer
from ollama_fleet.relay.upstream import Upstream
from ollama_fleet.sidecar import door
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.door import Door
from ollama_fleet.sidecar.metrics import SidecarMetrics

MODEL = GroupModel(name="chat", registry="r", repository="library/x", manifest_digest="sha256:" + "0" * 64)


@dataclass
class Scripted:
    """Takes a request, and does what ``script`` says with the connection."""

    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    half_closed: asyncio.Event = field(default_factory=asyncio.Event)
    let_end: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    hang: bool = False
    cut: bool = False
    open_end: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line), 0)
        self.bodies.append(await reader.readexactly(length))
        self.reached.set()
        if self.hang:
            assert await reader.read() == b""
            self.half_closed.set()
            await self.let_end.wait()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n3\r\nabc\r\n")
            if self.open_end:
                assert await reader.read() == b""
            elif not self.cut:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()


@dataclass
class Bench:
    board: Board
    ollama: Scripted
    door: Door
    metrics: SidecarMetrics
    port: int

    async def send(self, path: str, body: object, *, extra: str = "", chunked: bool = False) -> bytes:
        reader, writer = await self.connect(path, body, extra=extra, chunked=chunked)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer

    async def connect(
        self, path: str, body: object, *, extra: str = "", chunked: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        raw = json.dumps(body).encode()
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(raw)}"
        head = f"POST {path} HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nConnection: close\r\n"
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(raw), raw) if chunked else raw
        writer.write(f"{head}{extra}{framing}\r\n\r\n".encode() + sent)
        return reader, writer


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(door, "BODIES_BYTES", 1_200_000)
    ollama, board = Scripted(), Board()
    listener = await asyncio.start_server(ollama.serve, "127.0.0.1", 0, limit=2**21)
    board.configure(GroupConfig(namespace="n", deployment="d", group="g", ollama_version="0.32.3", models=(MODEL,)))
    upstream = Upstream("127.0.0.1", listener.sockets[0].getsockname()[1])
    metrics = SidecarMetrics(board)
    under_test = Door(board, upstream, metrics)
    server = RelayServer(under_test)
    yield Bench(board, ollama, under_test, metrics, await server.start("127.0.0.1", 0))
    ollama.let_end.set()
    await server.stop(grace=1)
    listener.close()


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await condition.wait()


async def test_answers_stream_through_with_a_head_of_the_doors_own(bench: Bench) -> None:
    answer = await bench.send("/api/chat", {"model": "chat", "messages": []})
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"x-a: 1" in answer
    assert answer.endswith(b"3\r\nabc\r\n0\r\n\r\n")
    assert b"evil.example" not in bench.ollama.heads[0]
    assert bench.board.slots["chat"].in_flight == 0


async def test_an_answer_that_breaks_off_does_not_look_whole(bench: Bench) -> None:
    bench.ollama.cut = True
    try:
        answer = await bench.send("/api/chat", {"model": "chat"})
    except ConnectionResetError:
        answer = b""
    assert answer == b"" or answer.endswith(b"3\r\nabc\r\n")
    assert bench.ollama.heads


@pytest.mark.parametrize("prompt", ["x", "x" * 2**20], ids=["small", "above the high water"])
async def test_a_client_that_leaves_before_the_first_token_frees_its_slot_only_when_ollama_is_done(
    bench: Bench, prompt: str
) -> None:
    bench.ollama.hang = True
    _, writer = await bench.connect("/api/generate", {"model": "chat", "prompt": prompt})
    await until(bench.ollama.reached)
    assert bench.board.slots["chat"].in_flight == 1
    writer.close()
    await until(bench.ollama.half_closed)
    assert bench.board.slots["chat"].in_flight == 1
    bench.ollama.let_end.set()
    async with asyncio.timeout(5):
        while bench.board.slots["chat"].in_flight:
            await bench.board.change()


async def test_a_slot_is_not_given_away_while_ollama_works_however_long_its_client_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "SETTLE_SECONDS", 0.01)
    bench.ollama.hang = True
    _, writer = await bench.connect("/api/generate", {"model": "chat", "prompt": "x"})
    await until(bench.ollama.reached)
    writer.close()
    async with asyncio.timeout(5):
        while "Ollama goes on after its client left" not in caplog.messages:
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert bench.board.slots["chat"].in_flight == 1
    bench.ollama.let_end.set()
    async with asyncio.timeout(5):
        while bench.board.slots["chat"].in_flight:
            await bench.board.change()


async def test_a_client_that_leaves_the_wait_list_never_reaches_ollama(bench: Bench) -> None:
    slots = bench.board.slots["chat"]
    await slots.acquire()
    _, writer = await bench.connect("/api/chat", {"model": "chat"})
    async with asyncio.timeout(5):
        while not slots.waiting:
            await asyncio.sleep(0)
        writer.close()
        while slots.waiting:
            await asyncio.sleep(0)
    slots.release()
    assert bench.ollama.heads == []
    assert slots.in_flight == 0


async def test_a_client_that_leaves_a_stream_counts_as_one_that_left(bench: Bench) -> None:
    bench.ollama.open_end = True
    reader, writer = await bench.connect("/api/generate", {"model": "chat", "prompt": "x"})
    assert await reader.readuntil(b"abc")
    writer.close()
    async with asyncio.timeout(5):
        while bench.door.open:
            await asyncio.sleep(0)
    counted = (await bench.metrics.answer()).body
    assert b'requests_total{code="0",route="/api/generate"} 1.0' in counted
    assert b'code="200"' not in counted


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_that_wait_are_bounded_together(bench: Bench, *, chunked: bool) -> None:
    slots, large = bench.board.slots["chat"], {"model": "chat", "prompt": "x" * 700_000}
    await slots.acquire()
    first, writer = await bench.connect("/api/generate", large)
    async with asyncio.timeout(5):
        while slots.waiting != 1:
            await asyncio.sleep(0)
    refused = await bench.send("/api/generate", large, chunked=chunked)
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"x-ollama-fleet-busy: 1" in refused
    small, other = await bench.connect("/api/generate", {"model": "chat", "prompt": "x"})
    async with asyncio.timeout(5):
        while slots.waiting != 2:
            await asyncio.sleep(0)
        slots.release()
        for reader in (first, small):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
    assert bench.door._budget.free == door.BODIES_BYTES
    writer.close()
    other.close()


async def test_a_body_takes_nothing_any_more_when_ollama_has_it(bench: Bench) -> None:
    bench.ollama.hang = True
    _, writer = await bench.connect("/api/generate", {"model": "chat", "prompt": "x" * 700_000})
    await until(bench.ollama.reached)
    async with asyncio.timeout(5):
        while bench.door._budget.free < door.BODIES_BYTES:
            await asyncio.sleep(0)
    assert bench.board.slots["chat"].in_flight == 1
    writer.close()


@pytest.mark.parametrize(
    ("path", "extra", "status", "text"),
    [
        ("/api/pull", "", b"404", b'{"error": "POST /api/pull is not served here'),
        ("/v1/files", "", b"404", b'{"error": {"message": "POST /v1/files is not served here'),
        ("/v1/responses", "Content-Encoding: zstd\r\n", b"415", b'"invalid_request_error"'),
    ],
)
async def test_refusals_have_the_shape_of_the_dialect(
    bench: Bench, path: str, extra: str, status: bytes, text: bytes
) -> None:
    answer = await bench.send(path, {"model": "chat"}, extra=extra)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert text in answer
    assert bench.ollama.heads == []


async def test_a_draining_pod_turns_new_requests_away(bench: Bench) -> None:
    bench.board.closed = True
    answer = await bench.send("/api/chat", {"model": "chat"})
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"x-ollama-fleet-busy: 1" in answer
    assert b"draining" in answer
