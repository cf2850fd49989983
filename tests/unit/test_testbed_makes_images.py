"""Making what images are made of: cut off at any point, it succeeds the next time, and says why it did not."""

import subprocess
from pathlib import Path

import pytest

from testbed.images import ImageFailed, image


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image.packages, "need", lambda _: None)


def test_a_directory_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    target = tmp_path / "wheels"

    def cut_off(directory: Path) -> None:
        directory.mkdir()
        (directory / "half.whl").touch()
        raise KeyboardInterrupt

    def whole(directory: Path) -> None:
        directory.mkdir()
        (directory / "whole.whl").touch()

    with pytest.raises(KeyboardInterrupt):
        image.cached(target, "wheels", cut_off)
    assert [path.name for path in image.cached(target, "wheels", whole).iterdir()] == ["whole.whl"]


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(1, "pip"), RuntimeError("buildah failed: no room")])
def test_what_failed_is_named(tmp_path: Path, error: Exception) -> None:
    def fail(_: Path) -> None:
        raise error

    with pytest.raises(ImageFailed, match=r"^wheels: .*(pip|no room)"):
        image.cached(tmp_path / "wheels", "wheels", fail)
