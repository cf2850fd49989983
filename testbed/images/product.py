"""The product's own image, from its own Dockerfile."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from testbed.images import base
from testbed.images.oci import Image, build, content_key, forget_others, load_base
from testbed.paths import CACHE, ROOT
from testbed.say import step

_REQUIREMENTS: Final = ROOT / "requirements" / "image.txt"
_BUILD_BACKEND: Final = "hatchling"


def ensure() -> Image:
    """The image of the working tree as it is; its tag is a hash of the content."""
    inputs = (ROOT / "operator", ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "Dockerfile", _REQUIREMENTS)
    key = content_key(*inputs)
    image = Image(f"localhost/ollama-fleet:{key}", CACHE / "images" / f"product-{key}.tar")
    if not image.archive.exists():
        with step("product image"):
            _build(image)
        forget_others(image.archive, "product-*.tar*")
    return image


def _build(image: Image) -> None:
    debian, wheels = base.ensure(), _wheels()
    load_base(debian.archive, debian.name)
    build(
        ROOT / "Dockerfile",
        context=ROOT,
        image=image,
        arguments={"BASE": debian.name, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"},
        volumes=[f"{wheels}:/wheels:ro"],
    )


def _wheels() -> Path:
    """What the image installs, downloaded once: the build itself then needs no network."""
    target = CACHE / "wheels" / content_key(_REQUIREMENTS)
    if not (target / ".complete").exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target)]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(_REQUIREMENTS)], check=True)
        subprocess.run([*pip, _BUILD_BACKEND], check=True)
        (target / ".complete").touch()
    return target
