"""Network policies that are enforced: kube-router's firewall, and nothing else of it."""

from pathlib import Path
from typing import Final

from testbed import packages
from testbed.build import ensure
from testbed.controlplane import SERVICES, ControlPlane
from testbed.nodes import journal, rules
from testbed.nodes.api import wait
from testbed.nodes.node import nodes_of, nodes_state
from testbed.processes import Processes

PROGRAM: Final = "kube-router"
_START_SECONDS: Final = 30


def start(cluster: ControlPlane) -> None:
    """Enforce every network policy for the pods of all nodes, and return when that is so.

    All nodes share the packet filter of the machine, so one program serves all; it needs one node to be known.
    Raises NotReady, NotInstalled.
    """
    packages.need(packages.POLICIES)
    state = nodes_state(cluster.state)
    journal.open_journal(state).record(journal.POLICIES, "all")
    processes = Processes(state)
    processes.start(
        PROGRAM,
        [
            ensure(PROGRAM) / "bin" / PROGRAM,
            f"--kubeconfig={cluster.kubeconfig}",
            f"--hostname-override={nodes_of(cluster.state, 1)[0].name}",
            f"--service-cluster-ip-range={SERVICES}",
        ],
    )
    log = processes.log(PROGRAM)
    wait("network policies are not enforced", rules.enforcing, seconds=_START_SECONDS, log=log)


def stop(state: Path) -> None:
    """Let every pod of a test bed talk to every other again. May be repeated."""
    Processes(nodes_state(state)).stop(PROGRAM)
    journal.remove_policies()
