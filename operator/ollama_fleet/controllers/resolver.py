"""Looking models up in their registries, with the credentials of the ModelSet's namespace."""

import base64
from dataclasses import dataclass, replace

from ollama_fleet.api.modelset import ModelSetSpec, ModelSpec, ResolvedModel, SourceSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.references import (
    DEFAULT_REGISTRY,
    InvalidReference,
    ModelReference,
    parse_reference,
)
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.store.credentials import DockerConfig, tls_context
from ollama_fleet.store.errors import SecretUnusable, StoreError
from ollama_fleet.store.registry import RegistryClient


@dataclass(slots=True)
class RegistryResolver:
    """Resolves entries of ModelSets; every failure becomes an answer with a reason."""

    client: KubeClient

    def reference(self, spec: ModelSetSpec, model: ModelSpec) -> str:
        """The full registry reference of an entry; as written where it cannot be parsed."""
        try:
            return str(_reference(spec, model))
        except InvalidReference:
            return model.model or model.name

    async def resolve(self, namespace: str, spec: ModelSetSpec, model: ModelSpec) -> ResolvedModel:
        """Ask the registry for the entry's manifest."""
        written = self.reference(spec, model)
        try:
            reference = _reference(spec, model)
            async with await self._registry(namespace, spec.source) as registry:
                found = await registry.resolve(reference)
        except InvalidReference as error:
            return _failed(model, written, Reason.INVALID_SPEC, str(error))
        except StoreError as error:
            return _failed(model, written, error.reason, str(error))
        return ResolvedModel(name=model.name, reference=written, digest=found.digest, size=found.size, ready=True)

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


def _reference(spec: ModelSetSpec, model: ModelSpec) -> ModelReference:
    source = spec.source or SourceSpec()
    written = parse_reference(model.model or model.name, registry=source.registry or DEFAULT_REGISTRY)
    return replace(
        written,
        digest=model.digest or written.digest,
        scheme="http" if source.insecure else written.scheme,
    )


def _failed(model: ModelSpec, reference: str, reason: Reason, message: str) -> ResolvedModel:
    return ResolvedModel(name=model.name, reference=reference, reason=reason, message=message[:512])
