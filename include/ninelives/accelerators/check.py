"""From one look at the accelerators to a report that says whether they may serve."""

from __future__ import annotations

from ninelives.accelerators import nvidia
from ninelives.accelerators.findings import Finding, Report, State
from ninelives.accelerators.need import Need
from ninelives.accelerators.policy import Policy
from ninelives.ports import Accelerators


def check_accelerators(probe: Accelerators, need: Need | None = None, policy: Policy | None = None) -> Report:
    """Judge every accelerator of this machine; what cannot be read is unknown, never good.

    :param need: what the model needs of each; none: only their health is judged
    """
    policy = policy or Policy()
    look = probe.look()
    if look.absent is not None:
        found = [Finding("library", State.SKIP, look.absent, "there", "ours")]
    elif look.broken is not None:
        found = [Finding("driver", State.BLOCK, look.broken, "starts", "nvml.h")]
    else:
        found = nvidia.judge(look, need, policy)
    return Report(probe.kind, tuple(found), policy.optional, cpu=policy.kind == "cpu")
