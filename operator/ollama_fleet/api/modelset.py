"""ModelSet: the models as a manifest for GitOps. One ModelSet may feed several OllamaDeployments."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ollama_fleet.api.base import Bytes, Digest, Document, Observed
from ollama_fleet.api.common import Condition, Duration, HeldTo, LocalReference, Text, Word
from ollama_fleet.api.group import Residency
from ollama_fleet.api.modelfile import ModelParameters
from ollama_fleet.api.modelheader import ModelHeader
from ollama_fleet.api.schema import list_map, rule, rules, words

_HOST = "[A-Za-z0-9_][A-Za-z0-9_.:-]*"
_NAMESPACE = "[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_MODEL = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?"

ServedName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        pattern=f"^(({_HOST}/)?{_NAMESPACE}/)?{_MODEL}$",
        json_schema_extra=words(
            "must be a model name such as chat, team/chat or chat:8b: "
            "letters, digits, '_', '-' and '.', at most 80 per part"
        ),
    ),
]
Reference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        pattern=f"^((https?://)?{_HOST}/{_NAMESPACE}/|{_NAMESPACE}/)?{_MODEL}(@sha256:[0-9a-f]{{64}})?$",
        json_schema_extra=words(
            "must be a reference such as llama3.1:8b or registry.example.com/team/model:tag@sha256:...: "
            "[host/][namespace/]model[:tag][@digest]"
        ),
    ),
]


class ModelfileSpec(Document):
    """Parts of a Modelfile, laid over what the registry's manifest brings."""

    parameters: Annotated[dict[str, Any], HeldTo(ModelParameters)] | None = None
    """Options of Ollama (``PARAMETER``), e.g. ``temperature: 0.2``."""
    system: str | None = Field(default=None, max_length=65536)
    """The system prompt (``SYSTEM``)."""
    template: str | None = Field(default=None, max_length=65536)
    """The prompt template (``TEMPLATE``). Bare GGUF files need one below Ollama 0.30."""
    adapter: Reference | None = None
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
            rule(
                "!has(self.modelfile) || !has(self.modelfile.parameters) || !has(self.modelfile.parameters.num_ctx)",
                "num_ctx is set by the operator: remove it and set contextLength",
                field=".modelfile.parameters",
            ),
        )
    )

    name: ServedName
    """The served name: what clients put into ``model``. Unique in the set."""
    model: Reference | None = None
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
    """Parts of a Modelfile, laid over what the registry's manifest brings."""


class SourceSpec(Document):
    """Where the models come from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.caSecretRef) || !has(self.insecure) || !self.insecure",
                "caSecretRef counts for HTTPS only: remove it or insecure: true",
                field=".caSecretRef",
            )
        )
    )

    registry: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[0-9]{1,5})?$",
        json_schema_extra=words("must be a host with an optional port, such as registry.example.com:5000, no scheme"),
    )
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
    schedule: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^([0-9*/,-]+[ ]+){2}[0-9*/,-]+[ ]+[A-Za-z0-9*/,-]+[ ]+[A-Za-z0-9*/,-]+$",
        json_schema_extra=words("must be a cron expression of five fields, such as 0 */6 * * *"),
    )
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
    """Where the models come from. Default ``registry.ollama.ai``."""
    models: list[ModelSpec] = Field(min_length=1, max_length=64, json_schema_extra=list_map("name"))
    """The models; each served name once."""
    update_policy: UpdatePolicy | None = None
    """When tags are looked up again. Default ``Pinned``."""


class ResolvedModel(Observed):
    """One model of the set as the registry answered."""

    name: Word
    """The served name."""
    reference: Text = ""
    """The full registry reference, e.g. ``registry.ollama.ai/library/llama3.1:8b``."""
    digest: Digest | None = None
    """Digest of the registry's manifest; absent until it is resolved."""
    weights: Digest | None = None
    """Digest of the file with the weights, which several manifests may share."""
    adapter: Text = ""
    """The adapter's full reference with its digest, where the entry names one."""
    size: Bytes = 0
    """Bytes of all layers, the adapter's included."""
    ready: bool = False
    """Whether the manifest is known."""
    reason: Word = ""
    """Why not, one of the documented reasons."""
    message: Text = ""
    """What the registry said, and the next step."""
    header: ModelHeader | None = None
    """What the model's file says of itself; absent where it is no GGUF file."""


class ModelSetStatus(Observed):
    """What the operator knows about the set."""

    observed_generation: int = -1
    """Generation of the spec that the status speaks of; -1 before the operator has seen it."""
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=list_map("type"))
    """``Ready``, ``Reconciling`` and ``Stalled``."""
    models: list[ResolvedModel] = Field(default_factory=list, max_length=64, json_schema_extra=list_map("name"))
    """What the registry answered, per entry."""
    looked_up: Word = ""
    """When the registry was last asked on the schedule of the update policy, RFC 3339."""
    resolved: Word = ""
    """``3/4``: models whose manifest is known, of all."""
    total_bytes: Bytes = 0
    """Bytes of all resolved models."""
