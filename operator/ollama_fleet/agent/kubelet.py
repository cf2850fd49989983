"""One gRPC call to the kubelet over its socket.

gRPC's own library takes 30 MiB of memory, HTTP/2 alone 3: a unary call is one message each way.
"""

import asyncio
import contextlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from ollama_fleet.agent.podresources import LIST, PodDevices, parse_list
from ollama_fleet.agent.protobuf import Malformed

SOCKET: Final = Path("/var/lib/kubelet/pod-resources/kubelet.sock")

_LIMIT_BYTES: Final = 8 * 2**20
_TIMEOUT_SECONDS: Final = 5.0
_READ_BYTES: Final = 64 * 1024
_PREFIX: Final = struct.Struct(">BI")
"""Whether the message is compressed, and its size."""


class KubeletFailed(Exception):
    """The kubelet does not answer, or not as it should; the message says what happened."""


async def pod_devices(socket: Path = SOCKET) -> tuple[PodDevices, ...]:
    """The devices of all pods of the node. Raises KubeletFailed."""
    try:
        return parse_list(await call(socket, LIST, b""))
    except Malformed as error:
        raise KubeletFailed(f"the kubelet's answer is no list of pods: {error}") from error


async def call(socket: Path, method: str, message: bytes) -> bytes:
    """One unary call; the answer's message. Raises KubeletFailed."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                return await _Call(reader, writer).run(method, message)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ProtocolError) as error:
        raise KubeletFailed(f"{socket}: {str(error) or type(error).__name__}") from error


class _Call:
    """A connection that is used once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._body = bytearray()
        self._headers: dict[str, str] = {}

    async def run(self, method: str, message: bytes) -> bytes:
        self._http.initiate_connection()
        stream = self._http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost")]
        self._http.send_headers(stream, [*headers, ("te", "trailers"), ("content-type", "application/grpc")])
        self._http.send_data(stream, _PREFIX.pack(0, len(message)) + message, end_stream=True)
        ended = False
        while not ended:
            self._writer.write(self._http.data_to_send())
            await self._writer.drain()
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise KubeletFailed("the kubelet closed the connection")
            ended = self._take(self._http.receive_data(data))
        return self._answer()

    def _take(self, events: Iterable[Event]) -> bool:
        """Whether the answer is complete."""
        for event in events:
            if isinstance(event, ResponseReceived | TrailersReceived):
                self._headers |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, DataReceived):
                self._body += event.data
                if len(self._body) > _LIMIT_BYTES:
                    raise KubeletFailed(f"the kubelet's answer has more than {_LIMIT_BYTES} bytes")
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise KubeletFailed(f"the kubelet broke off with HTTP/2 error {event.error_code}")
            elif isinstance(event, StreamEnded):
                return True
        return False

    def _answer(self) -> bytes:
        status = self._headers.get("grpc-status", "none")
        if self._headers.get(":status") != "200" or status != "0":
            why = self._headers.get("grpc-message", "")[:200]
            raise KubeletFailed(f"the kubelet answers {self._headers.get(':status')}, gRPC status {status}: {why}")
        if len(self._body) < _PREFIX.size:
            raise KubeletFailed("the kubelet's answer has no message")
        compressed, size = _PREFIX.unpack_from(self._body)
        message = bytes(self._body[_PREFIX.size :])
        if compressed or size != len(message):
            raise KubeletFailed("the kubelet's answer is compressed or not one message")
        return message
