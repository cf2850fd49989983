"""kubelet and kube-proxy of a node."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from testbed.controlplane import PODS, ControlPlane, write_kubeconfig
from testbed.ports import free_ports

_LENIENT: Final = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
"""The machine is shared with compilers and tests: the kubelet must not evict for their sake."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its name, its files, and its place in the host."""

    name: str
    directory: Path
    cgroup: str
    address: str


def start_kubelet(node: Node, plane: ControlPlane, *, binaries: Path, token: str, socket: Path) -> None:
    """Start the kubelet with its own root directory, ports and cgroup."""
    kubeconfig = node.directory / "kubelet.kubeconfig"
    write_kubeconfig(kubeconfig, server=plane.url, ca=plane.certificates.ca, user={"token": token})
    config = node.directory / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_config(node, plane, socket)))
    plane.processes.start(
        f"kubelet-{node.name}",
        [
            binaries / "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--root-dir={node.directory / 'kubelet'}",
            f"--cert-dir={node.directory / 'pki'}",
        ],
    )


def start_proxy(directory: Path, plane: ControlPlane, *, binaries: Path) -> None:
    """One kube-proxy serves both nodes: they share the host's network and so its rules."""
    port, health = free_ports(2)
    config = directory / "kube-proxy.yaml"
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(plane.kubeconfig)},
        "conntrack": {"maxPerCore": 0},
        "metricsBindAddress": f"127.0.0.1:{port}",
        "healthzBindAddress": f"127.0.0.1:{health}",
    }
    config.write_text(yaml.safe_dump(document))
    plane.processes.start("kube-proxy", [binaries / "kube-proxy", f"--config={config}", "--hostname-override=node-0"])


def _config(node: Node, plane: ControlPlane, socket: Path) -> dict[str, Any]:
    port, health = free_ports(2, host=node.address)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": port,
        "healthzPort": health,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.certificates.ca)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": _LENIENT,
        "resolvConf": "",
        "containerRuntimeEndpoint": f"unix://{socket}",
        "volumePluginDir": str(node.directory / "volume-plugins"),
        "podLogsDir": str(node.directory / "pod-logs"),
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "imageMaximumGCAge": "0s",
        "serializeImagePulls": False,
        "registerWithTaints": [],
    }
