"""NVIDIA's accelerators through NVML, and what else can look at accelerators."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ninelives.accelerators.policy import xid_table
from ninelives.errors import Refused
from ninelives.ports import Accelerators, Device, Look, Unread, Xid

KERNEL_LOG = Path("/dev/kmsg")
WINDOW = 2 * 3600
"""Seconds that an XID in the kernel's log counts, as in Azure's health checks for HPC."""
LISTEN = 10
"""Milliseconds to wait for XID events. NVML reports only what comes while it is listened to; the log has the rest."""
DRIVER = "NVRM:"
"""How each line of NVIDIA's driver in the kernel's log begins, also that of its start."""
RECOVERY_ACTION = 230
"""``NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`` of nvml.h."""
MAX_EVENTS = 64


class Nvml:
    """Asks the driver through ``libnvidia-ml.so.1``; nothing is kept between two looks."""

    kind = "nvidia"

    def __init__(self, kernel_log: Path = KERNEL_LOG) -> None:
        self.kernel_log = kernel_log

    def look(self) -> Look:
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError_LibraryNotFound:
            return Look(absent="libnvidia-ml.so.1 is not on this machine")
        except pynvml.NVMLError as error:
            return Look(broken=f"nvmlInit: {error}")
        try:
            return self._look(pynvml)
        except pynvml.NVMLError as error:
            return Look(broken=str(error))
        finally:
            pynvml.nvmlShutdown()

    def _look(self, nvml: Any) -> Look:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        devices = tuple(_device(nvml, handle) for handle in handles)
        readings = {
            "driver": _ask(nvml, lambda: nvml.nvmlSystemGetDriverVersion()),
            "cuda": _ask(nvml, lambda: nvml.nvmlSystemGetCudaDriverVersion()),
            "xid_events": _ask(nvml, lambda: _events(nvml, handles)),
            "xid_log": read_log(self.kernel_log),
        }
        return Look(devices, readings)


class NoAccelerator:
    """For models that are served by the processor: there is nothing to look at."""

    kind = "cpu"

    def look(self) -> Look:
        return Look(absent="the policy says that the model is served by the processor")


def probe_of(kind: str) -> Accelerators:
    """What looks at accelerators of ``kind``; raises ``Refused`` where nothing here can."""
    if kind == "nvidia":
        return Nvml()
    if kind == "cpu":
        return NoAccelerator()
    if kind in ("amd", "gaudi"):
        from ninelives.adapters.other_accelerators import Amd, Gaudi

        return Amd() if kind == "amd" else Gaudi()
    found = tuple(entry_points(group="ninelives.accelerators", name=kind))
    if len(found) != 1:
        others = ", ".join(sorted({one.name for one in entry_points(group="ninelives.accelerators")})) or "none"
        there = f"{len(found)} entry points ninelives.accelerators of that name (there are: {others})"
        raise Refused("look at accelerators", [f"{kind!r} is not nvidia, amd, gaudi, cpu, and there are {there}"])
    try:
        probe: Accelerators = found[0].load()()
    except Exception as error:  # somebody else's code, and what it raises is its own
        raise Refused(
            "look at accelerators", [f"the entry point {kind} ({found[0].value}) cannot be used: {error!r}"]
        ) from error
    return probe


def _ask(nvml: Any, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (
        nvml.NVMLError_GpuIsLost,
        nvml.NVMLError_ResetRequired,
        nvml.NVMLError_DriverNotLoaded,
        nvml.NVMLError_LibRmVersionMismatch,
    ) as error:
        return Unread(str(error), lost=True)
    except nvml.NVMLError as error:
        return Unread(str(error))


def _device(nvml: Any, handle: Any) -> Device:
    def ask(name: str, *arguments: Any, **more: Any) -> Any:
        return _ask(nvml, lambda: getattr(nvml, name)(handle, *arguments, **more))

    def of(name: str, change: Callable[[Any], Any], *arguments: Any) -> Any:
        value = ask(name, *arguments)
        return value if isinstance(value, Unread) else change(value)

    def pair(*values: Any) -> Any:
        return next((one for one in values if isinstance(one, Unread)), values)

    uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    uuid, name = ask("nvmlDeviceGetUUID"), ask("nvmlDeviceGetName")
    readings = {
        "recovery_action": _ask(nvml, lambda: _field(nvml, handle, RECOVERY_ACTION)),
        "ecc_mode": of("nvmlDeviceGetEccMode", tuple),
        "uncorrectable": ask("nvmlDeviceGetTotalEccErrors", uncorrected, nvml.NVML_VOLATILE_ECC),
        "uncorrectable_ever": ask("nvmlDeviceGetTotalEccErrors", uncorrected, nvml.NVML_AGGREGATE_ECC),
        "remap": of("nvmlDeviceGetRemappedRows", tuple),
        "remap_banks": of("nvmlDeviceGetRowRemapperHistogram", lambda banks: int(banks.none)),
        "sram": _ask(nvml, lambda: _sram(nvml, handle)),
        "retired_pages": ask("nvmlDeviceGetRetiredPagesPendingStatus"),
        "repair": of("nvmlDeviceGetRepairStatus", tuple),
        "throttling": ask("nvmlDeviceGetCurrentClocksEventReasons"),
        "temperature": pair(
            ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            ask("nvmlDeviceGetTemperatureThreshold", nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        ),
        "pcie_width": pair(ask("nvmlDeviceGetCurrPcieLinkWidth"), ask("nvmlDeviceGetMaxPcieLinkWidth")),
        "pcie_generation": pair(ask("nvmlDeviceGetCurrPcieLinkGeneration"), ask("nvmlDeviceGetMaxPcieLinkGeneration")),
        "replays": ask("nvmlDeviceGetPcieReplayCounter"),
        "nvlink": _ask(nvml, lambda: _links(nvml, handle)),
        "fabric": _ask(nvml, lambda: _fabric(nvml, handle)),
        "mig": of("nvmlDeviceGetMigMode", tuple),
        "inforom": _ask(nvml, lambda: _inforom(nvml, handle)),
        "power": pair(ask("nvmlDeviceGetEnforcedPowerLimit"), ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        "tenants": of("nvmlDeviceGetComputeRunningProcesses", lambda found: tuple(one.pid for one in found)),
        "free": _ask(nvml, lambda: _free(nvml, handle)),
        "compute_capability": of("nvmlDeviceGetCudaComputeCapability", tuple),
    }
    unnamed = f"unnamed: {uuid.why}" if isinstance(uuid, Unread) else uuid
    return Device(unnamed, "unnamed" if isinstance(name, Unread) else name, readings)


def _field(nvml: Any, handle: Any, number: int) -> int:
    value = nvml.nvmlDeviceGetFieldValues(handle, [number])[0]
    if value.nvmlReturn:  # each value has a return code of its own
        raise nvml.NVMLError(value.nvmlReturn)
    return int(value.value.uiVal)


def _sram(nvml: Any, handle: Any) -> int:
    from ctypes import byref

    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = nvml.nvmlEccSramErrorStatus_v1
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return int(status.bThresholdExceeded)


def _fabric(nvml: Any, handle: Any) -> tuple[int, int]:
    """How far its registration is, and with which code of NVML it was completed."""
    from ctypes import byref

    info = nvml.c_nvmlGpuFabricInfo_v2_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
    return int(info.state) & 0xFF, int(info.status)  # one byte in nvml.h, four in pynvml


def _free(nvml: Any, handle: Any) -> int | Unread:
    """Bytes of the device or, where MIG divides it, of the slice with the least: a model is given one of them."""
    holders = _slices(nvml, handle) if _divided(nvml, handle) else [handle]
    if not holders:
        return Unread("MIG is on, and the device has no slice")
    return min(int(nvml.nvmlDeviceGetMemoryInfo(one, version=nvml.nvmlMemory_v2).free) for one in holders)


def _divided(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError_NotSupported:  # a device that cannot be divided
        return False


def _slices(nvml: Any, handle: Any) -> list[Any]:
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except nvml.NVMLError_NotFound:
            continue
    return found


def _links(nvml: Any, handle: Any) -> tuple[int, ...]:
    """Of each link that the device has; raises NVML's error where it has none."""
    states: list[int] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            if link == 0:
                raise
            break
    return tuple(states)


def _inforom(nvml: Any, handle: Any) -> bool:
    try:
        nvml.nvmlDeviceValidateInforom(handle)
    except nvml.NVMLError_CorruptedInforom:
        return False
    return True


def _events(nvml: Any, handles: list[Any]) -> tuple[Xid, ...]:
    events = nvml.nvmlEventSetCreate()
    found: list[Xid] = []
    try:
        for handle in handles:
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        while len(found) < MAX_EVENTS:
            event = nvml.nvmlEventSetWait_v2(events, LISTEN)
            uuid = nvml.nvmlDeviceGetUUID(event.device)
            found.append(Xid(int(event.eventData), uuid, "reported by NVML"))
    except nvml.NVMLError_Timeout:
        pass
    finally:
        nvml.nvmlEventSetFree(events)
    return tuple(found)


def read_log(path: Path) -> tuple[Xid, ...] | Unread:
    """XIDs in the kernel's log: of the last two hours in ``/dev/kmsg``, all of them in a file, which has no clock."""
    lines: list[str] = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return Unread(f"{path}: {error.strerror}")
    try:
        while True:
            try:
                part = os.read(descriptor, 65536)
            except BlockingIOError:
                break
            except BrokenPipeError:  # the kernel has overwritten what came next; it goes on at what is left
                continue
            if not part:
                break
            lines.append(part.decode("utf-8", "replace"))
    except OSError as error:
        return Unread(f"{path}: {error.strerror}")
    finally:
        os.close(descriptor)
    if DRIVER not in "".join(lines):  # a sandbox hands out a log of its own, in which no XID can ever be
        return Unread(f"{path}: no word of NVIDIA's driver, so it is not known to be the log that XIDs go to")
    pattern = re.compile(xid_table()["log_regex"])
    since = time.clock_gettime(time.CLOCK_MONOTONIC) - WINDOW
    found = []
    for line in "".join(lines).splitlines():
        if match := pattern.search(line):
            stamp = re.match(r"\d+,\d+,(\d+),", line)
            if stamp is None or int(stamp[1]) / 1e6 >= since:
                found.append(Xid(int(match[2]), match[1], line.strip()))
    return tuple(found)
