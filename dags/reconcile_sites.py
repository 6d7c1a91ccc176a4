"""
# Reconcile sites

Bring every two open sites together: merge what only one of them changed, and let a person decide what both did.

- **Runs** daily, by hand, and when a lost site takes traffic again.
- **Merges** by what both sites last agreed on, never by clock: objects by union, a deletion follows into the trash, a
  release that descends from the other wins. Nothing is overwritten before its bytes are kept elsewhere.
- **Then** the gate judges every copy that it changed, and again every one that a decision changed.
- **Asks** an operator of the estate where both sides changed the same thing, or where many objects are gone at once:
  see *Required Actions*. Until somebody answers, each site keeps its own, and both versions are kept at both.
- **Waits** twenty hours without a slot. An unanswered question stays open in the stores, and the next run asks again.
- **Fails** in `judge_reconciliation` while a question is open, and in `merge_sites` where no site has a good copy: then
  `ninelives tasks` has what to do.
- **Leaves** a report of what was merged, kept and decided, and by whom, in each task's log and in the ledger.
"""

import pendulum
from airflow.sdk import DAG, AssetOrTimeSchedule, TriggerRule, task_group

from ninelives_airflow.assets import INCIDENT_OVER
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.gate import QualityGateOperator
from ninelives_airflow.operators.reconcile import (
    ApplyDecisionOperator,
    AskQuestionOperator,
    JudgeReconciliationOperator,
    ListPairsOperator,
    ListQuestionsOperator,
    MergeSitesOperator,
)
from ninelives_airflow.operators.replication import ListCopiesOperator

with DAG(
    dag_id="reconcile_sites",
    schedule=AssetOrTimeSchedule(timetable=calendar("30 1 * * *"), assets=[INCIDENT_OVER]),
    catchup=False,
    max_active_runs=4,  # one that waits for a person must not hold up what follows an incident
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY, Tag.DATA],
    doc_md=__doc__,
):
    list_pairs = ListPairsOperator(task_id="list_pairs")
    merge_sites = MergeSitesOperator.partial(task_id="merge_sites").expand(pair=list_pairs.output)
    # A pair that cannot be merged keeps nobody from deciding about the others.
    list_questions = ListQuestionsOperator(
        task_id="list_questions", merged=merge_sites.output, trigger_rule=TriggerRule.ALL_DONE
    )
    # Merging changed every copy: without a verdict on each, the next failover would have to wait for the gate.
    list_copies = ListCopiesOperator(task_id="list_copies", trigger_rule=TriggerRule.ALL_DONE)
    check_quality = QualityGateOperator.partial(task_id="check_quality").expand_kwargs(list_copies.output)
    merge_sites >> list_copies

    @task_group
    def decide(question):
        ask_question = AskQuestionOperator(
            task_id="ask_question", question=question, response_timeout=pendulum.duration(hours=20)
        )
        apply_decision = ApplyDecisionOperator(
            task_id="apply_decision",
            question=question,
            asked_by=ask_question.task_id,
            trigger_rule=TriggerRule.ALL_DONE,
            max_active_tis_per_dagrun=1,  # two at once would find the sites changing under them
        )
        ask_question >> apply_decision
        return apply_decision.output

    decided = decide.expand(question=list_questions.output)
    # What a person decides, hours later perhaps, changes copies again.
    list_decided = ListCopiesOperator(task_id="list_decided")
    check_decided = QualityGateOperator.partial(task_id="check_decided").expand_kwargs(list_decided.output)
    decided >> list_decided
    judge_reconciliation = JudgeReconciliationOperator(
        task_id="judge_reconciliation", merged=merge_sites.output, applied=decided
    )
