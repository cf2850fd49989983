"""Container images without Docker: a Debian base, the product from its own Dockerfile, Ollama, and pause.

Every function returns an image archive in the cache, keyed by the content of what goes in, made when it is missing.
"""

from testbed.images.base import ensure_base, ensure_pause
from testbed.images.built import ensure_ollama, ensure_ollama_on_gpus, ensure_product
from testbed.images.image import Image, ImageFailed

__all__ = [
    "Image",
    "ImageFailed",
    "ensure_base",
    "ensure_ollama",
    "ensure_ollama_on_gpus",
    "ensure_pause",
    "ensure_product",
]
