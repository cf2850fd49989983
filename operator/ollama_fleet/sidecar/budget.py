"""Memory for request bodies: a bound on all that are being read, wait for a slot or are on their way to Ollama."""

import contextlib
from collections.abc import Iterator
from http import HTTPStatus

from ollama_fleet.sidecar.refusals import Refused


class Share:
    """What one body takes, from its first byte until Ollama has it."""

    def __init__(self, budget: "Budget") -> None:
        """Made by the budget."""
        self.content = b""
        """The body that goes to Ollama."""
        self._budget = budget
        self._size = 0

    def grow(self, size: int) -> None:
        """So much has arrived. Raises Refused (503, busy) when there is no room."""
        if size - self._size > self._budget.free:
            text = "server busy: too many large requests at once; try again"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after=1, busy=True)
        self._resize(size)

    def hold(self, content: bytes) -> None:
        """From now on it is this."""
        self._resize(len(content))
        self.content = content

    def _resize(self, size: int) -> None:
        self._budget.free -= size - self._size
        self._size = size


class Budget:
    """Bytes for bodies. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        """All of it is free."""
        self.free = size

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """Room for one body, given back in the end if not before."""
        share = Share(self)
        try:
            yield share
        finally:
            share.hold(b"")
