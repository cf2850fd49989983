"""kopf's login with the same credentials as the rest of the operator."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import kopf

from ollama_fleet.kube.transport import Credentials

LIFETIME: Final = timedelta(minutes=30)
"""Logging in again reads the token again; kubelet renews a token after 48 minutes of its hour."""
MIN_INTERVAL: Final = 5.0
"""Seconds between logins: on a 401 kopf logs in again at once, which would be a hot loop."""


class Login:
    """What the ``on.login`` handler does."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``credentials`` are read at each login."""
        self._credentials = credentials
        self._clock = clock
        self._sleep = sleep
        self._last: float | None = None

    async def __call__(self) -> kopf.ConnectionInfo:
        """The connection; never equal to an earlier one, as kopf exits when refused credentials come back."""
        if self._last is not None:
            await self._sleep(max(0.0, self._last + MIN_INTERVAL - self._clock()))
        self._last = self._clock()
        await self._credentials.load()
        header = (await self._credentials.header()).get("Authorization", "")
        configuration = self._credentials.configuration
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            ca_data=None if configuration.ssl_ca_cert else configuration.ca_cert_data,
            insecure=not configuration.verify_ssl,
            scheme="Bearer",
            token=header.partition(" ")[2] or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            proxy_url=configuration.proxy,
            expiration=datetime.now(UTC) + LIFETIME,
        )
