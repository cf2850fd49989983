"""Ollama versions: how they compare, and which engine generation one belongs to."""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Generation(Enum):
    """Two ways in which Ollama runs models; they differ in sizing, variables and failure modes."""

    IN_PROCESS = "in-process"
    """Up to 0.24: engines compiled into Ollama."""
    LLAMA_SERVER = "llama-server"
    """From 0.30: each model is a llama-server subprocess."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """``major.minor.patch``."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Raises ValueError for anything but three numbers with dots."""
        major, minor, patch = (int(part) for part in text.split("."))
        return cls(major, minor, patch)

    @property
    def generation(self) -> Generation:
        """The engine generation; 0.25 to 0.29 were never released."""
        return Generation.LLAMA_SERVER if self >= LLAMA_SERVER else Generation.IN_PROCESS

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


LLAMA_SERVER: Final = Version(0, 30, 0)
FLOOR: Final = Version(0, 20, 3)
"""Older versions are not supported: their scheduler and their pulls behave differently."""
DEFAULT: Final = Version(0, 32, 3)
"""What runs when the OllamaDeployment names no version: the newest that the tests run."""
