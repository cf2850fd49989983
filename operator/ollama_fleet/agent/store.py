"""The node's report in the API server."""

from dataclasses import dataclass
from typing import Any, Final

from ollama_fleet.agent.apiserver import ApiFailed, ApiServer, Json
from ollama_fleet.api import names
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus

KIND: Final = "NodeVRAMReport"
_PATH: Final = f"/apis/{names.API_VERSION}/nodevramreports"


@dataclass(slots=True)
class ReportStore:
    """Writes the status of one report, and makes the report if it is not there."""

    api: ApiServer
    node: str
    generation: int = -1
    """Of the report's spec as last seen."""

    async def write(self, status: NodeVRAMReportStatus) -> None:
        """Raises ApiFailed."""
        try:
            await self._write(status)
        except ApiFailed as error:
            if error.status != 404:
                raise
            await self.api.apply(f"{_PATH}/{self.node}", self._new())
            await self._write(status)

    async def _write(self, status: NodeVRAMReportStatus) -> None:
        found = await self.api.apply(f"{_PATH}/{self.node}/status", {**self._base(), "status": status.to_wire()})
        self.generation = _generation(found)

    def _new(self) -> Json:
        """Goes with its node. Without a token that names the node it stays."""
        name, uid = self.api.account.node()
        metadata: dict[str, Any] = {"name": self.node}
        if name == self.node and uid:
            metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]
        return {**self._base(), "metadata": metadata}

    def _base(self) -> Json:
        return {"apiVersion": names.API_VERSION, "kind": KIND, "metadata": {"name": self.node}}


def _generation(found: Json) -> int:
    try:
        return int(found["metadata"]["generation"])
    except (KeyError, TypeError, ValueError):
        return -1
