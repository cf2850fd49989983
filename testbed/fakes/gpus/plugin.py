"""A device plugin as the kubelet knows them: one socket per resource, found by the kubelet in ``plugins_registry/``."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from testbed.fakes.gpus.hardware import Offer

_plugin, _plugin_service = grpc.protos_and_services("testbed/fakes/gpus/deviceplugin.proto")
_registration, _registration_service = grpc.protos_and_services("testbed/fakes/gpus/pluginregistration.proto")

_STOP_SECONDS: Final = 0.2


@dataclass(slots=True)
class Plugin:
    """Offers the devices of one resource."""

    resource: str
    socket: Path
    _offers: tuple[Offer, ...] = ()
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serve; the kubelet registers what it finds."""
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server()
        _plugin_service.add_DevicePluginServicer_to_server(_Devices(self), self._server)
        _registration_service.add_RegistrationServicer_to_server(_Registration(self.resource), self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        """The kubelet forgets it when its socket is gone."""
        assert self._server is not None
        await self._server.stop(_STOP_SECONDS)
        self.socket.unlink(missing_ok=True)

    def offer(self, offers: tuple[Offer, ...]) -> None:
        """Tell the kubelet, if it is news."""
        if offers != self._offers:
            self._offers = offers
            self._changed.set()
            self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[tuple[Offer, ...]]:
        """What is offered now, and every change."""
        while True:
            changed = self._changed
            yield self._offers
            await changed.wait()


class _Devices:
    """The service ``DevicePlugin``."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    async def GetDevicePluginOptions(self, _: Any, __: Any) -> Any:  # noqa: N802 - the name of the call
        return _plugin.DevicePluginOptions()

    async def ListAndWatch(self, _: Any, __: Any) -> AsyncIterator[Any]:  # noqa: N802 - the name of the call
        async for offers in self._plugin.watch():
            found = [_plugin.Device(ID=one.id, health="Healthy" if one.healthy else "Unhealthy") for one in offers]
            yield _plugin.ListAndWatchResponse(devices=found)

    async def Allocate(self, request: Any, _: Any) -> Any:  # noqa: N802 - the name of the call
        answers = []
        for container in request.container_requests:
            # A container of several shares of a GPU has one GPU.
            uuids = dict.fromkeys(one.partition("::")[0] for one in container.devices_ids)
            environment = {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids)}
            answers.append(_plugin.ContainerAllocateResponse(envs=environment))
        return _plugin.AllocateResponse(container_responses=answers)


class _Registration:
    """The service ``Registration``: the kubelet asks who this is."""

    def __init__(self, resource: str) -> None:
        self._resource = resource

    async def GetInfo(self, _: Any, __: Any) -> Any:  # noqa: N802 - the name of the call
        return _registration.PluginInfo(type="DevicePlugin", name=self._resource, supported_versions=["v1beta1"])

    async def NotifyRegistrationStatus(self, status: Any, _: Any) -> Any:  # noqa: N802 - the name of the call
        print(f"{self._resource}: {'registered' if status.plugin_registered else status.error}", flush=True)
        return _registration.RegistrationStatusResponse()
