"""A fake Ollama server. ``tests/contract`` holds it to the real one."""

from testbed.fakes.ollama.behaviour import Behaviour
from testbed.fakes.ollama.library import FakeModel
from testbed.fakes.ollama.server import FakeOllama

__all__ = ["Behaviour", "FakeModel", "FakeOllama"]
