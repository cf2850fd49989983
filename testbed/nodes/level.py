"""The level of real nodes: bring them up, load images into them, take them down without a trace."""

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from testbed.build import ensure
from testbed.build.recipe import need_packages
from testbed.controlplane import ControlPlane
from testbed.images import pause
from testbed.journal import Journal
from testbed.nodes import host
from testbed.nodes.containerd import Containerd
from testbed.nodes.kubelet import Node, start_kubelet, start_proxy
from testbed.say import step

ADDRESS: Final = "10.245.0.1"
"""Of this machine, as nodes and pods reach it. An interface of our own, not one of the machine's networks."""
INTERFACE: Final = "ofleet0"

_PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": Path("/usr/lib/cni/ptp"),
    "iptables": "iptables",
    "iproute2": "ip",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
}
_READY_SECONDS: Final = 60


@dataclass(slots=True)
class Nodes:
    """The nodes of one control plane."""

    plane: ControlPlane
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        """The journal of an earlier run in the directory is taken over."""
        self.journal = Journal(self.plane.state, host.undo())

    def prepare(self) -> None:
        """The host's part, which the control plane's address needs before it starts."""
        self.plane.state.mkdir(parents=True, exist_ok=True)
        with (self.plane.state / "packages.log").open("a") as log:
            need_packages(_PACKAGES, log=log)
        host.add_interface(self.journal, INTERFACE, ADDRESS)
        host.set_sysctl(self.journal, "net.ipv4.ip_forward", "1")

    def up(self, *, count: int = 1) -> None:
        """Start ``count`` nodes and wait until they are Ready."""
        binaries = ensure(f"kubernetes-{self.plane.minor}") / "bin"
        pause_archive = pause.ensure()
        self.journal.record("kube-proxy", str(binaries / "kube-proxy"))
        for number in range(count):
            self._start(number, binaries=binaries, pause_archive=pause_archive)
        start_proxy(self.plane.state, self.plane, binaries=binaries)
        for number in range(count):
            self._wait_ready(f"node-{number}")

    def load(self, archive: Path, name: str) -> None:
        """Make an image known to every node that lacks it."""
        for containerd in self.containerds():
            if name not in containerd.images():
                with step(f"loading {name}"):
                    containerd.load(archive)

    def containerds(self) -> list[Containerd]:
        """The containerd of every node that was ever started here."""
        numbers = sorted(int(path.name[1:]) for path in self.plane.state.glob("n[0-9]*") if path.name[1:].isdigit())
        return [self._containerd(number) for number in numbers]

    def down(self) -> None:
        """Stop the nodes and undo what they did to the host; safe after any crash."""
        for process in list(self.plane.processes.all()):
            if process.name.startswith(("kubelet-", "kube-proxy")):
                self.plane.processes.stop(process.name)
        for containerd in self.containerds():
            containerd.stop()
        self.journal.undo_all()
        for path in self.plane.state.glob("n[0-9]*"):
            shutil.rmtree(path, ignore_errors=True)

    def _directory(self, number: int) -> Path:
        return self.plane.state / f"n{number}"

    def _containerd(self, number: int) -> Containerd:
        directory = self._directory(number)
        return Containerd(directory, self.plane.processes, name=f"node-{number}", subnet=f"10.244.{number}.0/24")

    def _start(self, number: int, *, binaries: Path, pause_archive: Path) -> None:
        directory = self._directory(number)
        cgroup = f"ofleet-{self.plane.state.name}-{number}"
        directory.mkdir(parents=True, exist_ok=True)
        host.add_cgroup(self.journal, cgroup)
        # Undone in reverse: first the shims and what they run, then the mounts that they held.
        self.journal.record("mounts", str(directory))
        self.journal.record("processes", str(directory))
        containerd = self._containerd(number)
        containerd.up(pause=pause.IMAGE)
        if pause.IMAGE not in containerd.images():
            containerd.load(pause_archive)
        node = Node(name=f"node-{number}", directory=directory, cgroup=cgroup, address=ADDRESS)
        start_kubelet(
            node, self.plane, binaries=binaries, token=self.plane.node_token(number), socket=containerd.socket
        )

    def _wait_ready(self, name: str) -> None:
        command = ["kubectl", "--kubeconfig", str(self.plane.kubeconfig), "get", "node", name]
        condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            found = subprocess.run([*command, "-o", condition], check=False, capture_output=True, text=True)
            if found.stdout == "True":
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is not Ready; see {self.plane.processes.log(f'kubelet-{name}')}")
            time.sleep(0.5)
