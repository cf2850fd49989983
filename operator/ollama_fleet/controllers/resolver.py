"""Looking models up in their registries, with the credentials of the ModelSet's namespace."""

import base64
from dataclasses import dataclass, replace

from ollama_fleet.api.group import Modelfile
from ollama_fleet.api.modelheader import ModelHeader
from ollama_fleet.api.modelset import ModelfileSpec, ModelSetSpec, ModelSpec, ResolvedModel, SourceSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.references import InvalidReference, ModelReference, parse_reference
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.planning.answers import adapter_reference, answers, model_reference
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.portable import to_document
from ollama_fleet.store.credentials import DockerConfig, tls_context
from ollama_fleet.store.derive import check_modelfile
from ollama_fleet.store.errors import SecretUnusable, StoreError
from ollama_fleet.store.headers import remote_shape
from ollama_fleet.store.manifest import LAYER_MODEL, ResolvedManifest, require_model
from ollama_fleet.store.registry import RegistryClient


@dataclass(slots=True)
class RegistryResolver:
    """Resolves entries of ModelSets; every failure becomes an answer with a reason."""

    client: KubeClient

    async def resolve(
        self, namespace: str, spec: ModelSetSpec, model: ModelSpec, *, before: ResolvedModel | None
    ) -> ResolvedModel:
        """Check the entry, and ask the registry unless ``before`` is its answer to the same question."""
        try:
            parse_reference(model.name)
            check_modelfile(_modelfile(model), model.context_length)
            if before is not None and answers(before, spec, model):
                return before
            return await self._ask(namespace, spec, model)
        except InvalidReference as error:
            return _failed(model, Reason.INVALID_SPEC, str(error))
        except StoreError as error:
            return _failed(model, error.reason, str(error))

    async def _ask(self, namespace: str, spec: ModelSetSpec, model: ModelSpec) -> ResolvedModel:
        reference = model_reference(spec, model)
        async with await self._registry(namespace, spec.source) as registry:
            found = await registry.resolve(reference)
            require_model(found.manifest, str(reference))
            adapter = await self._adapter(registry, spec, model)
            header, message = await _header(registry, reference, found)
        return ResolvedModel(
            name=model.name,
            reference=str(reference),
            digest=found.digest,
            weights=found.manifest.of_type(LAYER_MODEL)[0].digest,
            adapter=adapter.reference,
            size=found.size + adapter.size,
            ready=True,
            header=header,
            message=message,
        )

    async def _adapter(self, registry: RegistryClient, spec: ModelSetSpec, model: ModelSpec) -> "_Adapter":
        """The adapter pinned by its digest, so that all servers use the same one."""
        reference = adapter_reference(spec, model)
        if reference is None:
            return _Adapter("", 0)
        found = await registry.resolve(reference)
        return _Adapter(str(replace(reference, digest=found.digest)), found.size)

    async def _registry(self, namespace: str, source: SourceSpec | None) -> RegistryClient:
        pull_secret = source and source.pull_secret_ref
        ca_secret = source and source.ca_secret_ref
        config = await self._secret(namespace, pull_secret.name, ".dockerconfigjson") if pull_secret else None
        authority = await self._secret(namespace, ca_secret.name, "ca.crt") if ca_secret else None
        docker_config = DockerConfig.parse(config) if config is not None else DockerConfig({})
        return RegistryClient(
            docker_config=lambda: docker_config,
            tls=tls_context(authority) if authority is not None else None,
        )

    async def _secret(self, namespace: str, name: str, key: str) -> bytes:
        try:
            secret = await self.client.get(kinds.SECRET, namespace, name)
        except errors.Forbidden as error:
            raise SecretUnusable(
                f"the operator may not read Secret {name}: bind the chart's pull-secrets ClusterRole to it "
                f"in namespace {namespace}, or set rbac.readSecretsEverywhere"
            ) from error
        if secret is None:
            raise SecretUnusable(f"Secret {name} does not exist in namespace {namespace}: create it")
        encoded = secret.get("data", {}).get(key)
        if encoded is None:
            raise SecretUnusable(f"Secret {name} has no key {key}: add it")
        return base64.b64decode(encoded)


async def _header(
    registry: RegistryClient, reference: ModelReference, found: ResolvedManifest
) -> tuple[ModelHeader | None, str]:
    """The model's header, or why there is none: such a model is served, but not sized."""
    try:
        return to_document(await remote_shape(registry, reference, found.manifest)), ""
    except InvalidHeader as error:
        return None, f"its memory cannot be estimated: {error}"


@dataclass(frozen=True, slots=True)
class _Adapter:
    reference: str
    size: int


def _modelfile(model: ModelSpec) -> Modelfile:
    spec = model.modelfile or ModelfileSpec()
    return Modelfile(parameters=spec.parameters or {}, system=spec.system, template=spec.template)


def _failed(model: ModelSpec, reason: Reason, message: str) -> ResolvedModel:
    return ResolvedModel(name=model.name, reference=model.model or model.name, reason=reason, message=message[:512])
