"""Was this drill approved by somebody who may, and who is not the one who asked for it?"""

from __future__ import annotations

from collections.abc import Sequence

from ninelives.errors import Refused

APPROVE = "Approve"


def eligible_approvers(approvers: Sequence[str], requested_by: str | None) -> tuple[str, ...]:
    """Everybody who may answer; ``requested_by`` is ``None`` for a drill that the calendar started.

    :raises Refused: nobody is left
    """
    left = tuple(name for name in approvers if name != requested_by)
    if not left:
        raise Refused("approval", [f"nobody but {requested_by} may approve; name another approver in the estate"])
    return left


def check_approval(
    *, chosen: Sequence[str], responded_by: str | None, approvers: Sequence[str], requested_by: str | None
) -> str:
    """Judge the approval record itself; return who approved.

    :raises Refused: nobody answered, the answer was no, or the one who answered may not approve
    """
    if responded_by is None:
        raise Refused("approval", ["no person has answered; a task marked as done is not an approval"])
    if tuple(chosen) != (APPROVE,):
        raise Refused("approval", [f"{responded_by} answered {', '.join(chosen) or 'nothing'}"])
    if responded_by not in eligible_approvers(approvers, requested_by):
        raise Refused(
            "approval", [f"{responded_by} may not approve this: four eyes, and the role approver, are needed"]
        )
    return responded_by
