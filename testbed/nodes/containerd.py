"""containerd of one node: its own root, state and socket, so that it meets no other containerd of the machine."""

import json
import subprocess
import time
from pathlib import Path
from typing import Final

from testbed.processes import Processes

_READY_SECONDS: Final = 30

_CONFIG: Final = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs"]

[grpc]
  address = "{directory}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = false
  netns_mounts_under_state_dir = true
  max_container_log_line_size = 65536

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{directory}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


class Containerd:
    """One containerd below ``directory``."""

    def __init__(self, directory: Path, processes: Processes, *, name: str, subnet: str) -> None:
        """``subnet`` is what its pods get addresses from, e.g. ``10.244.0.0/24``."""
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self._processes = processes
        self._name = f"containerd-{name}"
        self._subnet = subnet

    def up(self, *, pause: str) -> None:
        """Start it and wait for its socket."""
        (self.directory / "cni").mkdir(parents=True, exist_ok=True)
        (self.directory / "cni" / "10-testbed.conflist").write_text(json.dumps(self._network()))
        config = self.directory / "config.toml"
        config.write_text(_CONFIG.format(directory=self.directory, pause=pause))
        self._processes.start(self._name, ["containerd", "--config", config])
        deadline = time.monotonic() + _READY_SECONDS
        while self.ctr("version", check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"containerd does not answer; see {self._processes.log(self._name)}")
            time.sleep(0.1)

    def load(self, archive: Path) -> None:
        """Import an OCI archive; its own annotation names the image."""
        self.ctr("-n", "k8s.io", "images", "import", archive)

    def images(self) -> set[str]:
        """Names of the images that are there."""
        return set(self.ctr("-n", "k8s.io", "images", "list", "-q").stdout.split())

    def stop(self) -> None:
        """Stop it; its shims are somebody else's business."""
        self._processes.stop(self._name)

    def ctr(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run containerd's own client."""
        command = ["ctr", "--address", str(self.socket), *map(str, arguments)]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=300)

    def _network(self) -> dict[str, object]:
        """Each pod on a link of its own, routed by the host: no bridge, and nothing in iptables."""
        return {
            "cniVersion": "0.4.0",
            "name": "testbed",
            "plugins": [
                {
                    "type": "ptp",
                    "mtu": 1500,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.directory / "ipam"),
                        "ranges": [[{"subnet": self._subnet}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
