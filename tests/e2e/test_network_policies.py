"""The product's network policies, enforced by the kernel on real pods."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ollama_fleet.api import names
from testbed.kubectl import environment
from testbed.nodes import policies
from testbed.nodes.node import API_ADDRESS, HOST_LINK
from tests.e2e.conftest import (
    AGENT_NAMESPACE,
    OPERATOR_NAMESPACE,
    Fleet,
    deployment,
    made_namespace,
    model_set,
)
from tests.support.reach import PORT, Caller, becomes, client, deny_all, of_the_fleet, reached

pytestmark = pytest.mark.e2e

LINK_LOCAL = "169.254.250.254"
"""Of the block in which clouds serve credentials. Not the very address: the machine itself may need that."""
ELSEWHERE = 12345
"""A port that means nothing to anybody."""
CHAT = {"name": "chat", "contextLength": 2048}

_ASK = """
import json, sys, urllib.request
body = json.dumps({"model": "chat", "prompt": "hello", "stream": False, "options": {"num_predict": 4}}).encode()
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=body), timeout=20).read().decode())
"""


@dataclass(frozen=True, slots=True)
class Street:
    """A server, and those who would like to talk to it."""

    namespace: str
    pod: Any
    callers: dict[str, Caller]
    foreign: str
    """The namespace of strangers."""

    @property
    def address(self) -> str:
        return str(self.pod["status"]["podIP"])

    @property
    def server(self) -> Caller:
        """The server's own pod, as a caller of others."""
        return Caller(self.namespace, self.pod["metadata"]["name"], names.CONTAINER_SIDECAR)

    def ports(self, *numbers: int) -> dict[str, str]:
        return {str(number): f"{self.address}:{number}" for number in numbers}


@pytest.fixture(scope="module", autouse=True)
def enforced(fleet: Fleet) -> Iterator[None]:
    """While this module runs; nothing of it stays for other tests."""
    policies.start(fleet.plane)
    yield
    policies.stop(fleet.plane.state)


@pytest.fixture(scope="module")
def street(fleet: Fleet, enforced: None) -> Iterator[Street]:
    with ExitStack() as stack:
        own = stack.enter_context(made_namespace(fleet, "policies-own"))
        foreign = stack.enter_context(made_namespace(fleet, "policies-foreign"))
        near, far = (node.name for node in fleet.made)
        clients = [
            _client(fleet, own, "neighbour", near),
            _client(fleet, foreign, "stranger", near),
            _client(fleet, foreign, "stranger-on-another-node", far),
            _client(fleet, foreign, "false-gateway", far, component="gateway"),
            _client(fleet, foreign, "false-operator", near, component="operator"),
            # Not those of the chart: its selectors also ask for the release.
            _client(fleet, OPERATOR_NAMESPACE, "gateway", near, component="gateway"),
            _client(fleet, OPERATOR_NAMESPACE, "operator", far, component="operator"),
            _client(fleet, AGENT_NAMESPACE, "agent", far, component="agent"),
        ]
        placement = {"nodeSelector": {"kubernetes.io/hostname": near}}
        for one in clients:
            stack.callback(fleet.run, "delete", *_place(one), "--ignore-not-found", "--wait=false")
        fleet.apply(*clients, model_set(fleet, own, CHAT), deployment(own, placement=placement))
        fleet.wait_ready("chat", own)
        for one in clients:
            fleet.run("wait", *_place(one), "--for=condition=Ready", "--timeout=60s")
        (pod,) = fleet.pods_of(own, "g0")
        yield Street(own, pod, {one["metadata"]["name"]: _caller(one) for one in clients}, foreign)


def test_a_policy_that_denies_all_ends_what_passed_a_moment_before(fleet: Fleet, street: Street) -> None:
    """Without this nothing below would mean anything."""
    pod = _client(fleet, street.foreign, "throw-away", fleet.made[0].name)
    fleet.apply(pod)
    fleet.run("wait", *_place(pod), "--for=condition=Ready", "--timeout=60s")
    address = fleet.get("pod", "throw-away", street.foreign)["status"]["podIP"]
    callers = {who: street.callers[who] for who in ("stranger", "stranger-on-another-node")}
    targets = {"throw-away": f"{address}:{PORT}"}
    everybody = {(who, "throw-away") for who in callers}
    becomes(fleet.run, callers, targets, everybody)
    fleet.apply(deny_all(street.foreign, "throw-away"))
    becomes(fleet.run, callers, targets, set())
    fleet.run("delete", "networkpolicy", "deny-throw-away", "-n", street.foreign)
    becomes(fleet.run, callers, targets, everybody)


def test_who_reaches_which_port_of_a_server(fleet: Fleet, street: Street) -> None:
    """The puller's and Ollama's own port too, as if they were open to all: they are not while a server is Ready."""
    ports = (names.PORT_DATA, names.PORT_ADMIN, names.PORT_PROGRESS, names.PORT_OLLAMA, ELSEWHERE)
    with _listening(fleet, street.server, street.address, names.PORT_PROGRESS, names.PORT_OLLAMA, ELSEWHERE):
        # Policies do not bind the node itself, from where kubelets probe: so it shows that somebody listens.
        assert [port for port in ports if not _open(street.address, port)] == []
        data, admin, progress = str(names.PORT_DATA), str(names.PORT_ADMIN), str(names.PORT_PROGRESS)
        wanted = {
            ("neighbour", data),
            ("gateway", data),
            ("gateway", admin),
            ("agent", admin),
            ("operator", admin),
            ("operator", progress),
        }
        becomes(fleet.run, street.callers, street.ports(*ports), wanted)


def test_neighbours_get_tokens_through_the_service_and_strangers_after_somebody_lets_them_in(
    fleet: Fleet, street: Street
) -> None:
    url = fleet.address("chat-g0", street.namespace)
    said = json.loads(fleet.run(*street.callers["neighbour"].command(_ASK, f"{url}/api/generate")))
    assert said["response"]
    strangers = {who: street.callers[who] for who in ("stranger", "stranger-on-another-node")}
    targets = {"service": url.removeprefix("http://")}
    becomes(fleet.run, strangers, targets, set())
    # Policies add up, so that one beside the product's lets others in; the product has no field for it.
    fleet.apply(_lets_in(street))
    becomes(fleet.run, strangers, targets, {(who, "service") for who in strangers})
    said = json.loads(fleet.run(*strangers["stranger"].command(_ASK, f"{url}/api/generate")))
    assert said["response"]
    admin = street.ports(names.PORT_ADMIN)
    assert reached(fleet.run, strangers, admin) == set()
    fleet.run("delete", "networkpolicy", "let-in", "-n", street.namespace)
    becomes(fleet.run, strangers, targets, set())


def test_a_server_reaches_its_registry_and_https_but_neither_other_ports_nor_link_local_addresses(
    fleet: Fleet, street: Street
) -> None:
    targets = {
        "registry": fleet.registry.host,
        "https": f"{API_ADDRESS}:443",
        "another port": f"{API_ADDRESS}:{ELSEWHERE}",
        "link-local https": f"{LINK_LOCAL}:443",
        "link-local http": f"{LINK_LOCAL}:80",
    }
    callers = {"server": street.server, "pod without a policy": street.callers["neighbour"]}
    everything = {("pod without a policy", target) for target in targets}
    with _on_the_node(API_ADDRESS, 443, ELSEWHERE), _on_the_node(LINK_LOCAL, 443, 80):
        becomes(fleet.run, callers, targets, everything | {("server", "registry"), ("server", "https")})


def test_of_operators_and_agents_only_the_port_of_probes_and_metrics_is_open(fleet: Fleet, street: Street) -> None:
    stranger = {"stranger": street.callers["stranger"]}
    for namespace, container, port in (
        (OPERATOR_NAMESPACE, "operator", 8080),
        (AGENT_NAMESPACE, "agent", names.PORT_AGENT),
    ):
        pod = next(one for one in fleet.pods(namespace) if one["spec"]["containers"][0]["name"] == container)
        address = pod["status"]["podIP"]
        targets = {f"{container} {number}": f"{address}:{number}" for number in (port, ELSEWHERE)}
        with _listening(fleet, Caller(namespace, pod["metadata"]["name"], container), address, ELSEWHERE):
            assert _open(address, ELSEWHERE)
            becomes(fleet.run, stranger, targets, {("stranger", f"{container} {port}")})


def _client(fleet: Fleet, namespace: str, name: str, node: str, *, component: str = "") -> Any:
    labels = of_the_fleet(component) if component else {}
    return client(namespace, name, node=node, image=fleet.product.name, labels=labels)


def _caller(pod: Any) -> Caller:
    return Caller(pod["metadata"]["namespace"], pod["metadata"]["name"], "client")


def _place(pod: Any) -> tuple[str, str, str]:
    return "-n", pod["metadata"]["namespace"], f"pod/{pod['metadata']['name']}"


def _lets_in(street: Street) -> Any:
    """What somebody writes whose clients are in another namespace."""
    source = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": street.foreign}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "let-in", "namespace": street.namespace},
        "spec": {
            "podSelector": {"matchLabels": {names.LABEL_DEPLOYMENT: "chat"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [source], "ports": [{"port": names.PORT_DATA}]}],
        },
    }


@contextmanager
def _listening(fleet: Fleet, caller: Caller, address: str, *ports: int) -> Iterator[None]:
    """A program in the container that holds ports open."""
    command = ["kubectl", "--kubeconfig", str(fleet.plane.kubeconfig), *caller.listens(address, *ports)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment()
    ) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        try:
            # What the program says would be waited for without end where kubectl loses it.
            fleet.wait(
                f"{caller.pod} listens or gives up",
                lambda: held.poll() is not None or all(_open(address, port) for port in ports),
                seconds=20,
            )
            assert held.poll() is None, held.stdout.read()
            yield
        finally:
            held.stdin.close()
            held.wait(timeout=30)


@contextmanager
def _on_the_node(address: str, *ports: int) -> Iterator[None]:
    """Ports of an address of the node's; the link that carries it is in the test bed's journal."""
    with ExitStack() as stack:
        if address != API_ADDRESS:
            subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", HOST_LINK], check=True)
            stack.callback(subprocess.run, ["ip", "address", "delete", f"{address}/32", "dev", HOST_LINK], check=True)
        for port in ports:
            stack.enter_context(socket.create_server((address, port)))
        yield


def _open(address: str, port: int) -> bool:
    """Whether the node gets through."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
