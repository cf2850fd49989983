"""The faults of the fake registry, as a client meets them."""

from collections.abc import AsyncIterator

import httpx
import pytest

from testbed.fakes.registry import FakeRegistry
from testbed.fakes.registry_faults import Fault

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
    registry.faults = [Fault(reset_after=100_000)]
    count, error = await received(http, path(registry))
    assert count <= 100_000
    assert error is not None
    assert await received(http, path(registry)) == (len(CONTENT), None)


async def test_a_stall(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults = [Fault(stall_after=70_000)]
    assert await received(http, path(registry), timeout=0.3) == (70_000, httpx.ReadTimeout)


async def test_a_short_body(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults = [Fault(short=10)]
    assert await received(http, path(registry)) == (len(CONTENT) - 10, httpx.RemoteProtocolError)


async def test_wrong_bytes(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults = [Fault(corrupt=True)]
    wrong = (await http.get(path(registry))).content
    assert wrong != CONTENT
    assert wrong[1:] == CONTENT[1:]
    assert (await http.get(path(registry))).content == CONTENT


async def test_refusals_that_end(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.faults = [Fault(status=429, headers={"Retry-After": "7"}), Fault(status=502)]
    answers = [await http.get(path(registry)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 502, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [request.path for request in registry.requests] == [path(registry)] * 3


async def test_faults_of_chosen_requests(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.fault_for = lambda request: Fault(status=503) if request.method == "HEAD" else None
    assert (await http.head(path(registry))).status_code == 503
    assert (await http.get(path(registry))).status_code == 200


async def test_manifests_without_digests(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    digest = registry.add_model(b"weights", repository="library/x")
    registry.behaviour.by_digest = False
    assert (await http.get(f"/v2/library/x/manifests/{digest}")).status_code == 500
    assert (await http.get("/v2/library/x/manifests/latest")).status_code == 200


async def test_ranges_are_ignored(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.behaviour.ranges = False
    answer = await http.get(path(registry), headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_a_redirect(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.behaviour.redirect_to = "http://127.0.0.1:1"
    answer = await http.get(path(registry))
    assert (answer.status_code, answer.headers["Location"]) == (307, f"http://127.0.0.1:1{path(registry)}")


async def test_a_token_is_asked_for(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.behaviour.update({"bearer": "t0ken", "password": "robot:secret"})
    challenged = await http.get(path(registry))
    assert challenged.status_code == 401
    assert challenged.headers["WWW-Authenticate"] == (
        f'Bearer realm="{registry.url}/token",service="fake",scope="repository:library/x:pull"'
    )
    assert (await http.get("/token", auth=("robot", "wrong"))).status_code == 401
    token = (await http.get("/token", auth=("robot", "secret"))).json()["token"]
    answer = await http.get(path(registry), headers={"Authorization": f"Bearer {token}"})
    assert answer.content == CONTENT


async def test_a_password_is_asked_for(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    registry.behaviour.password = "robot:secret"
    challenged = await http.get(path(registry))
    assert (challenged.status_code, challenged.headers["WWW-Authenticate"]) == (401, 'Basic realm="fake"')
    assert (await http.get(path(registry), auth=("robot", "secret"))).content == CONTENT


async def test_control_over_http(registry: FakeRegistry, http: httpx.AsyncClient) -> None:
    assert (await http.post("/_fake/behaviour", json={"missing": True})).json()["missing"] is True
    assert (await http.get(path(registry))).status_code == 404
    await http.post("/_fake/behaviour", json={"missing": False})
    assert len((await http.post("/_fake/faults", json=[{"status": 503}, {"corrupt": True}])).json()) == 2
    assert [(await http.get(path(registry))).status_code for _ in range(2)] == [503, 200]
    assert (await http.get("/_fake/requests")).json() == [{"method": "GET", "path": path(registry)}] * 3
    assert (await http.post("/_fake/behaviour", json={"mising": True})).status_code == 400
    assert (await http.post("/_fake/faults", json=[{"statuss": 503}])).status_code == 400
