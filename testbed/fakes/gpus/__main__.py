"""``python -m testbed.fakes.gpus DIRECTORY KUBELET``: the device plugin and the simulator of one node."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

from testbed.fakes import nvml
from testbed.fakes.gpus.hardware import offers, read
from testbed.fakes.gpus.node import Places
from testbed.fakes.gpus.plugin import Plugin
from testbed.fakes.gpus.simulator import claims, occupied

_LOOK_SECONDS: Final = 0.3


async def serve(places: Places, registry: Path) -> None:
    """Until cancelled."""
    plugins: dict[str, Plugin] = {}
    shown: nvml.Driver | None = None
    try:
        while True:
            hardware = read(places.hardware)
            driver = occupied(hardware.driver, claims())
            if driver != shown:
                nvml.write(places.driver, driver)
                shown = driver
            found = offers(hardware)
            for resource in found.keys() - plugins.keys():
                plugins[resource] = Plugin(resource, registry / f"{resource.replace('/', '-')}.sock")
                await plugins[resource].start()
            for resource, plugin in plugins.items():
                plugin.offer(found.get(resource, ()))
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await asyncio.gather(*(plugin.stop() for plugin in plugins.values()))


async def _main() -> None:
    directory, kubelet = map(Path, sys.argv[1:])
    serving = asyncio.create_task(serve(Places(directory), kubelet / "plugins_registry"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


if __name__ == "__main__":
    asyncio.run(_main())
