"""
# Validate accelerators

Look at the accelerators of every machine that the estate names, each on that machine.

- **Runs** every twenty minutes where the estate declares such machines, because a promotion relies on no look that is
  older than an hour; or by hand.
- **Needs** on each machine a worker that listens to the queue called like the machine, and to no other. Where nothing
  listens, the task stays queued and the evidence grows old, which blocks. Where the estate runs on Kubernetes, a pod on
  the machine's node looks instead.
- **Looks** at driver, recovery action, memory errors, XIDs, temperature, links, other processes and free memory, and
  whether each model of the site fits.
- **Drains** the machine's replicas where it has read a fault, unless no other could answer, and gives them back when
  all is sound.
- **Fails** where a machine may not serve, with each reason. Read the evidence that the task names; a device that needs
  a reset says so. Promotions of models that need an accelerator are refused meanwhile, and failovers go elsewhere.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, accelerator_hosts, calendar
from ninelives_airflow.operators.accelerator import JudgeAcceleratorsOperator, validation

hosts = accelerator_hosts()

with DAG(
    dag_id="validate_accelerators",
    schedule=calendar("*/20 * * * *") if hosts else None,
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULT_ARGS, "retries": 0},
    tags=[Tag.RELEASE, Tag.RECOVERY],
    doc_md=__doc__,
):
    judge_accelerators = JudgeAcceleratorsOperator(task_id="judge_accelerators")
    for site, host in hosts:  # not mapped: Airflow maps arguments, and a task's queue is none
        validation(site, host) >> judge_accelerators
