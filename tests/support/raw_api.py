"""Plain requests to an API server, to see exactly what it answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from kubernetes import config
from kubernetes.client import ApiClient

from ollama_fleet.api import names

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"

_PLURALS: Final = {
    "OllamaDeployment": "ollamadeployments",
    "ModelSet": "modelsets",
    "NodeVRAMReport": "nodevramreports",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and JSON of an answer."""

    code: int
    document: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.document.get("message", ""))

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(field, message) of every fault that the server names."""
        found = self.document.get("details", {}).get("causes", [])
        return [(cause.get("field", ""), cause.get("message", "")) for cause in found]


class RawApi:
    """Requests with the rights of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client: ApiClient = config.new_client_from_config(config_file=str(kubeconfig))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        **query: str,
    ) -> Answer:
        method, url, headers, body, form = self._client.param_serialize(
            method,
            f"{path}?{urlencode(query)}" if query else path,
            header_params={"Content-Type": content_type, "Accept": accept},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self._client.call_api(method, url, headers, body, form)
        return Answer(answer.status, json.loads(answer.read()))

    def create(self, document: dict[str, Any], **query: str) -> Answer:
        return self.call("POST", collection(document), document, **{"fieldValidation": "Strict", **query})

    def apply(self, document: dict[str, Any], manager: str, **query: str) -> Answer:
        return self.call("PATCH", location(document), document, content_type=APPLY, fieldManager=manager, **query)

    def delete(self, document: dict[str, Any]) -> None:
        assert self.call("DELETE", location(document)).code == 200


def collection(document: dict[str, Any]) -> str:
    namespace = document["metadata"].get("namespace")
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.API_VERSION}{scope}/{_PLURALS[document['kind']]}"


def location(document: dict[str, Any]) -> str:
    return f"{collection(document)}/{document['metadata']['name']}"
