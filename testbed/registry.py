"""A real registry: CNCF distribution over plain HTTP, with its content in the test bed's directory."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from testbed.build import ensure
from testbed.controlplane import NotReady
from testbed.ports import free_ports
from testbed.processes import Processes
from testbed.state import claimed

_NAME: Final = "registry"
_READY_SECONDS: Final = 20


class Registry:
    """One registry; ``up`` and ``down`` may be repeated."""

    def __init__(self, processes: Processes, state: Path, *, address: str = "127.0.0.1") -> None:
        """``address`` is one of this machine that pods reach; the port is chosen once and kept."""
        self._processes = processes
        self._state = state / "registry"
        self._address = address

    @property
    def host(self) -> str:
        """``address:port``, as model references name it."""
        return f"{self._address}:{(self._state / 'port').read_text()}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}"

    def up(self) -> None:
        """Start it and wait until it answers. Raises NotReady."""
        self._state.mkdir(parents=True, exist_ok=True)
        port = self._state / "port"
        if not port.exists():
            port.write_text(str(free_ports(1, host=self._address)[0]))
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self._state / "content")}},
            "http": {"addr": self.host},
        }
        (self._state / "config.yaml").write_text(yaml.safe_dump(config))
        command: list[str | Path] = [ensure("registry") / "bin" / "registry", "serve", self._state / "config.yaml"]
        self._processes.start(_NAME, command, endpoint=self.url)
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise NotReady(f"the registry does not answer; see {self._processes.log(_NAME)}")
            time.sleep(0.05)

    def down(self) -> None:
        """Stop it; its content stays until the state directory goes."""
        self._processes.stop(_NAME)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def real_registry() -> Iterator[str]:
    """One in a directory of its own; yields ``http://HOST:PORT``. Raises NotReady."""
    with claimed("registry") as state:
        registry = Registry(Processes(state), state)
        registry.up()
        yield registry.url
