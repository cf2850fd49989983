"""What is observed of one OllamaDeployment: its children, its pods and what their sidecars say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_fleet.api.progress import PullProgress
from ollama_fleet.api.state import SidecarState
from ollama_fleet.controllers.pods import PodView, Trouble
from ollama_fleet.manifests.rollout import environment_of

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """One pod, and what its own servers answered (None: not asked, or no answer)."""

    pod: PodView
    trouble: Trouble | None = None
    state: SidecarState | None = None
    progress: PullProgress | None = None


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """One group as it stands in the cluster."""

    name: str
    deployment: Mapping[str, Any] | None = None
    pods: tuple[ObservedPod, ...] = ()
    pulls: tuple[PullProgress, ...] = ()
    """What Jobs that fill caches of nodes say."""

    @property
    def rolled_out(self) -> bool:
        """Whether the Deployment's controller has seen the newest template and replaced every pod."""
        if self.deployment is None:
            return False
        status, wanted = self.deployment.get("status", {}), self.wanted
        return bool(
            status.get("observedGeneration") == self.deployment["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == wanted
            and status.get("replicas", 0) == wanted
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """That the live Deployment starts servers with."""
        return environment_of(self.deployment["spec"]["template"]["spec"]["containers"]) if self.deployment else {}

    @property
    def one_by_one(self) -> bool:
        """Whether the rollout takes an old server away before it starts a new one."""
        if self.deployment is None:
            return False
        return bool(self.deployment["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge") == 0)

    @property
    def wanted(self) -> int:
        """Replicas that the live Deployment asks for."""
        return int(self.deployment["spec"].get("replicas", 1)) if self.deployment else 0

    @property
    def replicas(self) -> int:
        """Pods that exist and are not on their way out."""
        return sum(not observed.pod.deleting for observed in self.pods)

    @property
    def ready(self) -> int:
        """Pods that take traffic."""
        return sum(observed.pod.ready and not observed.pod.deleting for observed in self.pods)

    @property
    def updated(self) -> int:
        """Pods of the newest template."""
        return int(self.deployment.get("status", {}).get("updatedReplicas", 0)) if self.deployment else 0

    @property
    def failure(self) -> str:
        """Why the Deployment cannot make pods (quota, Pod Security), empty when it can."""
        if self.deployment is None:
            return ""
        conditions = self.deployment.get("status", {}).get("conditions", ())
        failed = (c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True")
        return next((str(c.get("message", "")) for c in failed), "")


def owned(child: Object, owner: Object) -> bool:
    """Whether ``owner`` is the controller of ``child``."""
    return any(
        reference.get("controller") and reference["uid"] == owner["metadata"]["uid"]
        for reference in child["metadata"].get("ownerReferences", ())
    )
