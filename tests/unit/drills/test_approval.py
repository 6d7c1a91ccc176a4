"""Four eyes by identity, judged on the approval record itself."""

from __future__ import annotations

import pytest

from ninelives.drills.approval import check_approval, eligible_approvers
from ninelives.errors import Refused

APPROVERS = ("grace", "ada")


def test_who_started_the_drill_cannot_approve_it() -> None:
    assert eligible_approvers(APPROVERS, "ada") == ("grace",)
    with pytest.raises(Refused, match="may not approve"):
        check_approval(chosen=["Approve"], responded_by="ada", approvers=APPROVERS, requested_by="ada")


def test_another_approver_can() -> None:
    assert check_approval(chosen=["Approve"], responded_by="grace", approvers=APPROVERS, requested_by="ada") == "grace"


def test_a_task_that_was_marked_done_is_no_approval() -> None:
    with pytest.raises(Refused, match="no person has answered"):
        check_approval(chosen=["Approve"], responded_by=None, approvers=APPROVERS, requested_by="ada")


@pytest.mark.parametrize("chosen", [[], ["Reject"], ["Approve", "Reject"], ["approve"]])
def test_anything_but_one_clear_yes_is_a_no(chosen: list[str]) -> None:
    with pytest.raises(Refused, match="answered"):
        check_approval(chosen=chosen, responded_by="grace", approvers=APPROVERS, requested_by="ada")


def test_somebody_without_the_role_cannot_approve() -> None:
    with pytest.raises(Refused, match="may not approve"):
        check_approval(chosen=["Approve"], responded_by="mallory", approvers=APPROVERS, requested_by="ada")


def test_nobody_left_to_approve_is_said_at_once() -> None:
    with pytest.raises(Refused, match="nobody but ada"):
        eligible_approvers(("ada",), "ada")
