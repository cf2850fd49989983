"""The processes of a real Ollama: which weights they serve, and that none of them outlives a test."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from ollama_fleet.agent.runners import weights_of
from testbed.models import push
from testbed.ollama_process import VERSIONS, real_ollama

pytestmark = pytest.mark.e2e

_END_SECONDS = 5
"""The engine notices a moment later that its Ollama is gone."""


def session(leader: int) -> list[int]:
    """Processes that run in the session of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def file_of_weights(image: push.Image) -> str:
    layers = json.loads(image.manifest)["layers"]
    (digest,) = [layer["digest"] for layer in layers if layer["mediaType"] == "application/vnd.ollama.image.model"]
    return str(digest)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_process_of_a_model_names_its_weights_and_ends_with_a_killed_ollama(tmp_path: Path, version: str) -> None:
    image = push.image("chat")
    push.into_store(image, tmp_path / "models", "chat")
    with real_ollama(version, tmp_path) as server:
        httpx.post(f"{server.url}/api/generate", json={"model": "chat", "stream": False}, timeout=60).raise_for_status()
        ollama, engine = sorted(session(server.pid))
        assert (weights_of(ollama), weights_of(engine)) == (None, file_of_weights(image))
        os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    while session(server.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session(server.pid) == []
