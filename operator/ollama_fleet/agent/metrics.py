"""The agent's metrics. Names: ``ollama_fleet_<what>_<unit>``, base units, counters end in ``_total``."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ollama_fleet import __version__
from ollama_fleet.agent.gpu import Sensors
from ollama_fleet.agent.report import Observation
from ollama_fleet.telemetry.http import Answer

_SENSORS: Final = {
    "utilization_ratio": ("Share of the last sample period in which a kernel ran.", "utilisation", 0.01),
    "temperature_celsius": ("Temperature of the GPU.", "celsius", 1.0),
    "power_watts": ("Power that the GPU draws.", "watts", 1.0),
}


class AgentMetrics(Collector):
    """One registry per process."""

    def __init__(self) -> None:
        self.seen: Observation | None = None
        """What is shown."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("ollama_fleet_agent", "Version of this agent.", registry=self._registry).info({"version": __version__})
        self._writes = Counter(
            "ollama_fleet_report_writes",
            "Writes of the node's report by what made them due and how they ended.",
            ("reason", "outcome"),
            registry=self._registry,
        )
        self._registry.register(self)

    def wrote(self, reason: str, outcome: str) -> None:
        """Count a write; the outcome is ``ok`` or the HTTP status, 0 without an answer."""
        self._writes.labels(reason, outcome).inc()

    async def answer(self) -> Answer:
        """``/metrics`` in the text format."""
        return Answer(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)

    def describe(self) -> list[Metric]:
        """Nothing is collected at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """As of the last look."""
        if self.seen is None:
            return
        node = GaugeMetricFamily("ollama_fleet_node_memory_bytes", "Memory of the node.", self.seen.memory)
        yield node
        yield from _devices(self.seen)
        yield from _sensors(self.seen)
        yield from _errors(self.seen)
        yield _pods(self.seen)


def _devices(seen: Observation) -> Iterator[Metric]:
    info = InfoMetricFamily("ollama_fleet_gpu", "Devices of the node.", labels=["uuid"])
    healthy = GaugeMetricFamily("ollama_fleet_gpu_healthy", "1 while new work can run on it.", labels=["uuid"])
    memory = GaugeMetricFamily("ollama_fleet_gpu_memory_bytes", "Memory of the device.", labels=["uuid", "state"])
    for state in seen.view.devices:
        device, uuid = state.device, state.device.uuid
        about = {"product": device.product, "index": str(device.index), "parent": device.parent}
        info.add_metric([uuid], {**about, "driver_version": seen.view.driver, "memory_source": device.memory.source})
        healthy.add_metric([uuid], not state.reason)
        for name in ("reserved", "used", "free"):
            memory.add_metric([uuid, name], getattr(device.memory, name))
    yield from (info, healthy, memory)


def _sensors(seen: Observation) -> Iterator[Metric]:
    for name, (text, attribute, factor) in _SENSORS.items():
        family = GaugeMetricFamily(f"ollama_fleet_gpu_{name}", text, labels=["uuid"])
        for uuid, sensors in seen.view.sensors.items():
            value = _value(sensors, attribute)
            if value is not None:
                family.add_metric([uuid], value * factor)
        yield family


def _errors(seen: Observation) -> Iterator[Metric]:
    name = "ollama_fleet_gpu_ecc_uncorrected_errors"
    ecc = CounterMetricFamily(name, "Memory errors since the driver was loaded.", labels=["uuid"])
    for uuid, sensors in seen.view.sensors.items():
        if sensors.ecc_uncorrected is not None:
            ecc.add_metric([uuid], sensors.ecc_uncorrected)
    told = CounterMetricFamily(
        "ollama_fleet_gpu_xid_errors", "Errors that the driver told since the agent started.", labels=["uuid", "xid"]
    )
    for uuid, xids in seen.view.xids.items():
        for xid, count in xids.items():
            told.add_metric([uuid, str(xid)], count)
    yield from (ecc, told)


def _value(sensors: Sensors, attribute: str) -> float | None:
    value: float | None = getattr(sensors, attribute)
    return value


def _pods(seen: Observation) -> Metric:
    """Only processes whose pod and bytes are known."""
    found: dict[tuple[str, str], int] = {}
    for state in seen.view.devices:
        for process in state.device.processes:
            pod = seen.process_pods.get(process.pid)
            if pod and process.used is not None:
                key = (pod, state.device.uuid)
                found[key] = found.get(key, 0) + process.used
    family = GaugeMetricFamily(
        "ollama_fleet_pod_gpu_memory_bytes",
        "Memory that the driver counts for a pod's processes.",
        labels=["namespace", "pod", "uuid"],
    )
    for (pod, uuid), used in found.items():
        namespace, _, name = pod.partition("/")
        family.add_metric([namespace, name, uuid], used)
    return family
