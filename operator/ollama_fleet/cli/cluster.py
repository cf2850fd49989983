"""Reading the cluster through kubectl: the same context, credentials and plugins that people already use."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_TIMEOUT_SECONDS: Final = 30
_LIMIT_BYTES: Final = 64 * 2**20


class CannotRead(Exception):
    """The cluster cannot be read; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as kubectl reaches it."""

    options: tuple[str, ...] = ()
    """Options passed on to kubectl, e.g. ``--context=prod``."""

    def list(self, kind: str, *, namespace: str | None, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind (plural with group), in one namespace, or in all for None. Raises CannotRead."""
        scope = ["--all-namespaces"] if namespace is None else ["--namespace", namespace]
        labelled = ["--selector", selector] if selector else []
        document = json.loads(self._run(["get", kind, *scope, *labelled, "-o", "json"]))
        items: list[dict[str, Any]] = document["items"]
        return items

    def namespace(self) -> str:
        """The namespace of the current context."""
        found = self._run(["config", "view", "--minify", "-o", "jsonpath={..namespace}"])
        return found.strip() or "default"

    def _run(self, arguments: Sequence[str]) -> str:
        if shutil.which("kubectl") is None:
            raise CannotRead("kubectl is not on the PATH: install it, kubectl-ollama reads the cluster through it")
        command = ["kubectl", *self.options, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)  # noqa: S603 - no shell
        except subprocess.TimeoutExpired:
            raise CannotRead(f"the cluster does not answer within {_TIMEOUT_SECONDS} s: check the context") from None
        if done.returncode:
            raise CannotRead(done.stderr.decode(errors="replace").strip()[:1000])
        if len(done.stdout) > _LIMIT_BYTES:
            raise CannotRead("the answer is too large: name a namespace")
        return done.stdout.decode()
