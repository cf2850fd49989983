"""The registry client: what it asks, whom it tells its credentials, what its errors say."""

import base64
import json
from pathlib import Path

import httpx
import pytest

from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.references import parse_reference
from ollama_fleet.store.authentication import Challenge
from ollama_fleet.store.credentials import Credentials, DockerConfig, read_certificates, read_docker_config, tls_context
from ollama_fleet.store.errors import (
    DigestMismatch,
    InvalidManifest,
    NotFound,
    RateLimited,
    SecretUnusable,
    Unauthorized,
    Unreachable,
)
from ollama_fleet.store.manifest import Descriptor
from ollama_fleet.store.registry import RegistryClient
from ollama_fleet.store.transport import retry_after
from testbed.fakes.registry import FakeRegistry
from testbed.fakes.registry_faults import Fault
from testbed.models.push import digest_of
from tests.support.store_support import client, reference

USER, PASSWORD = Credentials("robot", "s3cret"), "robot:s3cret"


def config_for(registry: FakeRegistry) -> DockerConfig:
    return DockerConfig({registry.address: USER})


async def test_a_tag_is_resolved_and_its_size_summed() -> None:
    async with FakeRegistry() as registry, client() as http:
        wanted = registry.add_model(b"weights")
        found = await http.resolve(reference(registry))
        assert found.digest == wanted
        assert found.size == sum(map(len, registry.blobs.values()))
        assert registry.count() == {"manifests": 1}


async def test_a_digest_is_asked_for_by_itself() -> None:
    async with FakeRegistry() as registry, client() as http:
        wanted = registry.add_model(b"weights")
        registry.add_model(b"newer weights")  # the tag moved on
        assert (await http.resolve(reference(registry, digest=wanted))).digest == wanted
        assert registry.count() == {"manifests": 1}


async def test_a_registry_that_knows_no_digests_is_asked_for_the_tag() -> None:
    async with FakeRegistry() as registry, client() as http:
        wanted = registry.add_model(b"weights")
        registry.behaviour.by_digest = False
        assert (await http.resolve(reference(registry, digest=wanted))).digest == wanted
        assert registry.count() == {"manifests": 2}


async def test_a_tag_that_moved_does_not_pass_for_the_pinned_digest() -> None:
    async with FakeRegistry() as registry, client() as http:
        now = registry.add_model(b"weights")
        with pytest.raises(DigestMismatch, match=now):
            await http.resolve(reference(registry, digest="sha256:" + "0" * 64))


async def test_a_body_that_is_not_what_the_digest_names_is_refused() -> None:
    async with FakeRegistry() as registry, client() as http:
        wanted = registry.add_model(b"weights")
        registry.fault_for = lambda _request: Fault(corrupt=True)
        with pytest.raises(DigestMismatch):
            await http.resolve(reference(registry, digest=wanted))
        with pytest.raises(DigestMismatch):
            await http.resolve(reference(registry))


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (404, NotFound, Reason.MODEL_NOT_FOUND),
        (403, Unauthorized, Reason.UNAUTHORIZED),
        (429, RateLimited, Reason.REGISTRY_UNREACHABLE),
        (500, Unreachable, Reason.REGISTRY_UNREACHABLE),
        (418, Unreachable, Reason.REGISTRY_UNREACHABLE),
    ],
)
async def test_every_status_has_its_error_and_reason(status: int, error: type[Exception], reason: Reason) -> None:
    async with FakeRegistry() as registry, client() as http:
        registry.fault_for = lambda _request: Fault(status=status)
        with pytest.raises(error, match=r"library/tiny:latest.*\b127\.0\.0\.1\b|429") as caught:
            await http.resolve(reference(registry))
        assert caught.value.reason is reason  # type: ignore[attr-defined]


async def test_a_refused_connection_is_unreachable() -> None:
    async with FakeRegistry() as registry:
        pass
    async with client() as http:
        with pytest.raises(Unreachable, match="ConnectError"):
            await http.resolve(reference(registry))


async def test_an_endless_manifest_is_cut() -> None:
    async with FakeRegistry() as registry, client() as http:
        registry.add_manifest(bytes(5 * 1024 * 1024), repository="library/tiny", tag="latest")
        with pytest.raises(InvalidManifest, match="more than 4194304 bytes"):
            await http.resolve(reference(registry))


async def test_a_token_is_fetched_once_and_used_again() -> None:
    async with FakeRegistry() as registry:
        registry.behaviour.update({"bearer": "t0ken", "password": PASSWORD})
        async with client(docker_config=lambda: config_for(registry)) as http:
            registry.add_model(b"weights")
            await http.resolve(reference(registry))
            await http.resolve(reference(registry))
        assert registry.count() == {"manifests": 3, "token": 1}
        token = next(request for request in registry.requests if request.path.startswith("/token"))
        assert "scope=repository%3Alibrary%2Ftiny%3Apull" in token.path
        assert "service=fake" in token.path


async def test_an_anonymous_token_needs_no_secret() -> None:
    async with FakeRegistry() as registry, client() as http:
        registry.behaviour.bearer = "t0ken"
        registry.add_model(b"weights")
        await http.resolve(reference(registry))


async def test_an_expired_token_is_renewed() -> None:
    async with FakeRegistry() as registry, client() as http:
        registry.add_model(b"weights")
        for token in ("one", "two"):
            registry.behaviour.bearer = token
            await http.resolve(reference(registry))
        assert registry.count() == {"manifests": 4, "token": 2}


async def test_basic_authentication_uses_the_secret() -> None:
    async with FakeRegistry() as registry:
        registry.behaviour.password = PASSWORD
        registry.add_model(b"weights")
        async with client(docker_config=lambda: config_for(registry)) as http:
            await http.resolve(reference(registry))
        async with client() as http:
            with pytest.raises(Unauthorized, match="no pull secret covers it"):
                await http.resolve(reference(registry))


async def test_rotated_credentials_count_without_a_restart() -> None:
    async with FakeRegistry() as registry:
        registry.add_model(b"weights")
        current = Credentials("robot", "old")
        async with client(docker_config=lambda: DockerConfig({registry.address: current})) as http:
            registry.behaviour.password = "robot:old"
            await http.resolve(reference(registry))
            registry.behaviour.password = PASSWORD
            with pytest.raises(Unauthorized):
                await http.resolve(reference(registry))
            current = USER
            await http.resolve(reference(registry))


async def test_wrong_credentials_are_tried_once() -> None:
    async with FakeRegistry() as registry:
        registry.behaviour.password = "robot:other"
        async with client(docker_config=lambda: config_for(registry)) as http:
            with pytest.raises(Unauthorized, match="refuses access"):
                await http.resolve(reference(registry))
        assert len(registry.requests) == 2


async def test_a_token_endpoint_without_tls_gets_no_password_of_a_tls_registry() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://evil.example/token"'})

    http = RegistryClient(docker_config=lambda: DockerConfig({"r.local": USER}))
    await http._http.aclose()
    http._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with http:
        with pytest.raises(Unauthorized, match="not an https address"):
            await http.resolve(parse_reference("r.local/a/b"))
    assert [request.url.host for request in sent] == ["r.local"]


TOKEN = {"realm": "https://a/token", "service": "s"}
SCOPE = {"scope": "repository:b/c:pull,push"}


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Negotiate, Basic realm="x"', "basic", {"realm": "x"}),
        ('Bearer realm="https://a/token",service="s", Basic realm="x"', "bearer", TOKEN),
        ('BASIC realm="a, Bearer realm", Bearer realm="https://a/token", service=s', "bearer", TOKEN),
        ('Bearer realm="https://a/token",scope="repository:b/c:pull,push"', "bearer", SCOPE),
        ("Negotiate dG9rZW4=", "negotiate", {}),
        ('="', "", {}),
    ],
)
def test_of_several_ways_to_log_in_a_known_one_is_taken(header: str, scheme: str, parameters: dict[str, str]) -> None:
    found = Challenge.parse(header)
    assert (found.scheme, {key: found.parameters.get(key) for key in parameters}) == (scheme, parameters)


async def test_a_token_endpoint_whose_name_is_none_is_unreachable() -> None:
    async with FakeRegistry() as registry, client() as http:
        challenge = {"WWW-Authenticate": 'Bearer realm="https://xn--/token"'}
        registry.fault_for = lambda _request: Fault(status=401, headers=challenge)
        with pytest.raises(Unreachable, match="IDNAError"):
            await http.resolve(reference(registry))


async def test_a_redirect_to_another_host_does_not_carry_the_password() -> None:
    async with FakeRegistry() as registry, FakeRegistry() as storage:
        registry.behaviour.password = PASSWORD
        registry.behaviour.redirect_to = f"http://localhost:{storage.port}"
        body = b"content"
        storage.add_blob(body)
        async with client(docker_config=lambda: config_for(registry)) as http:
            blob = Descriptor("x", digest_of(body), len(body))
            async with http.open_blob(reference(registry), blob, start=0, end=blob.size) as stream:
                assert b"".join([chunk async for chunk in stream.chunks]) == body
        assert registry.requests[-1].headers["authorization"] == USER.basic()
        assert "authorization" not in storage.requests[0].headers


async def test_another_range_than_asked_for_is_refused() -> None:
    async with FakeRegistry() as registry, client() as http:
        blob = Descriptor("x", registry.add_blob(b"0123456789"), 11)  # the manifest lies about the size
        with pytest.raises(Unreachable, match="another range"):
            async with http.open_blob(reference(registry), blob, start=1, end=5):
                pass


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 10.0),
        ("7", 7.0),
        ("999999", 3600.0),
        ("soon", 10.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2199 07:28:00 GMT", 3600.0),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", 10.0),
        ("Fri, 31 Dec 2021 23:59:59 +99999999999999999999", 10.0),
    ],
)
def test_retry_after_is_bounded(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def auths(**entries: object) -> bytes:
    return json.dumps({"auths": entries}).encode()


def test_the_entry_with_the_longest_path_wins() -> None:
    auth = base64.b64encode(b"b:2:3").decode()
    config = DockerConfig.parse(
        auths(
            **{
                "https://R.local/v2/": {"username": "a", "password": "1"},
                "r.local/team": {"auth": auth},
                "r.local:5000": {"auth": auth},
            }
        )
    )
    assert config.find("r.local", "library/x") == Credentials("a", "1")
    assert config.find("R.local", "team/x") == Credentials("b", "2:3")
    assert config.find("r.local", "teams/x") == Credentials("a", "1")
    assert config.find("other.local", "team/x") is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not JSON"),
        (b"{}", "no object 'auths'"),
        (auths(r={"auth": "%%%"}), "'auth' of entry 'r' is not base64"),
        (auths(r={}), "entry 'r' has neither"),
        (auths(r=1), "entry 'r' is not an object"),
    ],
)
def test_a_malformed_pull_secret_is_said_without_its_content(content: bytes, problem: str) -> None:
    with pytest.raises(SecretUnusable, match=problem):
        DockerConfig.parse(content)


def test_a_missing_secret_and_a_bad_certificate_are_said(tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match="No such file"):
        read_docker_config(tmp_path / "absent" / ".dockerconfigjson")
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(SecretUnusable, match="no PEM certificate"):
        tls_context(read_certificates(tmp_path / "ca.crt"))


def test_a_password_does_not_show_in_logs() -> None:
    assert "s3cret" not in repr(DockerConfig({"r": USER}))
