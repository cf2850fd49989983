"""Leader election by Lease."""

from collections.abc import Callable


class LeaseThread:
    """Holds the Lease in a thread with its own loop and connection.

    ``on_started`` and ``on_lost`` are called in that thread; ``on_lost`` must end the process.
    """

    def __init__(
        self,
        *,
        namespace: str,
        name: str,
        identity: str,
        on_started: Callable[[], None],
        on_lost: Callable[[], None],
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin to campaign."""
        raise NotImplementedError

    def release(self, *, timeout: float = 5.0) -> None:
        """Give the Lease back (after the workers stopped) and end the thread."""
        raise NotImplementedError
