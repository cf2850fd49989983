"""The driver's management library, through ``nvidia-ml-py``. Every call may hang: call it in a worker."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import pynvml

from ollama_fleet.agent.gpu import Device, GpuProcess, Memory, Reading, Sensors

T = TypeVar("T")

NO_DRIVER: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""The node has no GPU, or its driver is not there yet."""
START_AGAIN: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
"""The driver was unloaded, reloaded or exchanged below a running agent."""

_NO_MEMORY_V2: Final = frozenset(
    {
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    }
)
_NO_SENSOR: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    }
)
_MAX_PROCESSES: Final = 256
_MAX_XIDS: Final = 16
"""Per look; a GPU in agony tells the same again and again."""


class NvmlFailed(Exception):
    """The library refused."""

    def __init__(self, code: int, text: str) -> None:
        """``code`` is NVML's own, e.g. 15 for a lost GPU."""
        super().__init__(text)
        self.code = code


class Nvml:
    """One process's use of the library. Reads of different GPUs may run at the same time in different threads."""

    def __init__(self, *, system_memory: Callable[[], Memory]) -> None:
        """``system_memory`` stands in for GPUs that share the node's memory."""
        self._system_memory = system_memory
        self._identity: dict[int, tuple[str, str]] = {}
        self._events: dict[int, Any] = {}

    def start(self) -> tuple[str, int]:
        """Initialise, also again; the driver's version and the number of GPUs. Raises NvmlFailed."""
        self._identity, self._events = {}, {}
        with _Errors():
            # Fails where nothing was initialised, or the driver is another one by now.
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlDeviceGetCount())

    def read(self, index: int) -> Reading:
        """Look at one GPU. Raises NvmlFailed."""
        with _Errors():
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if index not in self._identity:
                self._identity[index] = (pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle))
            uuid, product = self._identity[index]
            if _split(handle):
                devices = tuple(self._instances(handle, index=index, parent=uuid))
            else:
                devices = (self._device(handle, uuid=uuid, index=index, product=product),)
            return Reading(uuid, devices, _sensors(handle), self._xids(handle, index))

    def _device(self, handle: Any, *, uuid: str, index: int, product: str, parent: str = "") -> Device:
        return Device(uuid, index, product, self._memory(handle), _processes(handle), parent)

    def _instances(self, gpu: Any, *, index: int, parent: str) -> Iterator[Device]:
        for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            try:
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
            except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
                continue
            uuid, product = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
            yield self._device(handle, uuid=uuid, index=index, product=product, parent=parent)

    def _memory(self, handle: Any) -> Memory:
        try:
            return _memory(handle)
        except pynvml.NVMLError_NotSupported:
            return self._system_memory()

    def _xids(self, handle: Any, index: int) -> tuple[int, ...]:
        """Each GPU has an event set of its own, so that a sick one keeps nobody else waiting."""
        if index not in self._events:
            self._events[index] = _listen(handle)
        events = self._events[index]
        found: list[int] = []
        while events is not None and len(found) < _MAX_XIDS:
            try:
                found.append(int(pynvml.nvmlEventSetWait_v2(events, 0).eventData))
            except pynvml.NVMLError_Timeout:
                break
        return tuple(found)


class _Errors:
    """Turns the library's errors into ours."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pynvml.NVMLError):
            raise NvmlFailed(int(error.value), str(error)) from None


def _split(handle: Any) -> bool:
    """Whether MIG is on."""
    mode = _optional(pynvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def _memory(handle: Any) -> Memory:
    """The second call tells what is reserved; in the first one that counts as used."""
    try:
        found = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        reserved = int(found.reserved)
    except pynvml.NVMLError as error:
        if error.value not in _NO_MEMORY_V2:
            raise
        found, reserved = pynvml.nvmlDeviceGetMemoryInfo(handle), 0
    total, free = int(found.total), int(found.free)
    # Drivers differ in whether `used` has the reserve in it; what is free is never in doubt.
    return Memory(total=total, reserved=reserved, used=max(0, total - reserved - free), free=free)


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError_FunctionNotFound:
        found = _optional(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle) or []
    except pynvml.NVMLError as error:
        if error.value not in _NO_SENSOR:
            raise
        found = []
    entries = sorted((int(one.pid), None if one.usedGpuMemory is None else int(one.usedGpuMemory)) for one in found)
    return tuple(GpuProcess(pid, used) for pid, used in entries[:_MAX_PROCESSES])


def _sensors(handle: Any) -> Sensors:
    uncorrected, volatile = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    utilisation = _optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _optional(pynvml.nvmlDeviceGetPowerUsage, handle)
    rows = _optional(pynvml.nvmlDeviceGetRemappedRows, handle)
    return Sensors(
        utilisation=None if utilisation is None else int(utilisation.gpu),
        celsius=_optional(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        watts=None if power is None else power / 1000,
        ecc_uncorrected=_optional(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, volatile),
        remap_failed=rows is not None and bool(rows[3]),
    )


def _listen(handle: Any) -> Any:
    """An event set for critical errors, None where the GPU tells none."""
    supported = _optional(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
    if not supported & pynvml.nvmlEventTypeXidCriticalError:
        return None
    events = pynvml.nvmlEventSetCreate()
    try:
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError as error:
        pynvml.nvmlEventSetFree(events)
        if error.value not in _NO_SENSOR:
            raise
        # Virtual GPUs tell none, whatever they say that they support.
        return None
    return events


def _optional(call: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _NO_SENSOR:
            return None
        raise
