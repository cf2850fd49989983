"""The puller: whole groups, its three modes, what it tells and how it ends."""

import asyncio
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_fleet.api.group import GroupConfig, Modelfile
from ollama_fleet.api.progress import PullProgress
from ollama_fleet.store import layout
from ollama_fleet.store.errors import RateLimited
from ollama_fleet.store.install import Store, install_manifests
from ollama_fleet.store.manifest import LAYER_ADAPTER, digest_of, parse_manifest
from ollama_fleet.store.progress import Tracker
from ollama_fleet.store.progress_server import serve_progress
from ollama_fleet.store.puller import ExitCode, run_puller
from testbed.fakes.registry import FakeRegistry
from testbed.fakes.registry_faults import Fault
from tests.support.store_support import content, group, model, settings


async def pull(config: GroupConfig, models_dir: Path, mode: str = "init", **kwargs: object) -> ExitCode:
    async with asyncio.timeout(20):
        return await run_puller(config, settings(models_dir, mode, **kwargs))  # type: ignore[arg-type]


def names(models_dir: Path) -> dict[str, str]:
    """Manifests that a server would see, checked against the invariant: every blob is there and right."""
    found = {}
    for path in (models_dir / "manifests").glob("*/*/*/*"):
        raw = path.read_bytes()
        for blob in parse_manifest(raw).blobs:
            assert digest_of((models_dir / "blobs" / blob.digest.replace(":", "-")).read_bytes()) == blob.digest
        found[f"{path.parent.name}:{path.name}"] = digest_of(raw)
    return found


async def test_init_brings_models_and_their_manifests(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        manifest = registry.add_model(b"weights", params={"temperature": 0.5})
        config = group(model(registry, manifest, name="chat", context_length=2048))
        assert await pull(config, tmp_path) is ExitCode.DONE
        assert registry.count() == {"manifests": 1, "blobs": 3}
    assert list(names(tmp_path)) == ["chat:latest"]
    raw = (tmp_path / "manifests/registry.ollama.ai/library/chat/latest").read_bytes()
    params = parse_manifest(raw).layers[-1]
    assert (
        tmp_path / "blobs" / params.digest.replace(":", "-")
    ).read_bytes() == b'{"num_ctx":2048,"temperature":0.5}\n'


async def test_a_restart_asks_no_registry(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        await pull(config, tmp_path)
        registry.requests.clear()
        assert await pull(config, tmp_path) is ExitCode.DONE
        assert registry.requests == []


async def test_models_that_share_weights_fetch_them_once(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        manifest = registry.add_model(content(100_000))
        config = group(
            model(registry, manifest, name="long", context_length=8192), model(registry, manifest, name="short")
        )
        await pull(config, tmp_path)
        assert registry.count()["blobs"] == 2  # config and weights
    assert sorted(names(tmp_path)) == ["long:latest", "short:latest"]


async def test_pinned_models_come_before_on_demand_ones_and_by_priority(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        bodies = {name: content(1000, seed) for seed, name in enumerate(("any", "first", "second"))}
        models = []
        for name, body in bodies.items():
            manifest = registry.add_model(body, repository=f"library/{name}")
            models.append(
                model(
                    *(registry, manifest),
                    name=name,
                    repository=f"library/{name}",
                    residency="OnDemand" if name == "any" else "Pinned",
                    priority={"any": 100, "first": 1, "second": 2}[name],
                )
            )
        await pull(group(*models), tmp_path, connections=1)
        order = [request.path.rsplit("/", 1)[1] for request in registry.requests if "/blobs/" in request.path]
        weights = [name for blob in order for name, body in bodies.items() if digest_of(body) == blob]
        assert weights.index("second") < weights.index("first") < weights.index("any")


async def test_an_adapter_is_pulled_and_becomes_a_layer(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        manifest = registry.add_model(b"weights")
        lora = {"mediaType": LAYER_ADAPTER, "digest": registry.add_blob(b"lora"), "size": 4}
        raw = json.dumps({"schemaVersion": 2, "config": lora, "layers": [lora]}).encode()
        registry.add_manifest(raw, repository="library/lora", tag="latest")
        adapter = f"{registry.address}/library/lora@{digest_of(raw)}"
        assert (
            await pull(group(model(registry, manifest, modelfile=Modelfile(adapter=adapter))), tmp_path)
            is ExitCode.DONE
        )
    written = parse_manifest((tmp_path / "manifests/registry.ollama.ai/library/tiny/latest").read_bytes())
    assert [layer.digest for layer in written.of_type(LAYER_ADAPTER)] == [digest_of(b"lora")]


async def test_init_outlives_a_registry_that_is_away_and_says_so(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        failures = iter(range(25))
        registry.fault_for = lambda _request: Fault(status=404) if next(failures, None) is not None else None
        assert await pull(config, tmp_path) is ExitCode.DONE
        assert len(registry.requests) > 25


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=404), ExitCode.MODEL_NOT_FOUND),
        (Fault(status=403), ExitCode.UNAUTHORIZED),
        (Fault(corrupt=True), ExitCode.DIGEST_MISMATCH),
    ],
)
async def test_a_job_ends_with_the_code_of_what_only_somebody_can_change(
    tmp_path: Path, fault: Fault, code: ExitCode
) -> None:
    async with FakeRegistry() as registry:
        good = model(
            registry, registry.add_model(b"good", repository="library/good"), name="good", repository="library/good"
        )
        bad = model(registry, registry.add_model(b"bad"), name="bad")
        registry.fault_for = lambda request: fault if "/tiny/" in request.path else None
        assert await pull(group(bad, good), tmp_path, "job") is code
    assert (tmp_path / "blobs" / digest_of(b"good").replace(":", "-")).exists(), "the other model comes all the same"
    assert not (tmp_path / "manifests").exists()


async def test_a_job_outlives_what_passes(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        registry.faults = [Fault(status=503), Fault(status=429)]
        assert await pull(config, tmp_path, "job") is ExitCode.DONE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"modelfile": Modelfile(parameters={"num_ctxx": 1})}, ExitCode.INVALID),
        ({"modelfile": Modelfile(adapter="lora")}, ExitCode.INVALID),
        ({"modelfile": Modelfile(adapter="a/b/c/d")}, ExitCode.INVALID),
        ({"repository": "a/b/c"}, ExitCode.INVALID),
        ({"pull_secret": "absent"}, ExitCode.INVALID),
        ({"ca_secret": "absent"}, ExitCode.INVALID),
    ],
)
async def test_a_job_refuses_what_cannot_work(tmp_path: Path, change: dict[str, object], code: ExitCode) -> None:
    async with FakeRegistry() as registry:
        registry.behaviour.password = "x:y"
        manifest = registry.add_model(b"weights")
        if "pull_secret" not in change:
            registry.behaviour.password = None
        assert await pull(group(model(registry, manifest, **change)), tmp_path, "job", ca_secrets=tmp_path) is code


async def test_a_job_on_a_full_disk_may_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_fleet.store.partial.free_bytes", lambda _path: 3)
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        assert await pull(config, tmp_path, "job") is ExitCode.RETRY


async def test_a_pull_secret_and_its_directory_are_used(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        registry.behaviour.password = "robot:pass"
        secret = tmp_path / "secrets" / "regcred"
        secret.mkdir(parents=True)
        auths = {"auths": {registry.address: {"username": "robot", "password": "pass"}}}
        (secret / ".dockerconfigjson").write_text(json.dumps(auths))
        config = group(model(registry, registry.add_model(b"weights"), pull_secret="regcred"))
        assert await pull(config, tmp_path, "job", pull_secrets=tmp_path / "secrets") is ExitCode.DONE


async def test_a_cache_filled_by_a_job_needs_no_registry_afterwards(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights"), context_length=512))
        await pull(config, tmp_path, "job")
        registry.requests.clear()
        assert install_manifests(config, tmp_path).keys() == {"tiny"}
        assert await pull(config, tmp_path, "verify") is ExitCode.DONE
        assert registry.requests == []
    assert list(names(tmp_path)) == ["tiny:latest"]


async def test_verify_waits_for_the_job_and_hashes_what_it_does_not_know(tmp_path: Path) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        await pull(config, source, "job")
    waiting = asyncio.create_task(pull(config, cache, "verify"))
    for file in sorted((source / "blobs").glob("sha256-*")):  # an rsync from elsewhere: no marks
        await asyncio.sleep(0.02)
        assert not waiting.done()
        assert not list(cache.glob("manifests/*/*/*/*"))
        (cache / "blobs" / file.name).write_bytes(file.read_bytes())
    assert await waiting is ExitCode.DONE
    assert list(names(cache)) == ["tiny:latest"]


async def test_verify_needs_no_right_to_write_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        await pull(config, tmp_path, "job")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("ollama_fleet.store.layout.BlobDirectory.prepare", refuse)
    monkeypatch.setattr("ollama_fleet.store.layout.BlobDirectory.put", refuse)
    shutil.rmtree(tmp_path / "blobs" / ".verified")
    assert await pull(config, tmp_path, "verify") is ExitCode.DONE
    assert list(names(tmp_path)) == ["tiny:latest"]


async def test_verify_does_not_take_a_rotten_blob(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(b"weights")))
        await pull(config, tmp_path, "job")
    path = tmp_path / "blobs" / digest_of(b"weights").replace(":", "-")
    path.chmod(0o644)
    path.write_bytes(b"weIghts")
    waiting = asyncio.create_task(pull(config, tmp_path, "verify"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    waiting.cancel()
    assert names(tmp_path) == {}


async def test_the_sidecars_view_follows_the_configuration(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        one = model(registry, registry.add_model(b"one", tag="1"), name="one")
        two = model(registry, registry.add_model(b"two", tag="2"), name="two")
        await pull(group(one), tmp_path)
        assert install_manifests(group(one, two), tmp_path).keys() == {"one"}
        await pull(group(two), tmp_path, "job")
        both = install_manifests(group(one, two), tmp_path)
        assert names(tmp_path) == {f"{name}:latest": value for name, value in both.items()}
        changed = one.model_copy(update={"context_length": 4096})
        assert install_manifests(group(changed), tmp_path)["one"] != both["one"]
        assert list(names(tmp_path)) == ["one:latest"]


async def test_a_model_that_cannot_be_installed_leaves_the_others_alone(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        one = model(registry, registry.add_model(b"one"), name="one")
        await pull(group(one), tmp_path)
    broken = one.model_copy(update={"name": "broken", "modelfile": Modelfile(parameters={"x": 1})})
    nameless = one.model_copy(update={"name": "a.b/c"})
    assert install_manifests(group(broken, nameless, one), tmp_path).keys() == {"one"}


async def test_a_modelfile_that_cannot_work_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        broken = model(registry, registry.add_model(b"one"), modelfile=Modelfile(parameters={"x": 1}))
        assert await pull(group(broken), tmp_path, "job") is ExitCode.INVALID
        assert registry.requests == []


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the blobs read-only, also for root."""
    write = layout.write_atomically

    def refuse(path: Path, content: bytes, **kwargs: int) -> None:
        if tmp_path / "blobs" in path.parents:
            raise OSError(30, "Read-only file system")
        write(path, content, **kwargs)

    return lambda: monkeypatch.setattr(layout, "write_atomically", refuse)


async def test_a_read_only_cache_serves_what_it_holds(tmp_path: Path, read_only: Callable[[], None]) -> None:
    async with FakeRegistry() as registry:
        one = model(registry, registry.add_model(b"one"))
        await pull(group(one), tmp_path, "job")
    read_only()
    needs_layer = one.model_copy(update={"name": "other", "context_length": 1024})
    assert install_manifests(group(needs_layer, one), tmp_path).keys() == {"tiny"}


async def test_what_verify_found_right_on_a_read_only_cache_counts_for_the_whole_pod(
    tmp_path: Path, read_only: Callable[[], None]
) -> None:
    async with FakeRegistry() as registry:
        one = model(registry, registry.add_model(b"one"))
        await pull(group(one), tmp_path, "job")
        config = group(one.model_copy(update={"context_length": 1024}))
        await pull(config, tmp_path, "job")
    shutil.rmtree(tmp_path / "blobs" / ".verified")  # as of a cache that was restored from a copy
    (tmp_path / "blobs").chmod(0o555)
    read_only()
    assert await pull(config, tmp_path, "verify") is ExitCode.DONE
    assert names(tmp_path) == {f"{name}:latest": digest for name, digest in install_manifests(config, tmp_path).items()}


async def test_a_small_blob_that_is_there_is_not_written_again(tmp_path: Path, read_only: Callable[[], None]) -> None:
    blobs = Store.at(tmp_path).blobs
    digest = blobs.put(b"system")
    (tmp_path / "blobs" / ".verified" / digest.partition(":")[2]).unlink()
    read_only()
    assert Store.at(tmp_path).blobs.put(b"system") == digest


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_progress_is_served_while_a_model_comes(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        body = content(2 * 1024 * 1024)
        config = group(model(registry, registry.add_model(body), size=12345))
        registry.faults = [Fault(), Fault(stall_after=1024 * 1024)]
        ports: list[int] = []
        running = asyncio.create_task(run_puller(config, settings(tmp_path), listening=ports.append))
        seen = PullProgress()
        for _ in range(500):
            await asyncio.sleep(0.01)
            answer = await ask(ports[0], b"GET /progress HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = PullProgress.model_validate_json(answer.partition(b"\r\n\r\n")[2])
            if seen.models[0].completed_bytes >= 1024 * 1024:
                break
        assert seen.models[0].phase == "Pulling"
        assert seen.models[0].total_bytes == sum(map(len, registry.blobs.values()))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        registry.requests.clear()
        assert await pull(config, tmp_path) is ExitCode.DONE
        assert [request.range for request in registry.requests] == [(1024 * 1024, len(body))]


async def test_progress_names_the_reason_of_a_failure(tmp_path: Path) -> None:
    config = group(model(FakeRegistry(), "sha256:" + "0" * 64))
    tracker = Tracker(config)
    tracker.models["tiny"].retrying(RateLimited("too many", 3.0))
    (progress,) = tracker.snapshot().models
    assert (progress.phase, progress.reason, progress.message) == ("Retrying", "RegistryUnreachable", "too many")


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /progress HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
        (b"\xff\xff HTTP/1.1\r\n\r\n", b""),
        (b"GET\r\n\r\n", b""),
        (b"GET /progress HTTP/1.1\r\nX: " + b"x" * 100_000, b""),
    ],
)
async def test_the_progress_server_is_strict_and_bounded(request_bytes: bytes, answer: bytes) -> None:
    async with serve_progress(PullProgress, port=0) as port:
        try:
            answered = await ask(port, request_bytes)
        except ConnectionResetError:
            answered = b""
        assert answered[: max(len(answer), 1)] == answer
