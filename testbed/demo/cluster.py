"""What the demo needs of a cluster, whoever made it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """A cluster that is up, with the images and a model at hand."""

    kubeconfig: Path
    helm: Path
    fleet_image: str
    ollama_repository: str
    ollama_version: str
    registry: str
    """Registry of the demo's model, empty for Ollama's own."""
    model: str
    """Reference of the model in that registry."""
    down: str = "make down"
