"""The steps of bringing sites that lived apart together again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.operators.approval import assignees
from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.operators.human_task import ToldToPeopleOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.replication.questions import Decision
    from ninelives.replication.reconcile import Reconciliation
    from ninelives_airflow.hooks.estate import EstateHook

MOST_ASKED = 20
"""Questions about one dataset at two sites that a run asks; the others stay open for the next."""


class ListPairsOperator(EstateOperator):
    """List every dataset at every two of its sites, ``dataset``, ``site`` and ``other``, that are open."""

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.replication.reconcile import pairs

        closed = systems.gateway().state().closed_sites
        return [{"dataset": dataset, "site": a, "other": b} for dataset, a, b in pairs(systems.estate, closed)]


def meet_pair(
    systems: EstateHook, pair: dict[str, str], decisions: dict[str, Decision] | None = None
) -> Reconciliation:
    from ninelives.replication.reconcile import meet

    return meet(systems, pair["dataset"], pair["site"], pair["other"], decisions=decisions)


class MergeSitesOperator(ToldToPeopleOperator):
    """Merge what needs nobody, leave the report as evidence, and return what a person has to decide.

    :param pair: one of those listed
    """

    template_fields = ("pair",)

    def __init__(self, *, pair: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pair = pair

    def brings(self) -> tuple[str, str, int]:
        return self.pair["dataset"], self.pair["other"], 1

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.estate import Role
        from ninelives.replication.reconcile import apply_and_record

        result, record = apply_and_record(systems, meet_pair(systems, self.pair), holder=context["run_id"])
        for line in result.lines():
            self.log.info("%s", line)
        operators = systems.estate.people_with(Role.OPERATOR)
        asked = [
            {
                "pair": self.pair,
                "id": question.id,
                "subject": question.headline(),
                "body": question.details(),
                "options": list(question.options),
                "operators": list(operators),
            }
            for question in result.questions[:MOST_ASKED]
        ]
        return {"questions": asked, "open": len(result.questions), "evidence": record.seq}


class ListQuestionsOperator(EstateOperator):
    """List what is open between any two sites, in the order in which it is asked.

    :param merged: outputs of the merges; one that failed has none
    """

    template_fields = ("merged",)

    def __init__(self, *, merged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.merged = merged

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        return [question for one in self.merged or () if one for question in one["questions"]]


class AskQuestionOperator(HITLOperator):
    """Ask an operator of the estate, who sees in the UI who wrote what. Waits without a slot.

    Nobody answers in time: the task is skipped, the question stays open, and the next run asks again.

    :param question: one of those listed
    """

    template_fields = ("question",)  # and not the text: keys of objects are anybody's, and none is a template

    def __init__(self, *, question: Any, **kwargs: Any) -> None:
        super().__init__(subject="", options=["-"], **kwargs)
        self.question = question

    def execute(self, context: Context) -> Any:
        self._read()
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        self._read()
        return super().execute_complete(context, event)

    def _read(self) -> None:
        self.subject, self.body, self.options = (self.question[name] for name in ("subject", "body", "options"))
        self.assigned_users = assignees(self.question["operators"])

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        if event["error_type"] == "timeout":
            raise AirflowSkipException(f"Nobody has answered; {self.question['id']} stays open.")
        super().process_trigger_event_error(event)


class ApplyDecisionOperator(EstateOperator):
    """Carry out what a person has decided, by Airflow's own record of the answer, and leave who decided what.

    :param question: one of those listed
    :param asked_by: id of the task that asked
    """

    template_fields = ("question",)

    def __init__(self, *, question: Any, asked_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.question = question
        self.asked_by = asked_by

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.reconcile import apply_and_record

        decision = self._decision(systems, context)
        if decision is None:
            return {"open": self.question["subject"]}
        reconciliation = meet_pair(systems, self.question["pair"], {self.question["id"]: decision})
        result, record = apply_and_record(systems, reconciliation, holder=context["run_id"])
        for line in result.lines():
            self.log.info("%s", line)
        return {"choice": decision.choice, "by": decision.by, "evidence": record.seq}

    def _decision(self, systems: EstateHook, context: Context) -> Decision | None:
        """A task's state and its XCom can be written by others; the record of the answer cannot."""
        from ninelives.adapters.airflow_api import AirflowApi
        from ninelives.estate import Role
        from ninelives.replication.questions import check_decider

        api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
        index = context["ti"].map_index
        answer = api.human_decision(context["dag"].dag_id, context["run_id"], self.asked_by, map_index=index)
        if answer is None or answer.responded_at is None:
            return None
        return check_decider(
            self.question["id"],
            chosen=answer.chosen,
            responded_by=answer.responded_by,
            at=answer.responded_at,
            operators=systems.estate.people_with(Role.OPERATOR),
        )


class JudgeReconciliationOperator(EstateOperator):
    """Fail the run while a person still has to decide.

    :param merged: outputs of the merges
    :param applied: outputs of the tasks that carried out decisions
    """

    template_fields = ("merged", "applied")

    def __init__(self, *, merged: Any, applied: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.merged = merged
        self.applied = applied

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        # Of a mapped group that asked a single question Airflow hands over what it returned, and not a list of it.
        applied = [self.applied] if isinstance(self.applied, dict) else list(self.applied or ())
        left = [one["open"] for one in applied if "open" in one]
        more = sum(one["open"] - len(one["questions"]) for one in self.merged or ())
        if left or more:
            shown = "; ".join(left[:5]) + ("; and others" if more or len(left) > 5 else "")
            raise AirflowFailException(
                f"{len(left) + more} questions are open, and each site keeps its own until somebody decides: {shown}. "
                "The next run asks again; at once answer with `ninelives reconcile plan` and "
                "`ninelives reconcile apply --decide`."
            )
        return {"decided": len(applied)}
