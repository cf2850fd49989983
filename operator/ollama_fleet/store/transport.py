"""HTTP as registries need it: bounded bodies, and typed errors instead of the library's."""

import email.utils
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from ollama_fleet.store.errors import InvalidManifest, NotFound, RateLimited, StoreError, Unauthorized, Unreachable

RETRY_AFTER_LIMIT: Final = 3600.0
"""Seconds; a registry may not silence a puller for longer."""
_RETRY_AFTER_DEFAULT: Final = 10.0


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the library's errors into `Unreachable`."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise Unreachable(f"{what}: no answer in time ({type(error).__name__})") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # a host name may be none
        raise Unreachable(f"{what}: {type(error).__name__}: {error}") from error


async def read_bounded(response: httpx.Response, limit: int) -> bytes:
    """The body, at most ``limit`` bytes. Raises `InvalidManifest` when there is more."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise InvalidManifest(f"{response.url.host} answered with more than {limit} bytes")
    return bytes(body)


def refusal(response: httpx.Response, what: str) -> StoreError:
    """The error that a status other than 2xx stands for.

    Behind a redirect, 401, 403 and 404 say that a signed address expired or a copy is late: a new attempt gets a new
    address, so they are no verdict about the model.
    """
    status = response.status_code
    if status == 429:
        return RateLimited(f"{what}: too many requests (429)", retry_after(response.headers.get("Retry-After")))
    if not response.history:
        if status == 404:
            return NotFound(f"{what}: {response.url.host} does not know it (404)")
        if status in {401, 403}:
            return Unauthorized(f"{what}: {response.url.host} refuses access ({status})")
    return Unreachable(f"{what}: {response.url.host} answered {status}", status)


def retry_after(header: str | None) -> float:
    """Seconds to wait: the header is a number of seconds or a date."""
    if header is None:
        return _RETRY_AFTER_DEFAULT
    if header.strip().isdecimal():
        return min(float(header), RETRY_AFTER_LIMIT)
    try:
        moment = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return _RETRY_AFTER_DEFAULT
    return min(max(0.0, moment - time.time()), RETRY_AFTER_LIMIT)
