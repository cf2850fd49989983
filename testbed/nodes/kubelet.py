"""kubelet per node and kube-proxy per machine, with the identities and rights that they have anywhere."""

from pathlib import Path
from typing import Any, Final

import yaml

from testbed.build import ensure
from testbed.controlplane import PODS, ControlPlane, write_kubeconfig
from testbed.nodes.api import call, create, wait
from testbed.nodes.node import KUBELET_PORT, Node
from testbed.processes import Processes

_READY_SECONDS: Final = 60


def start_kubelet(node: Node, cluster: ControlPlane, processes: Processes) -> None:
    """Register the node and start its kubelet."""
    create(cluster, "/api/v1/nodes", _node_object(node))
    config = node.directory / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet_config(node, cluster)))
    user = _user(cluster, f"system:node:{node.name}", group="system:nodes")
    kubeconfig = node.directory / "kubeconfig"
    write_kubeconfig(kubeconfig, server=cluster.url, ca=cluster.certificates.ca, user=user)
    processes.start(
        f"kubelet-{node.number}",
        node.inside(
            _binary(cluster, "kubelet"),
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--cert-dir={node.directory / 'pki'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
        ),
    )


def start_proxy(node: Node, cluster: ControlPlane, processes: Processes) -> None:
    """Start kube-proxy. All nodes share the packet filter of the machine, so one of them serves all."""
    directory = node.directory / "proxy"
    directory.mkdir(exist_ok=True)
    user = _user(cluster, "system:kube-proxy", group="system:node-proxiers")
    kubeconfig, config = directory / "kubeconfig", directory / "config.yaml"
    write_kubeconfig(kubeconfig, server=cluster.url, ca=cluster.certificates.ca, user=user)
    wish = yaml.safe_dump(_proxy_config(node, kubeconfig))
    # kube-proxy ends when the file is written, even if nothing in it changes.
    if not config.exists() or config.read_text() != wish:
        processes.stop("kube-proxy")
        config.write_text(wish)
    processes.start("kube-proxy", [_binary(cluster, "kube-proxy"), f"--config={config}"])


def wait_ready(node: Node, cluster: ControlPlane, processes: Processes) -> None:
    """Until the node is Ready. Raises NotReady."""
    log = processes.log(f"kubelet-{node.number}")
    wait(f"{node.name} is not Ready", lambda: _is_ready(node, cluster), seconds=_READY_SECONDS, log=log)


def _user(cluster: ControlPlane, name: str, *, group: str) -> dict[str, Any]:
    certificate, key = cluster.certificates.client(name, group=group)
    return {"client-certificate": str(certificate), "client-key": str(key)}


def _binary(cluster: ControlPlane, name: str) -> Path:
    return ensure(f"kubernetes-{cluster.minor}") / "bin" / name


def _is_ready(node: Node, cluster: ControlPlane) -> bool:
    conditions = call(cluster, "GET", f"/api/v1/nodes/{node.name}")["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _node_object(node: Node) -> dict[str, Any]:
    """Made before the kubelet registers, so that the pod subnet in it is the one that its runtime uses."""
    labels = {"kubernetes.io/hostname": node.name, "ollamafleet.io/testbed": "true"}
    metadata = {"name": node.name, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {"podCIDR": node.pods, "podCIDRs": [node.pods]},
    }


def _kubelet_config(node: Node, cluster: ControlPlane) -> dict[str, Any]:
    directory = node.directory
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzBindAddress": node.address,
        # Devices come and go in tests; nobody should wait ten seconds for the node to show it.
        "nodeStatusUpdateFrequency": "1s",
        # Else it is written as often as it is looked at.
        "nodeStatusReportFrequency": "5m",
        # Linux answers for an address of the machine on any of its links: pods and neighbours reach it too.
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(cluster.certificates.ca)},
        },
        # Whoever has a certificate of the cluster is the API server or a node.
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.network}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "resolvConf": "",
        "podLogsDir": str(node.pod_logs),
        "volumePluginDir": str(directory / "volume-plugins"),
    }


def _proxy_config(node: Node, kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": PODS,
        "hostnameOverride": node.name,
        "healthzBindAddress": f"{node.address}:10256",
        "metricsBindAddress": f"{node.address}:10249",
        # Nothing of the machine's connection tracking is changed.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        # Otherwise it sets route_localnet on the machine.
        "iptables": {"localhostNodePorts": False},
    }
