"""What readings mean, by the names of ``adapters/nvml.py``; what a probe does not read is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ninelives.accelerators.findings import Finding, State
from ninelives.accelerators.policy import gate_of, xid_table
from ninelives.estate.accelerators import GIB, Need, Policy, XidGate
from ninelives.ports import Device, Look, Unread, Xid

RECOVERY = ("none", "reset the GPU", "reboot the node", "drain its peers", "drain and reset", "recover the IMEX domain",
            "reset the bus", "reboot the system")  # fmt: skip
"""nvml.h, ``nvmlDeviceGpuRecoveryAction_t``."""
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Major version of CUDA to that of the driver: NVIDIA's table of minor version compatibility."""
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""Clocks event reasons of nvml.h: hardware slowdown, thermal by software and hardware, power brake."""
POWER_CAP = 0x4
FABRIC = ("not supported", "not started", "in progress", "completed")
"""nvml.h, ``NVML_GPU_FABRIC_STATE_*``."""
PID = re.compile(r"\bpid=(\d+)")
CLOSE = 5
"""Degrees Celsius below the slowdown threshold that are worth a warning; ours."""

UNASKED = Unread("this probe does not read it")

Judged = tuple[State, str]


def judge(look: Look, need: Need | None, policy: Policy) -> list[Finding]:
    """Every check of the machine and of each device."""
    found = [*_inventory(look, policy), _driver(look, need), *_xids(look, policy)]
    for device in look.devices:
        found += _health(device, policy)
        found += _fit(device, need, policy)
    return found


def _read(value: Any, judged: Callable[[Any], Judged]) -> Judged:
    """A lost device is a no, a question that it cannot answer an unknown; never a pass."""
    if isinstance(value, Unread):
        return (State.BLOCK if value.lost else State.UNKNOWN), value.why
    return judged(value)


def _when(bad: bool, state: State = State.BLOCK) -> State:
    return state if bad else State.PASS


def _inventory(look: Look, policy: Policy) -> list[Finding]:
    uuids = {one.uuid for one in look.devices}
    limit = ", ".join(policy.devices) or "at least one"
    wrong = uuids != set(policy.devices) if policy.devices else not uuids
    return [Finding("inventory", _when(wrong), ", ".join(sorted(uuids)) or "no device", limit, "ours")]


def _driver(look: Look, need: Need | None) -> Finding:
    """By NVIDIA's table, and by the newest CUDA that the driver says it can run: 13020 is 13.2."""
    wanted = need.cuda if need else None
    least, cuda = LEAST_DRIVER.get(wanted or 0), look.readings.get("cuda", UNASKED)

    def judged(version: str) -> Judged:
        major = version.split(".")[0]
        if not major.isdecimal():
            return State.UNKNOWN, version
        if wanted is None:
            return State.PASS, version
        if isinstance(cuda, Unread):
            return State.UNKNOWN, f"{version}, and which CUDA it can run is not known: {cuda.why}"
        value = f"{version} for CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        return _when(int(major) < (least or 0) or cuda // 1000 < wanted), value

    state, value = _read(look.readings.get("driver", UNASKED), judged)
    newest = f"{least} or newer, for CUDA {wanted}" if least else f"for CUDA {wanted}" if wanted else "known"
    return Finding("driver", state, value, newest, "NVIDIA's minor version table")


def _xids(look: Look, policy: Policy) -> list[Finding]:
    found = []
    for check in ("xid_events", "xid_log"):
        value = look.readings.get(check, UNASKED)
        if isinstance(value, Unread):
            found.append(Finding(check, State.UNKNOWN, value.why, "readable", "ours"))
            continue
        found += [_xid(check, one, policy) for one in value] or [Finding(check, State.PASS, "none", "none", "ours")]
        found += _repeated(check, value, policy)
    return found


def _repeated(check: str, value: Iterable[Xid], policy: Policy) -> list[Finding]:
    """What one process may have brought about is the device's own where another one had it, too.

    NVIDIA's catalog says so of XIDs 13 and 31. Only the log names processes; a policy's own word is not overruled.
    """
    processes: dict[tuple[str, int], set[str]] = {}
    for one in value:
        if one.code not in policy.xids and gate_of(policy, one.code) is XidGate.WARN and (pid := PID.search(one.text)):
            processes.setdefault((one.device, one.code), set()).add(pid[1])
    return [
        Finding(check, State.BLOCK, f"XID {code} of {len(pids)} processes", "of one at most", "xids.json", device)
        for (device, code), pids in processes.items()
        if len(pids) > 1
    ]


def _xid(check: str, one: Xid, policy: Policy) -> Finding:
    gate = gate_of(policy, one.code)
    meaning = xid_table()["xids"].get(str(one.code), {}).get("meaning", "not in the table")
    match gate:
        case XidGate.IGNORE:
            state = State.PASS
        case XidGate.WARN:
            state = State.WARN
        case _:
            state = State.BLOCK
    source = "policy" if one.code in policy.xids else "xids.json"
    return Finding(check, state, f"XID {one.code}: {meaning} [{gate}]", "none that blocks", source, one.device)


def _health(device: Device, policy: Policy) -> list[Finding]:
    read = device.readings

    def recovery(action: int) -> Judged:
        return _when(action != 0), RECOVERY[action] if 0 <= action < len(RECOVERY) else f"action {action}"

    def mode(wanted: bool) -> Callable[[tuple[int, int]], Judged]:
        def judged(pair: tuple[int, int]) -> Judged:
            return _when(pair != (wanted, wanted)), f"current {pair[0]}, pending {pair[1]}"

        return judged

    def count(state: State = State.BLOCK) -> Callable[[int], Judged]:
        return lambda number: (_when(number > 0, state), str(number))

    def remap(rows: tuple[int, int, int, int]) -> Judged:
        corrected, uncorrected, pending, failed = rows
        value = f"{corrected} corrected, {uncorrected} uncorrected, pending {pending}, failed {failed}"
        return _when(bool(pending or failed)), value

    def throttling(reasons: int) -> Judged:
        if reasons & SLOWED:
            return (State.BLOCK if policy.under_load else State.WARN), f"{reasons:#x}"
        return _when(bool(reasons & POWER_CAP), State.WARN), f"{reasons:#x}"

    def temperature(pair: tuple[int, int]) -> Judged:
        now, slowdown = pair
        state = State.BLOCK if now >= slowdown else _when(slowdown - now < CLOSE, State.WARN)
        return state, f"{now} of {slowdown} °C"

    def width(pair: tuple[int, int]) -> Judged:
        return _when(pair[0] < pair[1]), f"x{pair[0]} of x{pair[1]}"

    def generation(pair: tuple[int, int]) -> Judged:
        # An idle link is slowed down to save power.
        return _when(policy.under_load and pair[0] < pair[1]), f"{pair[0]} of {pair[1]}"

    def repair(pending: tuple[int, int]) -> Judged:
        names = [name for name, flag in zip(("channel", "TPC"), pending, strict=True) if flag]
        return _when(bool(names)), f"{' and '.join(names)} pending" if names else "none pending"

    def fabric(pair: tuple[int, int]) -> Judged:
        state, code = pair
        value = FABRIC[state] if 0 <= state < len(FABRIC) else f"state {state}"
        if value == FABRIC[0]:
            return State.UNKNOWN, value
        return _when(value != FABRIC[-1] or code != 0), f"{value} with error {code}" if code else value

    def power(pair: tuple[int, int]) -> Judged:
        return _when(pair[0] < pair[1], State.WARN), f"{pair[0] / 1000:g} of {pair[1] / 1000:g} W"

    def links(states: tuple[int, ...]) -> Judged:
        return _when(not all(states)), f"{sum(states)} of {len(states)} active"

    def tenants(pids: tuple[int, ...]) -> Judged:
        others = sorted(set(pids).difference(policy.tenants))
        return _when(bool(others), State.WARN), f"PIDs {', '.join(map(str, others))}" if others else "none"

    table: list[tuple[str, Callable[[Any], Judged], str, str]] = [
        ("recovery_action", recovery, "none", "nvml.h"),
        ("ecc_mode", mode(policy.ecc), f"current and pending {int(policy.ecc)}", "ours"),
        ("uncorrectable", count(), "0 since the driver was loaded", "ours"),
        ("uncorrectable_ever", count(State.WARN), "0", "ours"),
        ("remap", remap, "none pending, none failed", "NVIDIA's GPU memory error management"),
        ("remap_banks", count(State.WARN), "0 banks without spare rows", "ours"),
        ("sram", count(), "below its threshold", "nvml.h"),
        ("retired_pages", count(), "none pending", "nvml.h"),
        ("repair", repair, "none pending", "nvml.h"),
        ("throttling", throttling, "not slowed down", "ours"),
        ("temperature", temperature, f"{CLOSE} °C below slowdown", "ours"),
        ("pcie_width", width, "the widest", "ours"),
        ("pcie_generation", generation, "the newest under load", "ours"),
        ("replays", lambda number: (State.PASS, str(number)), "recorded only", "ours"),
        ("nvlink", links, "all active", "ours"),
        ("fabric", fabric, "completed", "nvml.h"),
        ("mig", mode(policy.mig), f"current and pending {int(policy.mig)}", "ours"),
        ("inforom", lambda sound: (_when(not sound), "sound" if sound else "corrupt"), "sound", "nvml.h"),
        ("power", power, "the device's own limit", "ours"),
        ("tenants", tenants, "nobody else", "ours"),
    ]
    found = []
    for check, judged, limit, source in table:
        state, value = _read(read.get(check, UNASKED), judged)
        found.append(Finding(check, state, value, limit, source, device.uuid))
    return found


def _fit(device: Device, need: Need | None, policy: Policy) -> list[Finding]:
    if need is None:
        return []
    wanted = need.memory * policy.memory_margin

    def memory(free: int) -> Judged:
        return _when(free < wanted), f"{free / GIB:.2f} GiB free"

    def capability(pair: tuple[int, int]) -> Judged:
        least = need.compute_capability if need else None
        return _when(least is not None and pair < least), f"{pair[0]}.{pair[1]}"

    state, value = _read(device.readings.get("free", UNASKED), memory)
    limit = f"{wanted / GIB:.2f} GiB = {policy.memory_margin:g} x ({need.arithmetic()})"
    found = [Finding("memory", state, value, limit, "need", device.uuid)]
    if need.compute_capability:
        state, value = _read(device.readings.get("compute_capability", UNASKED), capability)
        limit = "{}.{} or newer".format(*need.compute_capability)
        found.append(Finding("compute_capability", state, value, limit, "need", device.uuid))
    return found
