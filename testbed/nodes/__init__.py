"""Real nodes: kubelet, containerd and kube-proxy on this machine, one or two beside each other."""

from testbed.nodes.level import Nodes

__all__ = ["Nodes"]
