"""What goes into the image, and what builds it, is locked by hash."""

import re

from testbed.paths import ROOT


def test_pip_takes_nothing_without_a_hash() -> None:
    commands = re.findall(r"bin/pip (?:install|wheel) .*", (ROOT / "Dockerfile").read_text())
    assert len(commands) == 4
    for command in commands:
        alone = "--no-deps" in command and ("--no-index" in command or "--no-build-isolation" in command)
        assert "--require-hashes" in command or alone, command


def test_the_locks_that_the_image_needs_are_in_its_context() -> None:
    needed = set(re.findall(r"requirements/\w+\.txt", (ROOT / "Dockerfile").read_text()))
    context = (ROOT / ".dockerignore").read_text()
    assert {f"!{lock}" for lock in needed} <= set(context.splitlines())
    assert all((ROOT / lock).exists() for lock in needed)
