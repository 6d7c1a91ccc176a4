"""From one look at the accelerators to a report that says whether they may serve."""

from __future__ import annotations

from ninelives.accelerators import nvidia
from ninelives.accelerators.findings import Finding, Report, State
from ninelives.estate.accelerators import Need, Policy
from ninelives.ports import Accelerators, Look


def check_accelerators(probe: Accelerators, need: Need | None = None, policy: Policy | None = None) -> Report:
    """Judge every accelerator of this machine; what cannot be read is unknown, never good.

    :param need: what the model needs of each; none: only their health is judged
    """
    return judge_look(probe.kind, probe.look(), need, policy or Policy())


def judge_look(kind: str, look: Look, need: Need | None, policy: Policy) -> Report:
    """The same of what was seen already, so that several models can be judged by one look."""
    if look.absent is not None:
        found = [Finding("library", State.SKIP, look.absent, "there", "ours")]
    elif look.broken is not None:
        found = [Finding("driver", State.BLOCK, look.broken, "starts", "nvml.h")]
    else:
        found = nvidia.judge(look, need, policy)
    return Report(kind, tuple(found), frozenset(policy.optional), cpu=policy.kind == "cpu")
