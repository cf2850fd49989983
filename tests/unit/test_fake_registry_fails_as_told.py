"""The faults of the fake registry, as a client meets them."""

from collections.abc import AsyncIterator

import httpx
import pytest

from testbed.fakes.registry import FakeRegistry

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.add_blob(CONTENT)
        yield registry


@pytest.fixture
async def http(registry: FakeRegistry) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=registry.url, timeout=5) as http:
        yield http


def path(registry: FakeRegistry) -> str:
    return f"/v2/library/x/blobs/{registry.add_blob(CONTENT)}"


async def received(http: httpx.AsyncClient, path: str, timeout: float = 5) -> tuple[int, type[Exception] | None]:
    count = 0
    try:
        async with http.stream("GET", path, timeout=timeout) as answer:
            async for part in answer.aiter_raw():
                count += len(part)
    except httpx.TransportError as error:
        return count, type(error)
    return count, None


async def test_a_reset_after_some_bytes_and_then_no_more(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.update({"resets": 1, "reset_after": 100_000})
    count, error = await received(http, path(registry))
    assert count <= 100_000
    assert error is not None
    assert await received(http, path(registry)) == (len(CONTENT), None)


async def test_a_stall(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.update({"stalls": 1, "stall_after": 70_000})
    assert await received(http, path(registry), timeout=0.3) == (70_000, httpx.ReadTimeout)


async def test_a_short_body(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.short = 1
    assert await received(http, path(registry)) == (len(CONTENT) // 2, httpx.RemoteProtocolError)


async def test_wrong_bytes(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.corrupt = 1
    wrong = (await http.get(path(registry))).content
    assert wrong != CONTENT
    assert wrong[1:] == CONTENT[1:]
    assert (await http.get(path(registry))).content == CONTENT


@pytest.mark.parametrize(
    ("faults", "status", "header"),
    [
        ({"too_many": 2, "retry_after": 7}, 429, ("Retry-After", "7")),
        ({"errors": 2, "error_status": 502}, 502, None),
    ],
)
async def test_refusals_that_end(
    registry: FakeRegistry,
    http: httpx.AsyncClient,
    faults: dict[str, int],
    status: int,
    header: tuple[str, str] | None,
) -> None:
    registry.faults.update(faults)
    answers = [await http.get(path(registry)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert header is None or answers[0].headers[header[0]] == header[1]
    assert registry.count[f"GET {path(registry)}"] == 3


async def test_ranges_are_ignored(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.ignore_range = True
    answer = await http.get(path(registry), headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_a_redirect(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.redirect_to = "http://127.0.0.1:1"
    answer = await http.get(path(registry))
    assert (answer.status_code, answer.headers["Location"]) == (307, f"http://127.0.0.1:1{path(registry)}")


async def test_a_token_is_asked_for(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults.update({"bearer": True, "password": "robot:secret"})
    challenged = await http.get(path(registry))
    assert challenged.status_code == 401
    assert challenged.headers["WWW-Authenticate"] == (
        f'Bearer realm="{registry.url}/token",service="fake",scope="repository:library/x:pull"'
    )
    assert (await http.get("/token", auth=("robot", "wrong"))).status_code == 401
    token = (await http.get("/token", auth=("robot", "secret"))).json()["token"]
    answer = await http.get(path(registry), headers={"Authorization": f"Bearer {token}"})
    assert answer.content == CONTENT


async def test_control_over_http(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    assert (await http.post("/_fake/faults", json={"missing": True})).json()["missing"] is True
    assert (await http.get(path(registry))).status_code == 404
    assert (await http.get("/_fake/count")).json() == {f"GET {path(registry)}": 1}
    assert (await http.post("/_fake/faults", json={"mising": True})).status_code == 400
