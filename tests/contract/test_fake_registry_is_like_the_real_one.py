"""The same requests to the fake registry and to the CNCF registry, both with the same model."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from testbed.fakes.redirect import redirecting
from testbed.fakes.registry import FakeRegistry
from testbed.models import push
from testbed.ollama_process import VERSIONS, real_ollama
from testbed.registry import real_registry

NOBODY = f"sha256:{'0' * 64}"
MADE = push.image("chat")


@dataclass(frozen=True)
class Registry:
    url: str
    http: httpx.AsyncClient


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "real":
        with real_registry() as url:
            assert push.into_registry(MADE, url, "library/chat") == MADE.digest
            async with httpx.AsyncClient(base_url=url) as http:
                yield Registry(url, http)
        return
    async with FakeRegistry() as fake, httpx.AsyncClient(base_url=fake.url) as http:
        assert fake.add(MADE, "library/chat") == MADE.digest
        yield Registry(fake.url, http)


async def test_version_check(registry: Registry) -> None:
    answer = await registry.http.get("/v2/")
    assert (answer.status_code, answer.text, answer.headers["Content-Type"]) == (200, "{}", "application/json")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", ["latest", MADE.digest], ids=["tag", "digest"])
async def test_manifest(registry: Registry, reference: str, method: str) -> None:
    answer = await registry.http.request(
        method, f"/v2/library/chat/manifests/{reference}", headers={"Accept": push.MANIFEST_TYPE}
    )
    assert answer.status_code == 200
    assert answer.content == (MADE.manifest if method == "GET" else b"")
    assert answer.headers["Content-Length"] == str(len(MADE.manifest))
    assert answer.headers["Content-Type"] == push.MANIFEST_TYPE
    assert answer.headers["Docker-Content-Digest"] == MADE.digest


@pytest.mark.parametrize(
    ("path", "status", "code", "detail"),
    [
        ("chat/manifests/nope", 404, "MANIFEST_UNKNOWN", "unknown tag=nope"),
        ("nope/manifests/latest", 404, "MANIFEST_UNKNOWN", "unknown tag=latest"),
        (
            f"chat/manifests/{NOBODY}",
            404,
            "MANIFEST_UNKNOWN",
            f"unknown manifest name=library/chat revision={NOBODY}",
        ),
        (f"chat/blobs/{NOBODY}", 404, "BLOB_UNKNOWN", NOBODY),
        ("chat/blobs/sha256:xyz", 400, "DIGEST_INVALID", "invalid checksum digest length"),
    ],
)
async def test_errors(registry: Registry, path: str, status: int, code: str, detail: str) -> None:
    answer = await registry.http.get(f"/v2/library/{path}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    (error,) = json.loads(answer.content)["errors"]
    assert (error["code"], error["detail"]) == (code, detail)
    assert error["message"]
    assert (await registry.http.head(f"/v2/library/{path}")).status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_blob(registry: Registry, method: str) -> None:
    weights = MADE.blobs[MADE.weights]
    answer = await registry.http.request(method, f"/v2/library/chat/blobs/{MADE.weights}")
    assert (answer.status_code, answer.content) == (200, weights if method == "GET" else b"")
    assert answer.headers["Content-Length"] == str(len(weights))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Docker-Content-Digest"] == MADE.weights


@pytest.mark.parametrize(
    ("span", "start", "end"), [("10-19", 10, 20), ("800000-", 800_000, None), ("0-9999999", 0, None)]
)
async def test_part_of_a_blob(registry: Registry, span: str, start: int, end: int | None) -> None:
    weights = MADE.blobs[MADE.weights]
    answer = await registry.http.get(f"/v2/library/chat/blobs/{MADE.weights}", headers={"Range": f"bytes={span}"})
    assert (answer.status_code, answer.content) == (206, weights[start:end])
    last = (end or len(weights)) - 1
    assert answer.headers["Content-Range"] == f"bytes {start}-{last}/{len(weights)}"


async def test_part_beyond_the_end_of_a_blob(registry: Registry) -> None:
    size = len(MADE.blobs[MADE.weights])
    answer = await registry.http.get(
        f"/v2/library/chat/blobs/{MADE.weights}", headers={"Range": f"bytes={size}-{size + 9}"}
    )
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


@pytest.mark.e2e
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_real_ollama_pulls_through_the_redirect(registry: Registry, tmp_path: Path, version: str) -> None:
    home = tmp_path / "ollama"
    home.mkdir()
    with real_ollama(version, home) as server:
        async with redirecting(registry.url) as url, httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            name = f"{urlsplit(url).netloc}/library/chat:latest"
            pulled = await http.post("/api/pull", json={"model": name, "insecure": True})
            assert json.loads(pulled.text.splitlines()[-1]) == {"status": "success"}
            (listed,) = (await http.get("/api/tags")).json()["models"]
    assert (listed["name"], f"sha256:{listed['digest']}") == (name, MADE.digest)
