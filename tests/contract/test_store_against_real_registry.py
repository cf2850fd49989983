"""The store against the CNCF registry: TLS with a private authority, passwords, ranges, and a registry that dies."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from ollama_fleet.api.references import ModelReference, parse_reference
from ollama_fleet.store.credentials import Credentials, DockerConfig, tls_context
from ollama_fleet.store.errors import DigestMismatch, NotFound, Unauthorized, Unreachable
from ollama_fleet.store.manifest import LAYER_MODEL, Descriptor, digest_of
from ollama_fleet.store.puller import ExitCode, run_puller
from ollama_fleet.store.registry import RegistryClient
from testbed.build import ensure
from testbed.ports import free_ports
from testbed.processes import ENDS_WITH_US
from tests.support.store_support import FakeClock, content, group, model, settings

pytestmark = pytest.mark.cluster

USER = Credentials("robot", "s3cret")
HTPASSWD = "robot:$2b$04$tLJ5IpN0OaRyAgzt5GFDJ.bS4kt41A9Dx4UhmyUScosVDTB82/1wS\n"
MIB = 1024 * 1024


@dataclass
class RealRegistry:
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ca(self) -> bytes:
        return (self.directory / "tls.crt").read_bytes()

    def start(self) -> None:
        command = [*ENDS_WITH_US, ensure("registry") / "bin" / "registry", "serve", self.directory / "config.yaml"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(200):
            try:
                httpx.get(f"https://{self.address}/v2/", verify=tls_context(self.ca))
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.directory / "log").read_text())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def push(self, weights: bytes, *, tag: str = "latest") -> str:
        """Push a model of one layer; returns the digest of its manifest."""
        config = b'{"model_format":"gguf"}'
        with httpx.Client(
            base_url=f"https://{self.address}/v2/library/tiny/",
            verify=tls_context(self.ca),
            auth=(USER.username, USER.password),
            timeout=60,
        ) as http:
            for blob in (config, weights):
                location = http.post("blobs/uploads/").raise_for_status().headers["Location"]
                target = httpx.URL(location).copy_merge_params({"digest": digest_of(blob)})
                http.put(target, content=blob).raise_for_status()
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            config_type = "application/vnd.docker.container.image.v1+json"
            raw = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": kind,
                    "config": {"mediaType": config_type, "digest": digest_of(config), "size": len(config)},
                    "layers": [{"mediaType": LAYER_MODEL, "digest": digest_of(weights), "size": len(weights)}],
                }
            ).encode()
            http.put(f"manifests/{tag}", content=raw, headers={"Content-Type": kind}).raise_for_status()
        return digest_of(raw)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    directory = tmp_path_factory.mktemp("registry")
    (port,) = free_ports(1)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry"),
            *(
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                directory / "tls.key",
                "-out",
                directory / "tls.crt",
            ),
        ],
        check=True,
        capture_output=True,
    )
    (directory / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(directory / "tls.crt"), "key": str(directory / "tls.key")},
        },
    }
    (directory / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    running = RealRegistry(directory, port)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def client(registry: RealRegistry, *, password: bool = True, trusted: bool = True) -> RegistryClient:
    entries = {registry.address: USER} if password else {}
    return RegistryClient(
        docker_config=lambda: DockerConfig(entries), tls=tls_context(registry.ca) if trusted else tls_context()
    )


def reference(registry: RealRegistry, digest: str | None = None) -> ModelReference:
    return replace(parse_reference(f"{registry.address}/library/tiny"), digest=digest)


async def test_tags_and_digests_resolve(registry: RealRegistry) -> None:
    wanted = registry.push(b"weights")
    async with client(registry) as http:
        assert (await http.resolve(reference(registry))).digest == wanted
        assert (await http.resolve(reference(registry, wanted))).digest == wanted


async def test_errors_are_those_of_the_tree(registry: RealRegistry) -> None:
    registry.push(b"weights")
    async with client(registry) as http:
        with pytest.raises(NotFound):
            await http.resolve(replace(reference(registry), tag="absent"))
        with pytest.raises(NotFound):
            await http.resolve(replace(reference(registry), model="absent"))
        with pytest.raises(DigestMismatch):
            await http.resolve(reference(registry, "sha256:" + "0" * 64))
    async with client(registry, password=False) as http:
        with pytest.raises(Unauthorized, match="no pull secret covers it"):
            await http.resolve(reference(registry))
    async with client(registry, trusted=False) as http:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await http.resolve(reference(registry))


async def test_ranges_are_served_as_asked(registry: RealRegistry) -> None:
    body = content(3 * MIB, seed=3)
    registry.push(body, tag="ranges")
    blob = Descriptor(LAYER_MODEL, digest_of(body), len(body))
    async with client(registry) as http, http.open_blob(reference(registry), blob, start=MIB, end=MIB + 10) as stream:
        received = b"".join([chunk async for chunk in stream.chunks])
    assert (stream.start, received) == (MIB, body[MIB : MIB + 10])


def secrets(registry: RealRegistry, directory: Path) -> dict[str, Path]:
    """Mounted Secrets as a pod has them."""
    for name, file, body in (
        (
            "regcred",
            ".dockerconfigjson",
            json.dumps({"auths": {registry.address: {"auth": USER.basic()[6:]}}}).encode(),
        ),
        ("ca", "ca.crt", registry.ca),
    ):
        (directory / name).mkdir()
        (directory / name / file).write_bytes(body)
    return {"pull_secrets": directory, "ca_secrets": directory}


def _on_disk(path: Path) -> int:
    """Bytes; 0 for a file that got its final name meanwhile."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


async def test_a_pull_outlives_the_death_of_the_registry(registry: RealRegistry, tmp_path: Path) -> None:
    body = content(96 * MIB, seed=4)
    digest = registry.push(body, tag="big")
    config = group(
        model(
            *(registry, digest),  # type: ignore[arg-type]
            insecure=False,
            pull_secret="regcred",
            ca_secret="ca",
            context_length=512,
        )
    )
    run = settings(tmp_path / "models", "init", **secrets(registry, tmp_path))
    assert isinstance(run.clock, FakeClock)
    pulling = asyncio.create_task(run_puller(config, run))
    partial = tmp_path / "models/blobs/.incoming"
    for _ in range(3000):
        await asyncio.sleep(0.002)
        if any(_on_disk(path) > 8 * MIB for path in partial.glob("*.partial")):
            break
    registry.stop(signal.SIGKILL)
    assert not pulling.done()
    await asyncio.sleep(0.2)
    assert not list((tmp_path / "models").glob("manifests/*/*/*/*"))
    await asyncio.to_thread(registry.start)
    assert await asyncio.wait_for(pulling, 60) is ExitCode.DONE
    assert any(seconds < 1 for seconds in run.clock.slept), "it noticed, and backed off"
    assert (tmp_path / "models/manifests/registry.ollama.ai/library/tiny/latest").exists()
    assert digest_of((tmp_path / "models/blobs" / digest_of(body).replace(":", "-")).read_bytes()) == digest_of(body)
