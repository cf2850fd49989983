"""The node agent on real nodes: what it reports, and that it can report for no other node."""

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import AGENT_NAMESPACE, Fleet, deployment, model_set

pytestmark = pytest.mark.e2e


def agents(fleet: Fleet) -> dict[str, Any]:
    """Agents' pods by node."""
    found = fleet.get_all("pod", AGENT_NAMESPACE)
    return {pod["spec"]["nodeName"]: pod for pod in found}


def test_each_node_reports_and_shows_what_its_pods_have_in_memory(fleet: Fleet, namespace: str) -> None:
    nodes = {node.name for node in fleet.made}
    fleet.wait("an agent on each node", lambda: agents(fleet).keys() == nodes)
    fleet.apply(model_set(fleet, namespace, {"name": "chat", "contextLength": 2048}), deployment(namespace))
    fleet.wait_ready("chat", namespace)
    (pod,) = fleet.pods_of(namespace, "g0")
    name = f"{namespace}/{pod['metadata']['name']}"

    def models() -> list[Any]:
        report = fleet.get("nvr", pod["spec"]["nodeName"])
        return [model for model in report["status"].get("models", []) if model["pod"] == name]

    print(f"report: the model is in it after {fleet.wait('it is reported', lambda: bool(models()), seconds=30):.1f} s")
    (model,) = models()
    assert (model["name"], model["contextLength"]) == ("chat", 2048)
    assert model["size"] > 0
    for node in nodes:
        status = fleet.get("nvr", node)["status"]
        ready = next(entry for entry in status["conditions"] if entry["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("True", "Observed")
        assert status["summary"]["gpus"] == "2/2"
        assert status["memoryMebibytes"] > 0
    fleet.run("delete", "od", "chat", "-n", namespace)
    fleet.wait("it is gone from the report", lambda: not models(), seconds=60)


def test_an_agent_writes_no_other_node_s_report(fleet: Fleet) -> None:
    nodes = sorted(node.name for node in fleet.made)
    fleet.wait("an agent on each node", lambda: len(agents(fleet)) == len(nodes))
    pod = agents(fleet)[nodes[0]]["metadata"]["name"]
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
    token = fleet.run("create", "token", "ollama-fleet-agent", "-n", AGENT_NAMESPACE, *bound).strip()

    def write(node: str) -> httpx.Response:
        """As agents write: server-side apply, and no right to read."""
        url = f"{server(fleet)}/apis/ollamafleet.io/v1alpha1/nodevramreports/{node}/status"
        metadata = {"name": node}
        status = {"sequence": 1, "agentVersion": "test"}
        body = {
            "apiVersion": "ollamafleet.io/v1alpha1",
            "kind": "NodeVRAMReport",
            "metadata": metadata,
            "status": status,
        }
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"}
        query = {"fieldManager": "ollama-fleet-agent", "force": "true", "dryRun": "All"}
        return httpx.patch(url, params=query, headers=headers, json=body, verify=False, timeout=10)

    mine, other = write(nodes[0]), write(nodes[1])
    assert mine.status_code == 200, mine.text
    assert other.status_code == 422
    assert "an agent may only write the report of the node that it runs on" in other.text


def server(fleet: Fleet) -> str:
    """The API server's URL."""
    return fleet.run("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").strip()
