"""What the demo needs of a cluster, whoever made it."""

from dataclasses import dataclass
from pathlib import Path

from testbed.fakes.gpus import NodeGpus


@dataclass(frozen=True, slots=True)
class DemoGpus:
    """Fake GPUs of the cluster's node."""

    node: NodeGpus
    image: str
    """Of the Ollama that believes in them."""


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
    gpus: DemoGpus | None
    """None where the nodes cannot be given any."""
    down: str = "make down"
