"""The API client: raw JSON in and out, server-side apply, preconditions, typed errors.

Retrying is the caller's: a reconcile goes back to the work queue, an informer backs off for ever.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import aiohttp
from pydantic_core import from_json

from ollama_fleet.api import names
from ollama_fleet.kube import errors
from ollama_fleet.kube.kinds import Kind, kind_of
from ollama_fleet.kube.transport import Credentials, Json, Objects, OnRequest, Transport

APPLY: Final = "application/apply-patch+yaml"
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"

REQUEST_TIMEOUT: Final = 15.0
LIST_TIMEOUT: Final = 60.0
WATCH_SECONDS: Final = 300
"""The server ends a watch after this time; it goes on where it was."""
WATCH_STALL: Final = 75.0
"""A connection may be dead that is silent for longer. The server promises no bookmarks: mostly they come once a minute,
but for a kind in which nothing happens they may stay away."""
_MAX_EVENT: Final = 8 * 2**20

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Propagation = Literal["Background", "Foreground", "Orphan"]


class KubeClient:
    """Requests against one API server. Every method raises errors of :mod:`ollama_fleet.kube.errors`."""

    def __init__(self, transport: Transport, *, timeout: float = REQUEST_TIMEOUT, stall: float = WATCH_STALL) -> None:
        """Seconds: ``timeout`` holds for each request but lists and watches, ``stall`` for silence of a watch."""
        self.on_written: Callable[[Json], None] | None = None
        """Called with the server's answer to each write that stored something."""
        self._transport = transport
        self._timeout = timeout
        self._stall = stall

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        on_request: OnRequest | None = None,
        timeout: float = REQUEST_TIMEOUT,
        stall: float = WATCH_STALL,
    ) -> Self:
        """By the pod's service account, or by ``kubeconfig`` (default: ``$KUBECONFIG``) outside a cluster."""
        credentials = Credentials(kubeconfig=kubeconfig, context=context)
        await credentials.load()
        return cls(Transport(credentials, on_request=on_request), timeout=timeout, stall=stall)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """The object, or None if there is none."""
        try:
            return await self._call("GET", kind, kind.path(namespace, name), verb="get")
        except errors.NotFound:
            return None

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        limit: int = 500,
    ) -> tuple[Objects, str]:
        """All objects and the collection's resourceVersion, read in chunks of ``limit``.

        The items get the ``apiVersion`` and ``kind`` that the server leaves out.
        """
        items: Objects = []
        version = ""
        async for page, newest in self.pages(kind, namespace=namespace, label_selector=label_selector, limit=limit):
            items += page
            version = newest
        return items, version

    async def pages(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str | None = None, limit: int = 500
    ) -> AsyncGenerator[tuple[Objects, str], None]:
        """The chunks of a list, for callers that keep less than the whole; Gone if the list took too long."""
        query: dict[str, str] = {"limit": str(limit)}
        if label_selector:
            query["labelSelector"] = label_selector
        while True:
            page = await self._call("GET", kind, kind.path(namespace), verb="list", query=query, timeout=LIST_TIMEOUT)
            metadata = page.get("metadata") or {}
            found = page.get("items") or []
            for item in found:
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
            yield found, str(metadata.get("resourceVersion", ""))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def apply(self, obj: Mapping[str, Any], *, force: bool = True, dry_run: bool = False) -> Json:
        """Server-side apply as the operator's field manager.

        Fields left out since the last apply vanish, unknown fields are Invalid, and an apply that changes
        nothing leaves the resourceVersion alone. A ``metadata.uid`` in ``obj`` is a precondition.
        """
        kind, namespace, name = _identity(obj)
        return await self._write(
            "PATCH",
            kind,
            kind.path(namespace, name),
            verb="apply",
            query={"force": "true" if force else "false"},
            body=obj,
            content_type=APPLY,
            dry_run=dry_run,
        )

    async def apply_status(
        self, kind: Kind, namespace: str | None, name: str, status: Mapping[str, Any], *, uid: str
    ) -> Json:
        """Make ``status`` the whole status of the object with this ``uid``; Conflict if another stands there.

        A JSON patch: what is left out vanishes, and the uid is tested. Server-side apply would be neither safe
        nor cheaper here: on the status of a custom resource the API server ignores a wrong uid.
        """
        body = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            return await self.patch(kind, namespace, name, body, content_type=JSON_PATCH, subresource="status")
        except errors.Invalid as error:
            if error.causes:
                raise
            # A failed test is a 422 that names nothing; an invalid status names its fields.
            raise errors.Conflict(f"{kind.kind} {name}: not the object with uid {uid}", code=422) from error

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
        """A patch that is no apply; ``content_type`` is one of this module's constants.

        ``metadata.uid`` and ``metadata.resourceVersion`` in a merge patch are preconditions.
        """
        return await self._write(
            "PATCH",
            kind,
            kind.path(namespace, name, subresource),
            verb="patch",
            body=body,
            content_type=content_type,
        )

    async def create(self, obj: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create; AlreadyExists if the name is taken. ``dry_run``: admission runs, nothing is stored."""
        kind, namespace, _ = _identity(obj)
        return await self._write("POST", kind, kind.path(namespace), verb="create", body=obj, dry_run=dry_run)

    async def replace(self, obj: Mapping[str, Any]) -> Json:
        """Replace the whole object; Conflict if its ``metadata.resourceVersion`` is not the newest."""
        kind, namespace, name = _identity(obj)
        return await self._write("PUT", kind, kind.path(namespace, name), verb="update", body=obj)

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
        propagation: Propagation = "Background",
    ) -> bool:
        """Delete exactly the object with this ``uid`` (and ``resource_version``).

        True when it was asked to go, False when there was none; Conflict when another stands there.
        """
        preconditions = {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": preconditions,
        }
        try:
            await self._call("DELETE", kind, kind.path(namespace, name), verb="delete", body=body)
        except errors.NotFound:
            return False
        return True

    async def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
    ) -> AsyncGenerator[tuple[EventType, Json], None]:
        """Changes after ``resource_version`` until the server ends the stream, BOOKMARKs included.

        Gone when the version is too old; Silence after the client's ``stall`` seconds without a word.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if label_selector:
            query["labelSelector"] = label_selector
        path = f"{kind.path(namespace)}?{urlencode(query)}"
        async with self._transport.stream(path, resource=kind.plural, stall=self._stall) as stream:
            async for line in _lines(stream):
                yield _event(line)

    async def _write(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        verb: str,
        body: Any,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        dry_run: bool = False,
    ) -> Json:
        query = {"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict", **(query or {})}
        if dry_run:
            query["dryRun"] = "All"
        answer = await self._call(method, kind, path, verb=verb, query=query, body=body, content_type=content_type)
        if self.on_written is not None and not dry_run:
            self.on_written(answer)
        return answer

    async def _call(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        verb: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Json:
        return await self._transport.json(
            method,
            f"{path}?{urlencode(query)}" if query else path,
            verb=verb,
            resource=kind.plural,
            body=body,
            content_type=content_type,
            timeout=timeout or self._timeout,
        )


def _identity(obj: Mapping[str, Any]) -> tuple[Kind, str | None, str]:
    metadata = obj["metadata"]
    return kind_of(obj), metadata.get("namespace"), metadata["name"]


async def _lines(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Complete lines; one longer than 8 MiB (etcd stores at most 1.5 MiB an object) is a broken stream."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
        for line in lines:
            if line:
                yield line
        if len(rest) > _MAX_EVENT:
            raise errors.Unavailable(f"a watch event is larger than {_MAX_EVENT} bytes")


def _event(line: bytes) -> tuple[EventType, Json]:
    try:
        event = from_json(line)
        kind, obj = event["type"], event["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Unavailable(f"not a watch event: {error}") from error
    if kind == "ERROR":
        raise errors.from_status(int(obj.get("code") or 500), obj)
    return kind, obj
