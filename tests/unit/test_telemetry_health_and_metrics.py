import asyncio
import contextlib
import io
import json
import logging
import socket
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_fleet.kube.kinds import MODEL_SET
from ollama_fleet.kube.queue import Key, WorkQueue
from ollama_fleet.telemetry import http
from ollama_fleet.telemetry.health import Health, Heartbeat, serve
from ollama_fleet.telemetry.http import Answer, HttpServer
from ollama_fleet.telemetry.logs import JsonFormatter, TextFormatter, setup
from ollama_fleet.telemetry.metrics import OperatorMetrics


async def ask(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def hello() -> Answer:
        return Answer(200, b"hello\n")

    async def broken() -> Answer:
        raise ValueError("bug")

    server = HttpServer({"/hello": hello, "/broken": broken}, timeout=0.2)
    port = await server.start(host="127.0.0.1", port=0)
    yield port
    await server.stop()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (get("/hello"), 200, b"hello\n"),
        (get("/hello?verbose"), 200, b"hello\n"),
        (get("/hello", "HEAD"), 200, b""),
        (get("/other"), 404, b"no such path\n"),
        (get("/hello", "POST"), 405, b"only GET and HEAD\n"),
        (get("/broken"), 500, b"internal error\n"),
        (b"nonsense\r\n\r\n", 405, b"only GET and HEAD\n"),
    ],
)
async def test_the_small_server_answers(port: int, request_: bytes, status: int, body: bytes) -> None:
    head, _, rest = (await ask(port, request_)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert rest == body


@pytest.mark.parametrize("raw", [b"GET /hello HTTP/1.1\r\n", b"x" * (http.MAX_HEAD + 1)])
async def test_who_is_slow_or_too_long_is_cut_off(port: int, raw: bytes) -> None:
    assert await ask(port, raw) == b""


async def test_connections_are_bounded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    _, first = await asyncio.open_connection("127.0.0.1", port)
    first.write(b"GET /hel")
    await asyncio.sleep(0.05)
    assert await ask(port, get("/hello")) == b""
    first.close()
    await first.wait_closed()
    await asyncio.sleep(0.05)
    assert b"hello" in await ask(port, get("/hello"))


@pytest.mark.parametrize("size", [60_000, 1_000_000], ids=["fits in asyncio's buffer", "does not"])
async def test_who_does_not_read_is_cut_off(size: int) -> None:
    async def large() -> Answer:
        return Answer(200, b"x" * size)

    server = HttpServer({"/large": large}, timeout=0.2)
    port = await server.start(host="127.0.0.1", port=0)
    assert server._server is not None
    server._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", port))
        client.sendall(get("/large"))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await server.stop()


async def test_probes_name_what_is_wrong() -> None:
    problem: str | None = None
    health = Health(live={"workers": lambda: problem}, ready={"caches": lambda: "Pod is not listed yet"})
    server, port = await serve(health, OperatorMetrics().answer, host="127.0.0.1", port=0)
    assert b" 200 OK" in await ask(port, get("/livez"))
    health.role = "standby"
    unready = await ask(port, get("/readyz"))
    assert b" 503 " in unready
    assert unready.endswith(b"role: standby\ncaches: Pod is not listed yet\nnot ok\n")
    problem = "stuck"
    assert (await ask(port, get("/livez"))).endswith(b"workers: stuck\nnot ok\n")
    assert b"ollama_fleet_build_info" in await ask(port, get("/metrics"))
    await server.stop()


def test_a_heart_that_stops_is_noticed_and_forgiven_when_it_beats_again() -> None:
    now = 0.0
    heart = Heartbeat("kopf's loop", limit=30, clock=lambda: now)
    now = 30.0
    assert heart.check() is None
    now = 31.0
    assert heart.check() == "kopf's loop has not moved for 31 s"
    heart.beat()
    assert heart.check() is None
    heart.rest()
    now = 1000.0
    assert heart.check() is None
    heart.beat()
    now = 1031.0
    assert heart.check() == "kopf's loop has not moved for 31 s"


class Cache:
    last_activity = 40.0
    relists = 2

    def __len__(self) -> int:
        return 7


async def test_metrics_are_figures_of_now() -> None:
    metrics = OperatorMetrics()
    queue = WorkQueue(clock=lambda: 5.0)
    metrics.watch_queue(queue)
    metrics.watch_caches({"Pod": Cache()}, clock=lambda: 100.0)
    metrics.watch_dropped_events(lambda: 3)
    queue.add(Key(MODEL_SET, "ns", "x"))
    queue.add_after(Key(MODEL_SET, "ns", "y"), 10)
    metrics.observe_request("apply", "pods", "200", 0.1)
    metrics.observe_request("watch", "pods", "200", 300)
    metrics.observe_reconcile("ModelSet", "ok", 0.2)
    metrics.set_leader(leading=True)
    text = (await metrics.answer()).body.decode()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ("ollama_fleet_queue_depth",): 1,
        ("ollama_fleet_queue_delayed",): 1,
        ("ollama_fleet_cache_objects", "Pod"): 7,
        ("ollama_fleet_watch_silence_seconds", "Pod"): 60,
        ("ollama_fleet_cache_lists", "Pod"): 2,
        ("ollama_fleet_events_dropped",): 3,
        ("ollama_fleet_api_requests_total", "200", "apply", "pods"): 1,
        ("ollama_fleet_api_request_seconds_count", "apply"): 1,
        ("ollama_fleet_reconciles_total", "ModelSet", "ok"): 1,
        ("ollama_fleet_leader",): 1,
    }
    assert {name: samples[name] for name in expected} == expected
    assert ("ollama_fleet_api_request_seconds_count", "watch") not in samples


def record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("fleet", logging.INFO, "", 0, "scaled %d", (3,), None)
    record.created = 0.0
    vars(record).update(fields)
    return record


def test_a_json_line_carries_the_fields() -> None:
    assert json.loads(JsonFormatter().format(record(key="ns/x", when={1}))) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "fleet",
        "message": "scaled 3",
        "key": "ns/x",
        "when": "{1}",
    }


def test_a_text_line_carries_the_fields() -> None:
    line = TextFormatter().format(record(key="ns/x"))
    assert line == '1970-01-01T00:00:00.000+00:00 INFO fleet: scaled 3 key="ns/x"'


def test_a_json_line_stays_one_line_with_a_traceback() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        setup(log_format="json", stream=stream)
        logging.getLogger("fleet").error("failed\nbadly", exc_info=ValueError("bug"))
        logging.getLogger("kopf.x").error("each failed try")
    finally:
        root.handlers[:], root.level = kept, level
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["message"] == "failed\nbadly"
    assert entry["error_trace"].endswith("ValueError: bug")
