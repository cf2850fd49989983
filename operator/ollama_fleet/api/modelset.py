"""ModelSet: the models as a manifest for GitOps. One ModelSet may feed several OllamaDeployments."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ollama_fleet.api.base import Bytes, Digest, Document, Observed
from ollama_fleet.api.common import Condition, Duration, LocalReference
from ollama_fleet.api.group import Residency
from ollama_fleet.api.schema import list_map, rule, rules

ServedName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._:/-]*$")]


class ModelfileSpec(Document):
    """Parts of a Modelfile, laid over what the registry's manifest brings."""

    parameters: dict[str, str | int | float | bool | list[str]] | None = None
    """Options of Ollama (``PARAMETER``), e.g. ``temperature: 0.2``; lists for ``stop``."""
    system: str | None = Field(default=None, max_length=65536)
    """The system prompt (``SYSTEM``)."""
    template: str | None = Field(default=None, max_length=65536)
    """The prompt template (``TEMPLATE``). Bare GGUF files need one below Ollama 0.30."""
    adapter: str | None = Field(default=None, max_length=512)
    """Registry reference of a LoRA adapter (``ADAPTER``)."""


class ModelSpec(Document):
    """One model of a ModelSet."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.keepAlive) || (has(self.residency) && self.residency == 'OnDemand')",
                "keepAlive counts for residency OnDemand only: remove it or set residency",
                field=".keepAlive",
            ),
            rule(
                "!has(self.digest) || !has(self.model) || !self.model.contains('@')",
                "model already names a digest after '@': keep one of model@digest and digest",
                field=".digest",
            ),
        )
    )

    name: ServedName
    """The served name: what clients put into ``model``. Unique in the set."""
    model: str | None = Field(default=None, min_length=1, max_length=512)
    """Registry reference such as ``llama3.1:8b``; the served name when absent."""
    digest: Digest | None = None
    """Pins the manifest: a registry that answers with another one is refused."""
    context_length: int | None = Field(default=None, ge=4, le=10_485_760)
    """Tokens of context per request; the profile's default when absent."""
    parallel: int | None = Field(default=None, ge=1, le=64)
    """Requests served at once by one server; the profile's default when absent."""
    residency: Residency | None = None
    """``Pinned`` (default): in memory before the pod takes traffic, for good. ``OnDemand``: loaded by a request."""
    priority: int | None = Field(default=None, ge=-1000, le=1000)
    """Higher loads first and is left out last when not all fit. Default 0."""
    keep_alive: Duration | None = None
    """How long an OnDemand model stays in memory after its last request."""
    modelfile: ModelfileSpec | None = None


class SourceSpec(Document):
    """Where the models come from."""

    registry: str | None = Field(default=None, max_length=253, pattern=r"^[a-zA-Z0-9.-]+(:[0-9]{1,5})?$")
    """Registry host (and port) for references that name none. Default ``registry.ollama.ai``."""
    insecure: bool | None = None
    """Plain HTTP instead of HTTPS."""
    pull_secret_ref: LocalReference | None = None
    """Secret of type ``kubernetes.io/dockerconfigjson``."""
    ca_secret_ref: LocalReference | None = None
    """Secret whose ``ca.crt`` the registry's certificate is verified with."""


class UpdatePolicy(Document):
    """When a tag is looked up again."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.schedule) || self.type == 'IfChanged'",
                "schedule counts for type IfChanged only: remove it or set type",
                field=".schedule",
            )
        )
    )

    type: Literal["Pinned", "IfChanged"]
    """``Pinned``: a tag is resolved once per change of its entry. ``IfChanged``: looked up on the schedule."""
    schedule: str | None = Field(default=None, max_length=64)
    """Cron expression (UTC) for ``IfChanged``; hourly when absent."""


class ModelSetSpec(Document):
    """Desired models."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.models.all(a, self.models.exists_one(b, "
                "a.name.lowerAscii() == b.name.lowerAscii() || a.name.lowerAscii() == b.name.lowerAscii() + ':latest' "
                "|| a.name.lowerAscii() + ':latest' == b.name.lowerAscii()))",
                "two models share a served name (case and ':latest' do not count): rename one",
                field=".models",
            )
        )
    )

    source: SourceSpec | None = None
    models: list[ModelSpec] = Field(min_length=1, max_length=64, json_schema_extra=list_map("name"))
    """The models; each served name once."""
    update_policy: UpdatePolicy | None = None


class ResolvedModel(Observed):
    """One model of the set as the registry answered."""

    name: str
    reference: str = ""
    """The full registry reference, e.g. ``registry.ollama.ai/library/llama3.1:8b``."""
    digest: Digest | None = None
    """Digest of the registry's manifest; absent until it is resolved."""
    adapter: str = ""
    """The adapter's full reference with its digest, where the entry names one."""
    size: Bytes = 0
    """Bytes of all layers, the adapter's included."""
    ready: bool = False
    reason: str = ""
    message: str = ""


class ModelSetStatus(Observed):
    """What the operator knows about the set."""

    observed_generation: int = -1
    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=list_map("type"))
    models: list[ResolvedModel] = Field(default_factory=list, json_schema_extra=list_map("name"))
    resolved: str = ""
    """``3/4``: models whose manifest is known, of all."""
    total_bytes: Bytes = 0
    """Bytes of all resolved models."""
