"""``python -m testbed.fakes.ollama --port 11434 --model chat``."""

import argparse
import asyncio
import contextlib
from pathlib import Path

from testbed.fakes.ollama import Behaviour, FakeOllama


async def _serve(options: argparse.Namespace) -> None:
    behaviour = Behaviour(version=options.version)
    fake = FakeOllama(
        models=options.model, store=options.store, behaviour=behaviour, host=options.host, port=options.port
    )
    await fake.start()
    print(fake.url, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m testbed.fakes.ollama", description="A fake Ollama server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="a free one if not given; the URL is printed")
    parser.add_argument("--model", action="append", default=[], help="a made-up model; may be repeated")
    parser.add_argument("--store", type=Path, help="an OLLAMA_MODELS directory")
    parser.add_argument("--version", default="0.32.3", help="what /api/version says")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
