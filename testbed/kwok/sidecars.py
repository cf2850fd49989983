"""One fake sidecar for all simulated pods: each address of loopback answers for the pod that has it, warm at once."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.informer import Informer

_BY_ADDRESS: Final = "address"


@contextlib.asynccontextmanager
async def warm_sidecars(client: KubeClient) -> AsyncIterator[tuple[Informer, Informer]]:
    """Serve on the admin port; yields the informers of pods and ConfigMaps, which the caller runs."""
    selector = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
    pods = Informer(client, kinds.POD, label_selector=selector, indices={_BY_ADDRESS: _address})
    config_maps = Informer(client, kinds.CONFIG_MAP, label_selector=selector)

    async def state(request: web.Request) -> web.Response:
        address = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        found = pods.by_index(_BY_ADDRESS, address)
        if not found:
            return web.Response(status=503)
        metadata = found[0]["metadata"]
        labels = metadata["labels"]
        name = f"{labels[names.LABEL_DEPLOYMENT]}-{labels[names.LABEL_GROUP]}"
        config_map = config_maps.get(metadata["namespace"], name)
        if config_map is None:
            return web.Response(status=503)
        config = GroupConfig.model_validate_json(config_map["data"]["group.json"])
        return web.json_response(_warm(config).to_wire())

    application = web.Application()
    application.router.add_get("/fleet/v1/state", state)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        # Every address of 127.0.0.0/8 is this machine: the one that was asked names the pod.
        await web.TCPSite(runner, "0.0.0.0", names.PORT_ADMIN).start()
        yield pods, config_maps
    finally:
        await runner.cleanup()


def _warm(config: GroupConfig) -> SidecarState:
    models = tuple(
        ModelState(
            name=model.name,
            phase=ModelPhase.WARM,
            digest=model.manifest_digest,
            slots=model.parallel,
            size=1_000_000,
            context_length=model.context_length or 0,
        )
        for model in config.models
    )
    return SidecarState(
        sequence=1,
        config_hash=config.hash(),
        ready=True,
        ollama_up=True,
        ollama_version=config.ollama_version,
        models=models,
    )


def _address(pod: dict[str, Any]) -> list[str]:
    address = pod.get("status", {}).get("podIP")
    return [address] if address else []
