"""The pause image: a static program that waits to be stopped and reaps children."""

import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from testbed.images.oci import content_key, write_archive
from testbed.paths import CACHE

IMAGE: Final = "localhost/pause:1"

_SOURCE: Final = Path(__file__).parent / "pause.c"


def ensure() -> Path:
    """The archive, made if it is not there."""
    target = CACHE / "images" / f"pause-{content_key(_SOURCE)}.tar"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program, layer, archive = Path(folder, "pause"), Path(folder, "layer.tar"), Path(folder, "image.tar")
        subprocess.run(["gcc", "-Os", "-static", "-o", program, _SOURCE], check=True)
        with tarfile.open(layer, "w") as packed:
            packed.add(program, "pause")
        write_archive(archive, name=IMAGE, layer=layer, config={"Entrypoint": ["/pause"]})
        target.write_bytes(archive.read_bytes())
    return target
