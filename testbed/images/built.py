"""Images that buildah builds from Dockerfiles: the product's own, and Ollama's.

buildah's store is a cache of its own, so that only the layers that changed are built. It runs in a chroot with the
network of the host, which is all that an ordinary Dockerfile needs and works where containers do not nest.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from testbed import mounts
from testbed.images.base import BASE, ensure_base
from testbed.images.image import IMAGES, Image, cached, key, locked
from testbed.paths import CACHE, ROOT

_HERE: Final = Path(__file__).parent
_STORE: Final = CACHE / "buildah"
_WHEELS: Final = CACHE / "wheels"
_KEPT: Final = 3
_LOCKS: Final = ("requirements/image.txt", "requirements/build.txt")
_PRODUCT: Final = ("Dockerfile", "pyproject.toml", "README.md", "LICENSE", *_LOCKS, "operator")


def ensure_product() -> Image:
    """The product as its own Dockerfile makes it; its tag names its content, ``:dev`` is the latest one."""
    inputs = [ROOT / name for name in _PRODUCT]
    base = ensure_base()
    tag = key(inputs, salt=base.name)
    name = f"localhost/ollama-fleet:{tag}"
    archive = cached(IMAGES / f"product-{tag}.tar", "product image", partial(_make_product, name, base))
    return Image(name, archive, ("localhost/ollama-fleet:dev",))


def ensure_ollama(version: str, built: Path) -> Image:
    """Ollama from a directory with ``bin/ollama`` and, from 0.30 on, ``lib/ollama/``."""
    return _ollama(f"ollama:{version}", built, _link_engine)


def ensure_ollama_on_gpus(version: str, built: Path) -> Image:
    """The same (from 0.30 on), believing to be on the fake GPUs that its container was given: see ``cuda.py``."""
    return _ollama(f"ollama-on-gpus:{version}", built, _disguise_engine)


def _ollama(name: str, built: Path, fill: Callable[[Path, Path], None]) -> Image:
    base = ensure_base()
    tag = key([_HERE / "ollama"], salt=f"{base.name} {built.name}")
    archive = IMAGES / f"{name.replace(':', '-')}-{tag}.tar"
    full = f"localhost/{name}"
    return Image(full, cached(archive, f"image {name}", partial(_make_ollama, full, base, built, fill)))


def _make_product(name: str, base: Path, archive: Path) -> None:
    wheels = _wheels()
    with locked(_STORE):
        _build_product(name, base, archive, wheels)


def _build_product(name: str, base: Path, archive: Path, wheels: Path) -> None:
    arguments = {"BASE": _loaded(base), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    older = [one for one in _names() if one.startswith("localhost/ollama-fleet:")]
    _bud(ROOT, name, arguments, "--volume", f"{wheels}:/wheels:ro")
    _export(name, archive)
    if older:
        _run("rmi", "--force", *older)
    # A run beside this one may still be about to load the latest ones.
    for path in sorted(IMAGES.glob("product-*.tar"), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        path.unlink()


def _make_ollama(name: str, base: Path, built: Path, fill: Callable[[Path, Path], None], archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=IMAGES, prefix="ollama-") as scratch:
        context = Path(scratch)
        (context / "bin").mkdir()
        os.link(built / "bin" / "ollama", context / "bin" / "ollama")
        fill(built / "lib" / "ollama", context / "lib")
        shutil.copy2(_HERE / "ollama" / "Dockerfile", context)
        with locked(_STORE):
            _bud(context, name, {"BASE": _loaded(base)})
            _export(name, archive)


def _link_engine(engine: Path, target: Path) -> None:
    if engine.is_dir():
        shutil.copytree(engine, target, copy_function=os.link)
    else:
        target.mkdir()


def _disguise_engine(engine: Path, target: Path) -> None:
    (target / "engine").mkdir(parents=True)
    os.link(engine / "llama-server", target / "engine" / "llama-server")
    shutil.copy2(_HERE / "ollama" / "cuda.py", target / "llama-server")


def _wheels() -> Path:
    """The locked wheels, fetched by this machine's pip with whatever index it uses."""
    locks = [ROOT / name for name in _LOCKS]
    return cached(_WHEELS / key(locks), "wheels of the product", partial(_fetch_wheels, locks))


def _fetch_wheels(locks: Iterable[Path], directory: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", str(directory)]
    for lock in locks:
        subprocess.run([*pip, "--require-hashes", "--requirement", str(lock)], check=True)


def _loaded(base: Path) -> str:
    """The base image's name in buildah's store; loaded when this very archive is not there yet."""
    name = f"{BASE}-{base.stem.removeprefix('base-')}"
    if name not in _names():
        image = _run("pull", "--quiet", f"oci-archive:{base}").strip()
        _run("tag", image, name)
    return name


def _names() -> list[str]:
    return _run("images", "--format", "{{.Name}}:{{.Tag}}").split()


def _bud(context: Path, name: str, arguments: Mapping[str, str], *options: str) -> None:
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    isolation = ("--isolation", "chroot", "--layers", "--format", "oci", "--pull-never")
    _run("bud", *isolation, *given, *options, "--tag", name, str(context))


def _export(name: str, archive: Path) -> None:
    # containerd takes the full name from an archive of this form; from buildah's OCI archives it would not.
    _run("push", "--quiet", name, f"docker-archive:{archive}:{name}")


def _run(*command: str) -> str:
    done = subprocess.run([*_buildah(), *command], capture_output=True, text=True, check=False)
    # The overlay driver mounts its directory onto itself and leaves that behind.
    mounts.unmount(_STORE)
    if done.returncode:
        raise RuntimeError(f"buildah {command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return done.stdout


def _buildah() -> list[str]:
    return ["buildah", "--storage-driver", "overlay", "--root", str(_STORE / "root"), "--runroot", str(_STORE / "run")]
