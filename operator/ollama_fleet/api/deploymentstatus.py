"""The status of an OllamaDeployment: what holds, for people and for tools."""

from typing import Annotated, Final, Literal

from pydantic import Field

from ollama_fleet.api.base import Bytes, Digest, Observed
from ollama_fleet.api.common import Condition, Text, Word
from ollama_fleet.api.schema import list_atomic, list_map

MOST_EFFECTIVE: Final = 256
"""Values in force that a status has room for."""


class EffectiveValue(Observed):
    """A value in force and where it came from."""

    name: Word
    """Field of the spec or variable of the container."""
    value: Annotated[str, Field(max_length=4096)]
    """The value."""
    source: Literal["spec", "computed", "default"]
    """Who chose it."""
    reason: Text = ""
    """Why."""
    groups: list[Word] = Field(default_factory=list, max_length=1024, json_schema_extra=list_atomic())
    """The groups that it holds for, where they differ; all of them when absent."""


class DownloadStatus(Observed):
    """Progress of a download, summed over the pods that pull."""

    completed_bytes: Bytes = 0
    """Bytes on disk."""
    total_bytes: Bytes = 0
    """Bytes in all."""
    percent: int = Field(default=0, ge=0, le=100)
    """Share on disk."""


class ServedModel(Observed):
    """One served model over all pods of its group."""

    name: Word
    """The served name."""
    group: Word = ""
    """Group whose servers hold it."""
    digest: Digest | None = None
    """Digest of the registry's manifest."""
    size: Bytes = 0
    """Bytes to download."""
    planned: Bytes = 0
    """Bytes of GPU memory that the plan counts with, an upper bound; 0 where nothing was sized."""
    memory: Bytes = 0
    """Bytes that Ollama claimed at load (largest pod)."""
    state: Word = ""
    """The least advanced phase over the pods: Pulling, Cached, Loading, Warm, Failed."""
    warm: int = 0
    """Pods that hold it in memory."""
    download: DownloadStatus | None = None
    """Progress of its download, while there is one."""
    message: Text = ""
    """What went wrong last, while its state is Failed."""


class GroupStatus(Observed):
    """One group: a Deployment of identical servers."""

    name: Word
    """Name of the group: ``g0``, ``g1``, ..."""
    deployment: Word
    """Name of the Deployment and of the Service."""
    replicas: int = 0
    """Pods."""
    ready: int = 0
    """Pods that take traffic."""
    updated: int = 0
    """Pods of the newest pod template."""
    models: list[Word] = Field(default_factory=list, max_length=1024, json_schema_extra=list_atomic())
    """Served names."""
    image_ids: list[Text] = Field(
        default_factory=list, max_length=64, alias="imageIDs", json_schema_extra=list_atomic()
    )
    """Ollama images that the pods run, as nodes resolved them: several in a rollout or after a tag moved."""
    endpoint: Text = ""
    """URL of the group's Service."""


class OllamaDeploymentStatus(Observed):
    """What the operator knows about the servers."""

    observed_generation: int = -1
    """Generation of the spec that the status speaks of; -1 before the operator has seen it."""
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=list_map("type"))
    """``Ready``, ``Reconciling`` and ``Stalled``."""
    replicas: int = 0
    """Pods, the minimum over the groups; what the scale subresource reads."""
    ready_replicas: int = 0
    """Pods that take traffic, the minimum over the groups."""
    ready: Word = ""
    """``2/3``: ready pods of wanted pods, over all groups."""
    warm: Word = ""
    """``4/5``: models in memory in every pod that must hold them, of all Pinned models."""
    vram: Word = ""
    """``15.2/22.5 GiB``: GPU memory that models took at load, of what the GPUs of their servers have; empty without
    reported GPUs."""
    selector: Text = ""
    """Label selector of the first group, for the scale subresource."""
    endpoint: Text = ""
    """URL of the first group's Service."""
    version: Word = ""
    """Ollama version in force."""
    image: Text = ""
    """Image in force."""
    models: list[ServedModel] = Field(default_factory=list, max_length=1024, json_schema_extra=list_map("name"))
    """The served models."""
    groups: list[GroupStatus] = Field(default_factory=list, max_length=1024, json_schema_extra=list_map("name"))
    """The groups, each a Deployment and a Service."""
    effective: list[EffectiveValue] = Field(
        default_factory=list, max_length=MOST_EFFECTIVE, json_schema_extra=list_atomic()
    )
    """Values in force, with where they came from; several of one name where groups differ."""
