"""Fake GPUs on a real node: brought there, changed, and taken away."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from testbed.controlplane import ControlPlane
from testbed.fakes.gpus import hardware, runtime
from testbed.fakes.gpus.hardware import Hardware
from testbed.fakes.nvml import library
from testbed.nodes import api
from testbed.nodes.node import Node, nodes_state
from testbed.paths import ROOT
from testbed.processes import Processes

RUNTIME_CLASS: Final = "nvidia"
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Places:
    """Files of a node's GPUs."""

    directory: Path

    @property
    def hardware(self) -> Path:
        """What a test wants."""
        return self.directory / "hardware.json"

    @property
    def driver(self) -> Path:
        """What the driver shows; containers see its directory."""
        return self.directory / "state" / "driver"


class NodeGpus:
    """The GPUs of one node. The control plane and the node must be up."""

    def __init__(self, cluster: ControlPlane, node: Node) -> None:
        """Nothing happens yet; GPUs that the node has are taken over."""
        self._cluster = cluster
        self._node = node
        self._places = Places(node.gpus)
        self._processes = Processes(nodes_state(cluster.state))

    @property
    def hardware(self) -> Hardware:
        """As last shown."""
        return hardware.read(self._places.hardware)

    def up(self, wanted: Hardware) -> None:
        """Bring the GPUs, and wait until the node offers them. Raises NotReady."""
        self._places.driver.parent.mkdir(parents=True, exist_ok=True)
        self._write_runtime()
        hardware.write(self._places.hardware, wanted)
        handler = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": RUNTIME_CLASS}}
        api.create(self._cluster, "/apis/node.k8s.io/v1/runtimeclasses", {**handler, "handler": "nvidia"})
        command: list[str | Path] = [sys.executable, "-m", "testbed.fakes.gpus", self._node.gpus]
        self._processes.start(self._name, [*command, self._node.kubelet_root], cwd=ROOT)
        self.show(wanted)

    def show(self, wanted: Hardware) -> None:
        """Other hardware from now on, for which the driver is loaded anew; waits until the node offers it."""
        self._label(hardware.labels(wanted))
        reloads = self.hardware.driver.reloads + 1
        hardware.write(self._places.hardware, replace(wanted, driver=replace(wanted.driver, reloads=reloads)))
        offered = {
            resource: sum(one.healthy for one in devices) for resource, devices in hardware.offers(wanted).items()
        }
        log = self._processes.log(self._name)
        api.wait(
            f"{self._node.name} does not offer {offered}", lambda: self._offers(offered), seconds=_SECONDS, log=log
        )

    def change(self, index: int, **changes: Any) -> None:
        """Fields of one GPU (of ``testbed.fakes.nvml.Gpu``) at once, without waiting for anybody."""
        wanted = self.hardware
        gpus = list(wanted.driver.gpus)
        gpus[index] = replace(gpus[index], **changes)
        self.set_driver(gpus=tuple(gpus))

    def set_driver(self, **changes: Any) -> None:
        """Fields of the driver (of ``testbed.fakes.nvml.Driver``) at once, without waiting for anybody."""
        wanted = self.hardware
        hardware.write(self._places.hardware, replace(wanted, driver=replace(wanted.driver, **changes)))

    def reload_driver(self, **changes: Any) -> None:
        """The same, and programs have to start the library again."""
        self.set_driver(reloads=self.hardware.driver.reloads + 1, **changes)

    def down(self) -> None:
        """Take them away: no device is offered, and containers that have the library see no driver."""
        self._processes.stop(self._name)
        self._places.driver.unlink(missing_ok=True)
        self._label(dict.fromkeys(hardware.labels(self.hardware)))

    @property
    def _name(self) -> str:
        return f"gpus-{self._node.number}"

    def _write_runtime(self) -> None:
        """A program of its own, because containerd starts it without arguments of ours."""
        python = Path(sys.executable).resolve()
        command = f"{python} -IS {Path(runtime.__file__)} {library()} {self._places.driver.parent}"
        self._node.gpu_runtime.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self._node.gpu_runtime.chmod(0o755)

    def _label(self, labels: Mapping[str, str | None]) -> None:
        path = f"/api/v1/nodes/{self._node.name}"
        api.call(self._cluster, "PATCH", path, {"metadata": {"labels": dict(labels)}})

    def _offers(self, wanted: dict[str, int]) -> bool:
        found = api.call(self._cluster, "GET", f"/api/v1/nodes/{self._node.name}")["status"].get("allocatable", {})
        return all(found.get(resource, "0") == str(count) for resource, count in wanted.items())
