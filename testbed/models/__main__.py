"""``python -m testbed.models DIR``: write the tiny models as files."""

import argparse
import shutil
from pathlib import Path

from testbed.models.catalog import CATALOG, ensure


def main() -> None:
    """Copy every model of the catalog to ``DIR/NAME.gguf``."""
    parser = argparse.ArgumentParser(prog="python -m testbed.models", description="Write the tiny models as files.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in CATALOG:
        target = directory / f"{name}.gguf"
        shutil.copyfile(ensure(name), target)
        print(f"{target}  {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
