"""Programs that no package registry ships ready-made, compiled once and cached by the content of their inputs."""

from testbed.build.cache import ensure, prefix
from testbed.build.recipes import KUBERNETES, RECIPES

__all__ = ["KUBERNETES", "RECIPES", "ensure", "prefix"]
