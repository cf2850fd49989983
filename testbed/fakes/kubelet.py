"""The kubelet's PodResources socket without a kubelet, over the real gRPC library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

_SERVICE = "v1.PodResourcesLister"


class FakeKubelet:
    """``async with FakeKubelet(socket, {"team/chat-0": ["GPU-a"]}) as kubelet: ...``."""

    def __init__(self, socket: Path, given: Mapping[str, Sequence[str]]) -> None:
        """``given`` are device ids by pod (``namespace/name``); it may change while this serves."""
        self.socket = socket
        self.given = dict(given)
        self.asked = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        """Serve."""
        self._server = grpc.aio.server()
        handlers = {"List": grpc.unary_unary_rpc_method_handler(self._list)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        assert self._server is not None
        await self._server.stop(None)

    async def _list(self, _: bytes, __: Any) -> bytes:
        self.asked += 1
        return b"".join(_field(1, _pod(pod, ids)) for pod, ids in self.given.items())


def _pod(pod: str, ids: Sequence[str]) -> bytes:
    """A ``PodResources`` with one container."""
    namespace, _, name = pod.partition("/")
    devices = _field(1, b"nvidia.com/gpu") + b"".join(_field(2, one.encode()) for one in ids)
    container = _field(1, b"ollama") + _field(2, devices)
    return _field(1, name.encode()) + _field(2, namespace.encode()) + _field(3, container)


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])
