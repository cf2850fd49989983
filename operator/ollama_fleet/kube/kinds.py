"""The kinds that the operator reads or writes, and where the API server keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.api import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of Kubernetes object.

    ``api_version`` is ``v1`` or ``group/version``, ``plural`` the path segment.
    """

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of a collection, an object, or a subresource of it.

        Without a namespace, the path of a namespaced kind is its collection over all namespaces.
        """
        prefix = "apis" if self.group else "api"
        parts = ["", prefix, self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            if self.namespaced and namespace is None:
                raise ValueError(f"{self.kind} {name}: the namespace is missing")
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


OLLAMA_DEPLOYMENT: Final = Kind(names.API_VERSION, "OllamaDeployment", "ollamadeployments")
MODEL_SET: Final = Kind(names.API_VERSION, "ModelSet", "modelsets")
NODE_VRAM_REPORT: Final = Kind(names.API_VERSION, "NodeVRAMReport", "nodevramreports", namespaced=False)
DEPLOYMENT: Final = Kind("apps/v1", "Deployment", "deployments")
SERVICE: Final = Kind("v1", "Service", "services")
POD: Final = Kind("v1", "Pod", "pods")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
PERSISTENT_VOLUME_CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SECRET: Final = Kind("v1", "Secret", "secrets")
PDB: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
JOB: Final = Kind("batch/v1", "Job", "jobs")
NODE: Final = Kind("v1", "Node", "nodes", namespaced=False)
EVENT: Final = Kind("v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
ENDPOINT_SLICE: Final = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")

ALL: Final = (
    OLLAMA_DEPLOYMENT,
    MODEL_SET,
    NODE_VRAM_REPORT,
    DEPLOYMENT,
    SERVICE,
    POD,
    CONFIG_MAP,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    PDB,
    NETWORK_POLICY,
    JOB,
    NODE,
    EVENT,
    LEASE,
    ENDPOINT_SLICE,
)
"""Those above, for :func:`kind_of`."""
_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in ALL}


def kind_of(obj: Mapping[str, object]) -> Kind:
    """The kind that ``apiVersion`` and ``kind`` of an object name.

    Raises KeyError for one that the operator has nothing to do with.
    """
    return _BY_NAME[str(obj.get("apiVersion")), str(obj.get("kind"))]
