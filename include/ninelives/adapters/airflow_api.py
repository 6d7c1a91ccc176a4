"""Airflow's public REST API, as far as drills, backfills and the command line need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

from ninelives.adapters.http_client import http_client
from ninelives.errors import Refused, Unavailable
from ninelives.ports import Connection, IntervalRun, NativeBackfill, Schedule

PAGE = 100
"""Most that Airflow gives in one answer, as long as nobody allows more."""
RUN_TYPES = ("scheduled", "manual", "operator_triggered", "asset_triggered", "asset_materialization", "backfill")


@dataclass(frozen=True)
class HumanDecision:
    """The answer to an approval request as Airflow's own record has it; ``None`` where nobody answered."""

    chosen: tuple[str, ...]
    responded_by: str | None
    responded_at: datetime | None
    body: str | None = None
    """What was asked, as the one who answered saw it."""


class AirflowApi:
    """Signs in with user name and password, and again when the token has run out."""

    def __init__(self, url: str, login: str, password: str) -> None:
        self.url = url
        self._login = {"username": login, "password": password}
        # The first requests after a start make Airflow build its schemas: ten seconds of CPU time.
        self._client = http_client(url, timeout=httpx.Timeout(60.0, connect=5.0))
        self._token: str | None = None

    @classmethod
    def from_connection(cls, connection: Connection) -> Self:
        return cls(connection.url, connection.login or "", connection.password or "")

    def trigger(self, dag_id: str, conf: Mapping[str, Any], run_id: str | None = None) -> str:
        """Start a run and return its id; a run id that is there already is not started twice."""
        body = {"logical_date": None, "conf": dict(conf)} | ({"dag_run_id": run_id} if run_id else {})
        response = self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body, accept=(409,))
        return run_id if response.status_code == 409 and run_id else str(response.json()["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}").json()["state"])

    def runs(self, dag_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest runs, newest first."""
        params = {"order_by": "-run_after", "limit": limit}
        return list(self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params).json()["dag_runs"])

    def under_way(self, dag_id: str) -> bool:
        """Whether a run of the DAG waits or runs."""
        return any(run["state"] in {"queued", "running"} for run in self.runs(dag_id, limit=3))

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """State by task id; mapped tasks carry their index, ``verify_data[0]``."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        found = self._send("GET", path, params={"limit": 100}).json()["task_instances"]
        return {
            one["task_id"] if one["map_index"] < 0 else f"{one['task_id']}[{one['map_index']}]": one["state"]
            for one in found
        }

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        self._send("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}", json={"state": state})

    def human_decision(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> HumanDecision | None:
        """The approval record itself: a task's state and its XCom can be written by others, this cannot.

        :return: ``None`` where no request was made or nobody has answered
        """
        run = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        response = self._send("GET", f"{run}/taskInstances/{task_id}/{map_index}/hitlDetails", accept=(404,))
        if response.status_code == 404 or not response.json()["response_received"]:
            return None
        detail = response.json()
        user = detail["responded_by_user"]
        at = detail["responded_at"]
        return HumanDecision(
            tuple(detail["chosen_options"] or ()),
            user and user["name"],
            at and datetime.fromisoformat(at),
            detail.get("body"),
        )

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, map_index: int = -1) -> None:
        """Answer a question as the signed-in user."""
        run = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        path = f"{run}/taskInstances/{task_id}/{map_index}/hitlDetails"
        self._send("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def dag_ids(self) -> list[str]:
        return [dag["dag_id"] for dag in self._send("GET", "/api/v2/dags", params={"limit": 100}).json()["dags"]]

    def import_errors(self) -> list[dict[str, Any]]:
        return list(self._send("GET", "/api/v2/importErrors").json()["import_errors"])

    # --- missed intervals: ``ports.Scheduler``

    def schedule(self, dag_id: str) -> Schedule:
        found = self._send("GET", f"/api/v2/dags/{dag_id}/details").json()
        first, end = found["next_dagrun_data_interval_start"], found["next_dagrun_data_interval_end"]
        return Schedule(
            paused=found["is_paused"] or found["is_stale"],
            periodic=found["timetable_periodic"] and not found["timetable_partitioned"],
            has_intervals=first is None or first != end,
            start=_time(found["start_date"]),
            next_start=_time(found["next_dagrun_logical_date"]),
        )

    def ticks(self, dag_id: str, start: datetime, end: datetime) -> list[datetime]:
        body = {
            "dag_id": dag_id, "from_date": start.isoformat(), "to_date": end.isoformat(),
            "reprocess_behavior": "completed",
        }  # fmt: skip
        found = self._send("POST", "/api/v2/backfills/dry_run", json=body).json()["backfills"]
        return sorted(datetime.fromisoformat(one["logical_date"]) for one in found)

    def interval_runs(self, dag_id: str, start: datetime, end: datetime) -> list[IntervalRun]:
        found: list[IntervalRun] = []
        params = {"logical_date_gte": start.isoformat(), "logical_date_lte": end.isoformat(), "order_by": "id"}
        while True:
            page = {**params, "limit": PAGE, "offset": len(found)}
            answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=page).json()
            runs = answer["dag_runs"]
            found += [
                IntervalRun(
                    start=datetime.fromisoformat(run["logical_date"]),
                    state=run["state"],
                    by_hand=run["run_type"] not in {"scheduled", "backfill"},
                    conf=run["conf"] or {},
                )
                for run in runs
            ]
            if not runs or len(found) >= answer["total_entries"]:
                return sorted(found, key=lambda run: run.start)

    def open_backfill(self, dag_id: str) -> NativeBackfill | None:
        params = {"dag_id": dag_id, "order_by": "-id", "limit": PAGE}
        for one in self._send("GET", "/api/v2/backfills", params=params).json()["backfills"]:
            if one["completed_at"] is None:
                first, last, created = (
                    datetime.fromisoformat(one[key]) for key in ("from_date", "to_date", "created_at")
                )
                return NativeBackfill(one["id"], first, last, created, one["is_paused"])
        return None

    def start_backfill(
        self,
        dag_id: str,
        first: datetime,
        last: datetime,
        *,
        again: bool,
        max_active: int,
        conf: Mapping[str, Any] | None = None,
    ) -> int | None:
        body = {
            "dag_id": dag_id, "from_date": first.isoformat(), "to_date": last.isoformat(),
            "reprocess_behavior": "completed" if again else "failed", "max_active_runs": max_active,
            "dag_run_conf": dict(conf) if conf else None,
        }  # fmt: skip
        response = self._send("POST", "/api/v2/backfills", json=body, accept=(409,))
        return None if response.status_code == 409 else int(response.json()["id"])

    def live_runs(self) -> int:
        params = {"state": "running", "run_type": [kind for kind in RUN_TYPES if kind != "backfill"], "limit": 1}
        return int(self._send("GET", "/api/v2/dags/~/dagRuns", params=params).json()["total_entries"])

    def _send(self, method: str, path: str, accept: tuple[int, ...] = (), **kwargs: Any) -> httpx.Response:
        try:
            if self._token is None:
                self._sign_in()
            response = self._client.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **kwargs)
            if response.status_code == 401:
                self._sign_in()
                response = self._client.request(
                    method, path, headers={"Authorization": f"Bearer {self._token}"}, **kwargs
                )
        except httpx.HTTPError as error:
            raise Unavailable(f"Airflow's API at {self.url} does not answer: {error}; is it running?") from error
        if response.is_success or response.status_code in accept:
            return response
        if response.status_code >= 500:
            raise Unavailable(f"Airflow's API answered {response.status_code} to {method} {path}")
        raise Refused("Airflow", [f"{method} {path}: {response.status_code} {response.text[:500]}"])

    def _sign_in(self) -> None:
        response = self._client.post("/auth/token", json=self._login)
        if response.status_code >= 500:
            raise Unavailable(f"Airflow's API answered {response.status_code} to a sign-in")
        if not response.is_success:
            raise Refused("Airflow", [f"it does not accept the password of {self._login['username']!r}"])
        self._token = str(response.json()["access_token"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
