"""The kwok process of a control plane, and the nodes it plays."""

import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from testbed.build import ensure
from testbed.controlplane import ControlPlane, NotReady
from testbed.nodes import api

LABEL: Final = "testbed.ollamafleet.io/simulated"
"""Marks the nodes that kwok plays: real nodes of the same cluster stay untouched."""

_NAME: Final = "kwok"
_STAGES: Final = Path(__file__).with_name("stages.yaml")
_LEASE_SECONDS: Final = 40
_READY_SECONDS: Final = 30
_ROOM: Final = {"cpu": "64", "memory": "512Gi", "pods": "250"}


class SimulatedNodes:
    """The simulated nodes of one control plane; ``up``, ``add`` and ``down`` may be repeated."""

    def __init__(self, plane: ControlPlane) -> None:
        """Nothing runs yet."""
        self.plane = plane

    def up(self) -> None:
        """Start kwok. The control plane must be up."""
        command: list[str | Path] = [
            ensure("kwok") / "bin" / "kwok",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--config={_STAGES}",
            f"--manage-nodes-with-label-selector={LABEL}=true",
            # Without leases the node controller takes the nodes for dead.
            f"--node-lease-duration-seconds={_LEASE_SECONDS}",
        ]
        self.plane.processes.start(_NAME, command)

    def down(self) -> None:
        """Stop kwok; its nodes go silent and count as lost after a while, as real ones do."""
        self.plane.processes.stop(_NAME, grace=1)

    def add(
        self,
        name: str,
        *,
        number: int,
        loopback: bool = True,
        resources: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Create a node and wait until it is Ready. Raises NotReady.

        Its pods get the addresses 127.32.NUMBER.1 and up, NUMBER from 0 to 255, so that a fake server on loopback can
        answer for a pod. The API refuses such addresses in EndpointSlices, so Services have no endpoints there; without
        ``loopback`` the addresses are 10.244.NUMBER.1 and up, which nobody answers, and Services have endpoints.
        ``resources`` are added to 64 CPUs and 512 GiB, for example ``{"nvidia.com/gpu": "8"}``.
        """
        self._create(name, number=number, loopback=loopback, resources=resources, labels=labels)
        self._wait_ready(name)

    def add_many(
        self,
        names: Sequence[str],
        *,
        resources: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Create up to 200 nodes with pods on loopback, and wait until all are Ready. Raises NotReady."""
        for number, name in enumerate(names):
            self._create(name, number=number, loopback=True, resources=resources, labels=labels)
        for name in names:
            self._wait_ready(name)

    def _create(
        self,
        name: str,
        *,
        number: int,
        loopback: bool,
        resources: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
    ) -> None:
        network = f"{'127.32' if loopback else '10.244'}.{number}"
        room = {**_ROOM, **(resources or {})}
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {**(labels or {}), LABEL: "true", "kubernetes.io/hostname": name}},
            "spec": {"podCIDR": f"{network}.0/24", "podCIDRs": [f"{network}.0/24"]},
            "status": {
                "capacity": room,
                "allocatable": room,
                "addresses": [
                    {"type": "InternalIP", "address": f"{network}.254"},
                    {"type": "Hostname", "address": name},
                ],
            },
        }
        api.create(self.plane, "/api/v1/nodes", body)

    def remove(self, name: str) -> None:
        """Delete a node; one that is not there is no error."""
        try:
            api.call(self.plane, "DELETE", f"/api/v1/nodes/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def _wait_ready(self, name: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._ready(name):
            process = self.plane.processes.get(_NAME)
            if time.monotonic() > deadline or process is None or not process.alive:
                raise NotReady(f"simulated node {name} is not Ready; see {self.plane.processes.log(_NAME)}")
            time.sleep(0.05)

    def _ready(self, name: str) -> bool:
        node = api.call(self.plane, "GET", f"/api/v1/nodes/{name}")
        conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
        tainted = {taint["key"] for taint in node["spec"].get("taints", [])}
        return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in tainted
