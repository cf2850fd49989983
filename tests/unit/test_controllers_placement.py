"""Servers with a cache of type Node: which node each is given, and when another one."""

from typing import Any

import pytest

from ollama_fleet.kube import kinds
from tests.support.plans import GPU
from tests.support.reconciled import Document, Reconciled

NODE = {"cache": {"type": "Node"}}


class Placing(Reconciled):
    """Nodes with one GPU each, and servers that wait for theirs."""

    async def wait(self, *pods: str, nodes: tuple[str, ...] = ("n1", "n2"), **spec: Any) -> None:
        for node in nodes:
            self.node(node)
        self.model_set({"name": "chat"})
        self.deploy(**{"hardware": GPU, "storage": NODE, "replicas": len(pods), **spec})
        await self.look()
        self.roll_out(len(pods), updated=len(pods))
        for pod in pods:
            self.pod(pod, node="", gate="", phase="Pending", podIP="", conditions=[], initContainerStatuses=[])
        await self.look()

    @property
    def jobs(self) -> dict[str, Document]:
        """By node."""
        return {job["metadata"]["annotations"]["ollamafleet.io/node"]: job for job in self.server.of_kind("Job")}

    def finish(self, job: Document, *, failed: str = "") -> None:
        kind, at = "Failed" if failed else "Complete", self.now().isoformat()
        condition = {"type": kind, "status": "True", "message": failed, "lastTransitionTime": at}
        self.server.put({**job, "status": {"conditions": [condition]}})

    def placed(self) -> dict[str, str]:
        """The node of each pod that is free to go there."""
        found = {}
        for pod in self.server.of_kind("Pod"):
            if "schedulingGates" not in pod["spec"]:
                affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                (term,) = affinity["nodeSelectorTerms"]
                found[pod["metadata"]["name"]] = term["matchFields"][0]["values"][0]
        return found


async def test_a_node_is_taken_from_the_moment_that_a_server_may_go_nowhere_else() -> None:
    bench = Placing()
    await bench.wait("p1", "p2")
    assert set(bench.jobs) == {"n1", "n2"}
    bench.finish(bench.jobs["n1"])
    await bench.look()
    assert bench.placed() == {"p1": "n1"}, "p2 waits for n2's cache although the scheduler has not bound p1 yet"
    bench.finish(bench.jobs["n2"])
    await bench.look()
    assert bench.placed() == {"p1": "n1", "p2": "n2"}


async def test_a_server_that_is_placed_keeps_its_required_affinity_and_the_gates_of_others() -> None:
    bench = Placing()
    terms = [{"matchExpressions": [{"key": "pool", "operator": "In", "values": [pool]}]} for pool in ("gpu", "spare")]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    bench.node("n1", pool="gpu")
    await bench.wait("p1", nodes=(), placement={"affinity": {"nodeAffinity": required}})
    pod = bench.server.objects["Pod", "ns", "p1"]
    pod["spec"]["schedulingGates"].append({"name": "example.com/quota"})
    bench.server.put(pod)
    bench.finish(bench.jobs["n1"])
    await bench.look()
    placed = bench.server.objects["Pod", "ns", "p1"]["spec"]
    assert placed["schedulingGates"] == [{"name": "example.com/quota"}]
    field = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    narrowed = placed["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert narrowed == [{**term, "matchFields": [field]} for term in terms]


async def test_a_server_that_may_go_to_nodes_by_name_goes_to_one_of_them() -> None:
    bench = Placing()
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in ("n2", "n3")]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    await bench.wait("p1", "p2", nodes=("n1", "n2", "n3"), placement={"affinity": {"nodeAffinity": required}})
    assert set(bench.jobs) == {"n2", "n3"}, "a server that still has the choice is on neither node"
    bench.finish(bench.jobs["n3"])
    await bench.look()
    (placed,) = [pod for pod in bench.server.of_kind("Pod") if "schedulingGates" not in pod["spec"]]
    narrowed = placed["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    # What was there stays, in its place: the API server takes additions alone.
    assert narrowed["nodeSelectorTerms"] == [
        {"matchFields": [*term["matchFields"], {"key": "metadata.name", "operator": "In", "values": ["n3"]}]}
        for term in terms
    ]


async def test_a_server_that_may_go_to_one_node_only_takes_no_room_from_itself() -> None:
    bench = Placing()
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    await bench.wait("p1", placement={"affinity": {"nodeAffinity": required}})
    assert set(bench.jobs) == {"n2"}
    bench.finish(bench.jobs["n2"])
    await bench.look()
    assert bench.placed() == {"p1": "n2"}


async def test_a_node_whose_cache_cannot_be_filled_is_left_for_another() -> None:
    bench = Placing()
    await bench.wait("p1")
    assert set(bench.jobs) == {"n1"}
    bench.finish(bench.jobs["n1"], failed="Job has reached the specified backoff limit")
    await bench.look()
    assert set(bench.jobs) == {"n1", "n2"}
    bench.time += 100
    await bench.look()
    assert bench.condition("Ready")[1] == "Placing", "the failure of n1 is in nobody's way"
    bench.finish(bench.jobs["n2"], failed="Job has reached the specified backoff limit")
    await bench.look()
    assert set(bench.jobs) == {"n1", "n2"}
    assert "status" not in bench.jobs["n1"], "both failed, n1 is tried again"
    assert bench.jobs["n2"]["status"]


async def test_what_fails_on_every_node_is_said_and_tried_on_the_same_again() -> None:
    bench = Placing()
    await bench.wait("p1")
    bench.finish(bench.jobs["n1"], failed="Container puller for pod ns/x failed with exit code 10 matching FailJob")
    await bench.look()
    assert bench.condition("Stalled")[:2] == ("True", "ModelNotFound")
    bench.time += 60
    await bench.look()
    assert set(bench.jobs) == {"n1"}
    assert "status" not in bench.jobs["n1"]


def claim(bench: Placing, name: str, uid: str) -> None:
    meta = {"namespace": "ns", "name": name, "uid": uid}
    spec = {"accessModes": ["ReadWriteMany"]}
    bench.server.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})


@pytest.mark.parametrize(("name", "uid"), [("new", "2"), ("old", "2")], ids=["another claim", "made anew"])
async def test_a_claim_that_takes_the_place_of_another_is_filled_too(name: str, uid: str) -> None:
    bench = Placing()
    claim(bench, "old", "1")
    await bench.serving(storage={"cache": {"type": "Claim", "claimName": "old"}})
    (first,) = bench.server.of_kind("Job")
    bench.finish(first)
    bench.server.requests.clear()
    await bench.look()
    assert bench.server.of_kind("Job")[0]["metadata"]["uid"] == first["metadata"]["uid"]
    claim(bench, name, uid)
    bench.deploy(storage={"cache": {"type": "Claim", "claimName": name}})
    await bench.look()
    (second,) = bench.server.of_kind("Job")
    assert second["metadata"]["name"] != first["metadata"]["name"]


async def test_a_failed_job_of_a_cache_that_is_used_no_more_goes_with_it() -> None:
    bench = Placing()
    await bench.wait("p1", nodes=("n1",))
    bench.finish(bench.jobs["n1"], failed="Job has reached the specified backoff limit")
    await bench.look()
    assert bench.condition("Stalled")[0] == "True"
    bench.deploy(hardware=GPU)
    await bench.look()
    assert bench.jobs == {}
    assert bench.condition("Stalled")[0] == "False"


async def test_jobs_go_with_their_nodes_and_stay_otherwise() -> None:
    bench = Placing()
    await bench.wait("p1", "p2")
    bench.finish(bench.jobs["n1"])
    await bench.look()
    bench.server.requests.clear()
    await bench.look()
    assert bench.server.requests == []
    await bench.server.delete(kinds.NODE, "", "n1", uid="uid-of-Node-n1")
    await bench.look()
    assert set(bench.jobs) == {"n2"}


async def pinned(bench: Placing, pod: str, *, filled: str = "n1") -> None:
    """The pod may only go to the node, which does not take it."""
    bench.finish(bench.jobs[filled])
    await bench.look()
    assert bench.placed()[pod] == filled
    live = bench.server.objects["Pod", "ns", pod]
    refusal = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient gpu"}
    created = "2026-01-01T00:00:00Z"  # the scheduler keeps the time of the scheduling gate
    status = {**live["status"], "conditions": [{**refusal, "lastTransitionTime": created}]}
    bench.server.put({**live, "status": status})
    await bench.look()


async def test_a_server_that_its_only_node_does_not_take_is_placed_anew() -> None:
    bench = Placing()
    await bench.wait("p1")
    await pinned(bench, "p1")
    bench.time += 60
    await bench.look()
    assert "p1" in bench.placed(), "who holds the room may be about to go"
    bench.time += 60
    await bench.look()
    assert bench.placed() == {}
    bench.pod("p2", node="", gate="", phase="Pending", podIP="", conditions=[], initContainerStatuses=[])
    await bench.look()
    assert set(bench.jobs) == {"n1", "n2"}, "n1 has the models and is left out"
    await pinned(bench, "p2", filled="n2")
    bench.time += 300
    await bench.look()
    assert bench.placed() == {"p2": "n2"}, "n1 is left out still"
    bench.time += 300
    await bench.look()
    assert bench.placed() == {}


async def test_a_server_waits_for_the_only_node_that_could_take_it() -> None:
    bench = Placing()
    await bench.wait("p1", nodes=("n1",))
    await pinned(bench, "p1")
    bench.time += 3600
    await bench.look()
    assert bench.placed() == {"p1": "n1"}
