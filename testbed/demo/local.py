"""The demo's cluster from the test bed: a real control plane and a real node on this machine, as root on Debian."""

import os
import sys
from typing import Final

from testbed import nodes
from testbed.build import KUBERNETES, ensure
from testbed.controlplane import ControlPlane
from testbed.demo.cluster import DemoCluster, DemoGpus
from testbed.fakes.gpus import NodeGpus, cards
from testbed.images import ensure_ollama, ensure_ollama_on_gpus, ensure_product
from testbed.models.push import image, into_registry
from testbed.ollama_process import ON_GPUS, VERSIONS
from testbed.paths import STATE
from testbed.registry import Registry
from testbed.say import step
from testbed.state import remove

DESCRIPTION: Final = "built from source on this machine"

_STATE: Final = STATE / "demo"
_MODEL: Final = "chat"


def missing() -> str:
    """Why no cluster can be built here, in words that follow a colon; empty where it can."""
    if sys.platform != "linux" or os.geteuid():
        return "building one on this machine takes root on Debian or Ubuntu"
    return ""


def up(ollama_version: str) -> DemoCluster:
    """Build what is missing and start what does not run. Raises RuntimeError for a version that is not built here."""
    if ollama_version not in VERSIONS:
        raise RuntimeError(f"Ollama {ollama_version} cannot be built here, only {' and '.join(VERSIONS)}")
    with step("programs (compiled on the first run)"):
        for name in (f"kubernetes-{KUBERNETES}", "helm", "registry", "fake-nvml", f"ollama-{ollama_version}"):
            ensure(name)
    with step("images"):
        images = [ensure_product(), ensure_ollama(ollama_version, ensure(f"ollama-{ollama_version}"))]
        on_gpus = ensure_ollama_on_gpus(ON_GPUS, ensure(f"ollama-{ON_GPUS}"))
    plane = ControlPlane(_STATE, nodes.address(_STATE))
    with step("control plane"):
        plane.up()
    with step("node"):
        (node,) = nodes.up(plane)
        nodes.load([node], [*images, on_gpus])
    gpus = NodeGpus(plane, node)
    with step("fake GPUs"):
        gpus.up(cards(node.name, 2))
    registry = Registry(plane.processes, _STATE, address=plane.address)
    with step("registry with a tiny model"):
        registry.up()
        into_registry(image(_MODEL), registry.url, f"library/{_MODEL}")
    return DemoCluster(
        kubeconfig=plane.kubeconfig,
        helm=ensure("helm") / "bin" / "helm",
        fleet_image=images[0].name,
        ollama_repository=images[1].name.rpartition(":")[0],
        ollama_version=ollama_version,
        registry=registry.host,
        model=_MODEL,
        gpus=DemoGpus(gpus, on_gpus.name),
    )


def down() -> None:
    """Remove everything, also after a crash. Raises RuntimeError."""
    if why := missing():
        if _STATE.exists():
            raise RuntimeError(f"{_STATE} cannot be removed: {why}")
        return
    remove(_STATE)
