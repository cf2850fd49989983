"""The group configuration: what the operator tells the puller and the sidecar of a pod.

One group is one Deployment of identical Ollama servers. The operator renders the configuration into a ConfigMap;
a change reaches running sidecars without a restart, and the sidecar reports the hash of what it applied.
"""

import hashlib
import json
from typing import Literal

from pydantic import Field

from ollama_fleet.api.base import Bytes, Digest, Document

Residency = Literal["Pinned", "OnDemand"]


class Modelfile(Document):
    """Parts of a Modelfile that become layers of a derived manifest."""

    parameters: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    system: str | None = None
    template: str | None = None
    adapter: str | None = None
    """Registry reference with a digest: ``host/namespace/name:tag@sha256:...``."""


class GroupModel(Document):
    """One model that a server of the group must hold, with everything resolved."""

    name: str
    """The served name: what clients put into ``model``."""
    registry: str
    """Host (and port) of the registry, without a scheme."""
    repository: str
    """Repository in the registry, e.g. ``library/llama3.1``."""
    manifest_digest: Digest
    """The registry's manifest, resolved by the operator; the puller takes no other."""
    tag: str | None = None
    """The tag that gave the digest. registry.ollama.ai serves no manifests by digest (ollama/ollama#5298):
    the puller then asks for the tag and refuses another digest."""
    insecure: bool = False
    """Plain HTTP instead of HTTPS."""
    pull_secret: str | None = None
    ca_secret: str | None = None
    size: Bytes = 0
    """Bytes of all layers, for progress; 0 when unknown."""
    context_length: int | None = Field(default=None, ge=1)
    """Tokens per slot; becomes ``num_ctx`` of the derived manifest."""
    parallel: int = Field(default=1, ge=1)
    """Slots: concurrent requests that the sidecar lets through for this model."""
    residency: Residency = "Pinned"
    priority: int = 0
    keep_alive: str | None = None
    """Go duration or seconds, for OnDemand models; Pinned models stay for good."""
    modelfile: Modelfile = Field(default_factory=Modelfile)


class GroupConfig(Document):
    """Everything a pod of the group needs besides its environment."""

    version: Literal[1] = 1
    namespace: str
    deployment: str
    """Name of the OllamaDeployment."""
    group: str
    ollama_version: str
    """Version that the plan was made for, e.g. ``0.32.3``."""
    models: tuple[GroupModel, ...] = ()
    num_parallel: int = Field(default=0, ge=0)
    """Slots that the server was planned with."""
    sized_for: str = ""
    """Hash of what the plan's size was made from: while it stays, nothing that happens to nodes changes the plan."""
    drain_seconds: int = Field(default=300, ge=0)
    load_timeout_seconds: int = Field(default=600, ge=1)
    """How long one model may take from the load request to its first token."""

    def hash(self) -> str:
        """A short content hash; the sidecar reports the hash of the configuration it has applied."""
        wire = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(wire.encode()).hexdigest()[:16]

    def content(self) -> str:
        """A short hash of the files that a cache must hold for the group."""
        wanted = sorted(
            (model.registry, model.repository, model.manifest_digest, model.modelfile.adapter or "")
            for model in self.models
        )
        return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
