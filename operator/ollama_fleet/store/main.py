"""``ollama-fleet puller``: the puller's command line."""

import argparse
import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.names import PATH_CA_SECRETS, PATH_CONFIG, PATH_MODELS, PATH_PULL_SECRETS, PORT_PROGRESS
from ollama_fleet.store.files import DIRECTORY_MODE
from ollama_fleet.store.puller import ExitCode, Mode, Settings, run_puller

_TERMINATED: Final = 128 + signal.SIGTERM
_PATIENCE_SECONDS: Final = 180
_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Pull the models of a group; returns the exit code (see `ollama_fleet.store.puller.ExitCode`, 143 on SIGTERM)."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # signed addresses are no matter for a log
    config = _read(arguments.config, content=arguments.content)
    if config is None:
        return ExitCode.RETRY
    settings = Settings(
        models_dir=arguments.models_dir,
        mode=arguments.mode,
        progress_port=arguments.progress_port,
        connections=arguments.connections,
        pull_secrets=arguments.pull_secrets,
        ca_secrets=arguments.ca_secrets,
    )
    if settings.mode == "job":
        hand_over(settings.models_dir / "blobs")
    return asyncio.run(_run(config, settings))


def _read(path: Path, *, content: str | None) -> GroupConfig | None:
    """The configuration; with ``content``, the one that names it, or None when it does not come.

    A kubelet may mount a ConfigMap as it was a moment ago, and a Job that pulled that would never run again.
    """
    for _ in range(_PATIENCE_SECONDS):
        config = GroupConfig.model_validate_json(path.read_bytes())
        if content in {None, config.content(), config.content(derived=True)}:
            return config
        time.sleep(1)
    _LOG.warning("the mounted configuration is not the wanted one: content=%s", content)
    return None


def hand_over(directory: Path) -> None:
    """Give a node's cache, which the kubelet made for root, to the servers' group.

    Only root can, and as a member of that group it needs no capability for it; others find the directory right.
    """
    if os.geteuid() == 0 and directory.stat().st_uid == 0:
        os.chown(directory, -1, os.getegid())
        directory.chmod(DIRECTORY_MODE)


async def _run(config: GroupConfig, settings: Settings) -> int:
    """Until done, or until SIGTERM or SIGINT: then downloads note where they are and stop."""
    pulling = asyncio.ensure_future(run_puller(config, settings, listening=_announce))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pulling.cancel)
    try:
        return await pulling
    except asyncio.CancelledError:
        _LOG.info("puller stopped by a signal; downloads go on from here next time")
        return _TERMINATED


def _announce(port: int) -> None:
    _LOG.info("progress is served: port=%d", port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ollama-fleet puller", description=main.__doc__)
    parser.add_argument("--mode", choices=get_args(Mode), required=True)
    parser.add_argument("--config", type=Path, default=Path(PATH_CONFIG), help="group configuration (JSON)")
    parser.add_argument("--content", help="wait until the configuration names these files (GroupConfig.content)")
    parser.add_argument("--models-dir", type=Path, default=Path(PATH_MODELS), help="OLLAMA_MODELS of the pod")
    parser.add_argument("--progress-port", type=int, default=PORT_PROGRESS, help="0 takes a free port")
    parser.add_argument("--connections", type=int, default=8, help="connections to registries at a time")
    parser.add_argument("--pull-secrets", type=Path, default=Path(PATH_PULL_SECRETS))
    parser.add_argument("--ca-secrets", type=Path, default=Path(PATH_CA_SECRETS))
    return parser
