"""A containerd per node, with a pod network of its own, and loading images into it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from testbed import mounts
from testbed.images import Image
from testbed.images.base import PAUSE
from testbed.nodes.api import wait
from testbed.nodes.node import Node
from testbed.processes import Processes

_CONFIG: Final = """\
version = 2
root = "{images}"
state = "{directory}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = false
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
  BinaryName = "{gpu_runtime}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{directory}/cni"
"""
_START_SECONDS: Final = 30


def start(node: Node, processes: Processes) -> None:
    """Start containerd and wait until it answers. Raises NotReady."""
    cni = node.directory / "cni"
    cni.mkdir(parents=True, exist_ok=True)
    (cni / "10-pods.conflist").write_text(json.dumps(_network(node), indent=2))
    # Thousands of small files: on a slow disk they take tens of seconds to come, and as many to go.
    mounts.in_memory(node.images)
    config = node.directory / "containerd.toml"
    places = {"directory": node.directory, "images": node.images, "socket": node.socket}
    config.write_text(_CONFIG.format(pause=PAUSE, gpu_runtime=node.gpu_runtime, **places))
    name = f"containerd-{node.number}"
    processes.start(name, node.inside("containerd", "--config", config))
    wait(
        f"containerd of {node.name} does not answer",
        lambda: _answers(node),
        seconds=_START_SECONDS,
        log=processes.log(name),
    )


def load(node: Node, image: Image) -> None:
    """Give the node an image; what it has from the same archive is not loaded again."""
    loaded = node.images / "loaded" / image.archive.name
    if loaded.exists():
        return
    _ctr(node, "images", "import", str(image.archive))
    for alias in image.aliases:
        _ctr(node, "images", "tag", "--force", image.name, alias)
    loaded.parent.mkdir(exist_ok=True)
    loaded.touch()


def end_shims(node: Node) -> None:
    """Kill the shims of this node's containerd, known by its socket in their command line, and their sockets."""
    for pid in _shims(node):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in (node.directory / "run").glob("io.containerd.runtime.v2.task/*/*/address"):
        Path(path.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def _shims(node: Node) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"shim" in arguments[0] and os.fsencode(node.socket) in arguments:
            yield int(path.parent.name)


def _network(node: Node) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(node.directory / "addresses"),
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    # A routed link per pod: unlike on a bridge, packets between pods of a node pass the packet filter without a kernel
    # module that makes bridges call it, and a pod reaches itself through its own Service.
    link = {"type": "ptp", "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": node.network, "plugins": [link]}


def _answers(node: Node) -> bool:
    return subprocess.run([*_command(node), "version"], capture_output=True, check=False).returncode == 0


def _ctr(node: Node, *arguments: str) -> None:
    done = subprocess.run([*_command(node), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ctr {' '.join(arguments)} failed on {node.name}: {done.stderr[-1000:]}")


def _command(node: Node) -> list[str]:
    return ["ctr", "--address", str(node.socket), "--namespace", "k8s.io"]
