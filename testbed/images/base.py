"""The two images that nothing else is below: Debian with Python, and pause."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from testbed.images.image import IMAGES, Image, cached, key
from testbed.images.oci import write_archive

BASE: Final = "localhost/debian-python:bookworm"
PAUSE: Final = "localhost/pause:1"

_HERE: Final = Path(__file__).parent
_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates", "libgomp1")
"""``python3-venv`` builds the product's environment; ``libgomp1`` is what ggml's CPU engine links to."""
_USELESS: Final = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt")


def ensure_base() -> Path:
    """Debian bookworm with Python 3.11, from the mirror that this machine uses. About a minute when it is not there."""
    target = IMAGES / f"base-{key([_HERE / 'base.py', _HERE / 'oci.py'])}.tar"
    return cached(target, "base image (debootstrap)", _make_base)


def ensure_pause() -> Image:
    """The container that holds a pod's namespaces."""
    target = IMAGES / f"pause-{key([_HERE / 'pause.c', _HERE / 'oci.py'])}.tar"
    return Image(PAUSE, cached(target, "pause image", _make_pause))


def _make_base(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=IMAGES, prefix="base-") as scratch:
        root, layer = Path(scratch, "root"), Path(scratch, "layer.tar")
        mirror = _mirror()
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", "bookworm", str(root)]
        done = subprocess.run([*command, *([mirror] if mirror else [])], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"debootstrap failed: {done.stdout[-2000:]}{done.stderr[-500:]}")
        for useless in _USELESS:
            shutil.rmtree(root / useless, ignore_errors=True)
        (root / "var/cache").mkdir()
        _pack(root, layer)
        config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["python3"]}
        write_archive(layer, archive, name=BASE, config=config)


def _make_pause(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=IMAGES, prefix="pause-") as scratch:
        root, layer = Path(scratch, "root"), Path(scratch, "layer.tar")
        root.mkdir(mode=0o755)
        source = str(_HERE / "pause.c")
        subprocess.run(["gcc", "-O2", "-static", "-s", "-o", str(root / "pause"), source], check=True)
        _pack(root, layer)
        write_archive(layer, archive, name=PAUSE, config={"Entrypoint": ["/pause"], "User": "65535:65535"})


def _pack(root: Path, layer: Path) -> None:
    with tarfile.open(layer, "w") as packed:
        packed.add(root, ".", filter=_without_devices)


def _without_devices(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The runtime makes ``/dev``; its nodes could not be unpacked without rights."""
    return None if member.isdev() else member


def _mirror() -> str | None:
    """The mirror that apt uses on a Debian machine; debootstrap knows a default."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for place in places:
        if not place.is_file():
            continue
        for line in place.read_text().splitlines():
            words = [word for word in line.split() if not word.startswith(("[", "signed-by"))]
            if words[:1] in (["deb"], ["URIs:"]) and len(words) > 1 and words[1].rstrip("/").endswith("/debian"):
                return words[1]
    return None
