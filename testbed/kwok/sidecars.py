"""One fake sidecar for all simulated pods: each address of loopback answers for the pod that has it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.informer import Informer

Json = dict[str, Any]
Change = Callable[[SidecarState], SidecarState]
"""Makes another state of a warm one, for a fault."""

BY_NODE: Final = "node"
"""Index of the pods by their node."""
_BY_ADDRESS: Final = "address"
_SIZE: Final = 1_000_000


@dataclass(slots=True)
class SimulatedSidecars:
    """Every pod is warm at once, with all its models, unless a switch says otherwise."""

    pods: Informer
    config_maps: Informer
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes that a model takes in memory, by its served name."""
    changes: dict[str, Change] = field(default_factory=dict)
    """By the name of a pod, or of its OllamaDeployment."""

    def informers(self) -> Iterator[Informer]:
        """What the caller has to run."""
        yield from (self.pods, self.config_maps)

    def state_of(self, pod: Json) -> SidecarState | None:
        """What the sidecar of a pod says; None before it runs and its group is configured."""
        metadata = pod["metadata"]
        if pod.get("status", {}).get("phase") != "Running":
            return None
        deployment = metadata["labels"].get(names.LABEL_DEPLOYMENT, "")
        name = f"{deployment}-{metadata['labels'].get(names.LABEL_GROUP, '')}"
        config_map = self.config_maps.get(metadata["namespace"], name)
        if config_map is None:
            return None
        state = self._warm(GroupConfig.model_validate_json(config_map["data"]["group.json"]), on_gpu=_on_gpu(pod))
        for change in (self.changes.get(deployment), self.changes.get(metadata["name"])):
            state = change(state) if change else state
        return state

    async def answer(self, request: web.Request) -> web.Response:
        """``/fleet/v1/state`` of the pod whose address was asked."""
        address = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        found = self.pods.by_index(_BY_ADDRESS, address)
        state = self.state_of(found[0]) if found else None
        return web.Response(status=503) if state is None else web.json_response(state.to_wire())

    def _warm(self, config: GroupConfig, *, on_gpu: bool) -> SidecarState:
        return SidecarState(
            sequence=1,
            config_hash=config.hash(),
            ready=True,
            ollama_up=True,
            ollama_version=config.ollama_version,
            models=tuple(self._model(model, on_gpu=on_gpu) for model in config.models),
        )

    def _model(self, model: GroupModel, *, on_gpu: bool) -> ModelState:
        size = self.sizes.get(model.name, _SIZE)
        return ModelState(
            name=model.name,
            phase=ModelPhase.WARM,
            digest=model.manifest_digest,
            weights=model.manifest_digest,
            slots=model.parallel,
            size=size,
            size_vram=size if on_gpu else 0,
            context_length=model.context_length or 0,
        )


@contextlib.asynccontextmanager
async def simulated_sidecars(client: KubeClient) -> AsyncIterator[SimulatedSidecars]:
    """Serve on the admin port of every address of loopback; the caller runs the informers."""
    selector = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
    pods = Informer(client, kinds.POD, label_selector=selector, indices={_BY_ADDRESS: _address, BY_NODE: _node})
    sidecars = SimulatedSidecars(pods, Informer(client, kinds.CONFIG_MAP, label_selector=selector))
    application = web.Application()
    application.router.add_get("/fleet/v1/state", sidecars.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        # Every address of 127.0.0.0/8 is this machine: the one that was asked names the pod.
        await web.TCPSite(runner, "0.0.0.0", names.PORT_ADMIN).start()
        yield sidecars
    finally:
        await runner.cleanup()


def _on_gpu(pod: Json) -> bool:
    return any("/" in name for one in pod["spec"]["containers"] for name in one.get("resources", {}).get("limits", {}))


def _address(pod: Json) -> list[str]:
    address = pod.get("status", {}).get("podIP")
    return [address] if address else []


def _node(pod: Json) -> list[str]:
    node = pod["spec"].get("nodeName")
    return [node] if node else []
