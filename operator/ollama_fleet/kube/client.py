"""The API client: raw JSON in and out over the official client's connection and authentication."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ollama_fleet.kube.kinds import Kind

Json = dict[str, Any]


class KubeClient:
    """See each method. All raise errors of :mod:`ollama_fleet.kube.errors`."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """The object, or None if there is none."""
        raise NotImplementedError

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        limit: int = 500,
    ) -> tuple[list[Json], str]:
        """All objects, read in chunks of ``limit``, and the collection's resourceVersion."""
        raise NotImplementedError

    async def apply(self, obj: Mapping[str, Any], *, force: bool = True) -> Json:
        """Server-side apply as the operator's field manager; unknown fields are errors."""
        raise NotImplementedError

    async def apply_status(
        self, kind: Kind, namespace: str | None, name: str, status: Mapping[str, Any], *, uid: str
    ) -> Json:
        """Make ``status`` the whole of what this operator says; Conflict if the uid is another."""
        raise NotImplementedError

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Any,
        *,
        content_type: str,
        subresource: str | None = None,
    ) -> Json:
        """Any other patch; ``content_type`` is one of the module's constants."""
        raise NotImplementedError

    async def create(self, obj: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """POST; with ``dry_run`` admission runs and nothing is stored."""
        raise NotImplementedError

    async def replace(self, obj: Mapping[str, Any]) -> Json:
        """PUT; with ``metadata.resourceVersion`` it fails with Conflict when stale."""
        raise NotImplementedError

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> bool:
        """Delete exactly this object: True if asked to go, False if it had gone; Conflict if it is another."""
        raise NotImplementedError

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
    ) -> AsyncIterator[tuple[str, Json]]:
        """(type, object) with type ADDED, MODIFIED, DELETED or BOOKMARK, until the server ends the stream."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError


async def connect(*, kubeconfig: str | None = None, context: str | None = None, **_options: Any) -> KubeClient:
    """In-cluster when there is a service account and no ``kubeconfig``, else by kubeconfig."""
    raise NotImplementedError
