"""Images of the two Ollama generations."""

from pathlib import Path
from typing import Final

from testbed.build import ensure as ensure_built
from testbed.images import base
from testbed.images.oci import Image, build, content_key, load_base
from testbed.paths import CACHE
from testbed.say import step

REPOSITORY: Final = "localhost/ollama"
VERSIONS: Final = ("0.24.0", "0.32.3")

_DOCKERFILE: Final = Path(__file__).parent / "ollama" / "Dockerfile"


def ensure(version: str) -> Image:
    """The image of one version, compiled and built if it is not there."""
    programs = ensure_built(f"ollama-{version}")
    (programs / "lib").mkdir(exist_ok=True)
    debian = base.ensure()
    key = f"{programs.name.rpartition('-')[2]}-{content_key(_DOCKERFILE)}"
    image = Image(f"{REPOSITORY}:{version}", CACHE / "images" / f"ollama-{version}-{key}.tar")
    if not image.archive.exists():
        load_base(debian.archive, debian.name)
        with step(f"Ollama {version} image"):
            build(_DOCKERFILE, context=programs, image=image, arguments={"BASE": debian.name})
    return image
