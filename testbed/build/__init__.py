"""Programs that no package registry ships ready-made, compiled once and cached by the content of their inputs."""

from testbed.build.cache import ensure, prefix, seconds_to_build
from testbed.build.recipe import BuildFailed
from testbed.build.recipes import KUBERNETES, RECIPES

__all__ = ["KUBERNETES", "RECIPES", "BuildFailed", "ensure", "prefix", "seconds_to_build"]
