"""The steps of bringing sites that lived apart together again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.operators.base import EstateOperator

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


class PairOperator(EstateOperator):
    """One dataset at two sites.

    :param pair: one of those listed
    """

    template_fields = ("pair",)

    def __init__(self, *, pair: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pair = pair

    def meet(self, systems: EstateHook, decisions: dict[str, Decision] | None = None) -> Reconciliation:
        from ninelives.replication.reconcile import meet

        pair = self.pair
        return meet(systems, pair["dataset"], pair["site"], pair["other"], decisions=decisions)


class MergeSitesOperator(PairOperator):
    """Merge what needs nobody, leave the report as evidence, and return what a person has to decide."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.estate import Role
        from ninelives.replication.reconcile import apply_and_record

        result, record = apply_and_record(systems, self.meet(systems), holder=context["run_id"])
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

    template_fields = ()  # keys of objects are anybody's text: none is a template

    def __init__(self, *, question: Any, **kwargs: Any) -> None:
        super().__init__(
            subject=question["subject"],
            body=question["body"],
            options=question["options"],
            assigned_users=[{"id": name, "name": name} for name in question["operators"]],
            **kwargs,
        )
        self.question = question

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        if event["error_type"] == "timeout":
            raise AirflowSkipException(f"Nobody has answered; {self.question['id']} stays open.")
        super().process_trigger_event_error(event)


class ApplyDecisionsOperator(PairOperator):
    """Carry out what persons have decided, by Airflow's own record of their answers, and leave who decided what.

    :param questions: all that were asked, in that order
    :param asked_by: id of the task that asked
    """

    template_fields = ("pair", "questions")

    def __init__(self, *, questions: Any, asked_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.questions = questions
        self.asked_by = asked_by

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.reconcile import apply_and_record

        asked = [(index, one) for index, one in enumerate(self.questions or ()) if one["pair"] == self.pair]
        if not asked:
            return {"decided": {}, "open": []}
        decisions = self._decisions(systems, context, asked)
        reconciliation = self.meet(systems, decisions)
        if not decisions:
            return {"decided": {}, "open": [one.headline() for one in reconciliation.plan().questions]}
        result, record = apply_and_record(systems, reconciliation, holder=context["run_id"])
        for line in result.lines():
            self.log.info("%s", line)
        decided = {one.id: one.decision.by for one in result.decided if one.decision}
        return {"decided": decided, "open": [one.headline() for one in result.questions], "evidence": record.seq}

    def _decisions(self, systems: EstateHook, context: Context, asked: list[tuple[int, Any]]) -> dict[str, Decision]:
        """A task's state and its XCom can be written by others; the record of the answer cannot."""
        from ninelives.adapters.airflow_api import AirflowApi
        from ninelives.estate import Role
        from ninelives.replication.questions import check_decider

        api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
        decisions = {}
        for index, question in asked:
            answer = api.human_decision(context["dag"].dag_id, context["run_id"], self.asked_by, map_index=index)
            if answer is not None and answer.responded_at is not None:
                decisions[question["id"]] = check_decider(
                    question["id"],
                    chosen=answer.chosen,
                    responded_by=answer.responded_by,
                    at=answer.responded_at,
                    operators=systems.estate.people_with(Role.OPERATOR),
                )
        return decisions


class JudgeReconciliationOperator(EstateOperator):
    """Fail the run while a person still has to decide.

    :param applied: outputs of the tasks that carried out decisions
    """

    template_fields = ("applied",)

    def __init__(self, *, applied: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.applied = applied

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        left = [headline for one in self.applied or () for headline in one["open"]]
        if left:
            more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
            raise AirflowFailException(
                f"{len(left)} questions are open, and each site keeps its own until somebody decides: "
                f"{'; '.join(left[:5])}{more}. The next run asks again; at once answer with `ninelives reconcile plan` "
                "and `ninelives reconcile apply --decide`."
            )
        return {"decided": sum(len(one["decided"]) for one in self.applied or ())}
