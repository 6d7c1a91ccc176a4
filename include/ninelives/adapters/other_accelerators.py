"""AMD's and Intel Gaudi's accelerators through their vendors' own packages, which are not among what is installed here.

Both read little: which devices there are, their driver, free memory and, of AMD, uncorrectable errors. All else is
unknown and blocks, unless a policy names it as ``optional``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from ninelives.ports import Device, Look, Unread

MIB = 2**20


class Amd:
    """Through ``amdsmi``."""

    kind = "amd"

    def look(self) -> Look:
        smi = _module("amdsmi", "libamd_smi.so")
        if isinstance(smi, Look):
            return smi
        try:
            smi.amdsmi_init()
        except smi.AmdSmiException as error:
            return Look(broken=f"amdsmi_init: {error}")
        try:
            handles = list(smi.amdsmi_get_processor_handles())
            driver = _ask(lambda: smi.amdsmi_get_gpu_driver_info(handles[0])["driver_version"])
            return Look(tuple(self._device(smi, one) for one in handles), {"driver": driver})
        except smi.AmdSmiException as error:
            return Look(broken=str(error))
        finally:
            smi.amdsmi_shut_down()

    @staticmethod
    def _device(smi: Any, handle: Any) -> Device:
        def free() -> int:
            usage = smi.amdsmi_get_gpu_vram_usage(handle)
            return int(usage["vram_total"] - usage["vram_used"]) * MIB

        readings = {
            "free": _ask(free),
            "uncorrectable": _ask(lambda: int(smi.amdsmi_get_gpu_total_ecc_count(handle)["uncorrectable_count"])),
        }
        name = _ask(lambda: smi.amdsmi_get_gpu_asic_info(handle)["market_name"])
        return _named(_ask(lambda: smi.amdsmi_get_gpu_device_uuid(handle)), name, readings)


class Gaudi:
    """Through ``habana-pyhlml``."""

    kind = "gaudi"

    def look(self) -> Look:
        hlml = _module("pyhlml", "libhlml.so")
        if isinstance(hlml, Look):
            return hlml
        try:
            with redirect_stdout(io.StringIO()):
                hlml.hlmlInit()
        except hlml.hlml_error.HLMLError as error:
            return Look(broken=f"hlmlInit: {error}; also said where libhlml.so is not there")
        try:
            handles = [hlml.hlmlDeviceGetHandleByIndex(index) for index in range(hlml.hlmlDeviceGetCount())]
            driver = _ask(lambda: _text(hlml.hlmlGetDriverVersion()))
            return Look(tuple(self._device(hlml, one) for one in handles), {"driver": driver})
        except hlml.hlml_error.HLMLError as error:
            return Look(broken=str(error))
        finally:
            hlml.hlmlShutdown()

    @staticmethod
    def _device(hlml: Any, handle: Any) -> Device:
        readings = {"free": _ask(lambda: int(hlml.hlmlDeviceGetMemoryInfo(handle).free))}
        name = _ask(lambda: _text(hlml.hlmlDeviceGetName(handle)))
        return _named(_ask(lambda: _text(hlml.hlmlDeviceGetUUID(handle))), name, readings)


def _module(name: str, library: str) -> Any:
    """The vendor's package, or a look that says why it is not there."""
    try:
        with redirect_stdout(io.StringIO()):  # both print where the library is not there, and a report may be JSON
            return import_module(name)
    except ImportError as error:
        return Look(absent=f"{error}: the vendor's package {name} is not installed")
    except (KeyError, OSError, AttributeError) as error:  # how amdsmi says it
        return Look(absent=f"{library} is not on this machine ({name}: {error!r})")


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:  # each vendor has its own classes; what cannot be read is never good
        return Unread(f"{type(error).__name__}: {error}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _named(uuid: Any, name: Any, readings: dict[str, Any]) -> Device:
    unnamed = f"unnamed: {uuid.why}" if isinstance(uuid, Unread) else uuid
    return Device(unnamed, "unnamed" if isinstance(name, Unread) else name, readings)
