"""Pages inside Airflow, on a real API server: in its menu, for who has signed in, and for nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from support.airflow_runs import PASSWORD, Api, api_server, environment, make_database
from support.models import estate_of_two_sites
from support.postgres import libpq, postgres

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.home import Home
from ninelives.recovery.safety import freeze

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(300),
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """With an estate whose readiness was looked at an hour ago, and whose automation is frozen."""
    folder, estate = tmp_path_factory.mktemp("pages"), estate_of_two_sites()
    home = Home(folder / "home")
    home.root.mkdir()
    document = estate.model_dump(mode="json")
    document["datasets"][0]["suite"] = "flights"
    document["people"].append({"name": "grace", "roles": ["approver"]})
    (home.root / "estate.yaml").write_text(json.dumps(document))
    service = {"service": "alpha", "mode": "active-passive", "state": "pass", "reason": "", "serving": ["paris"],
               "standbys": []}  # fmt: skip
    checked = datetime.now(UTC) - timedelta(hours=1)
    home.readiness.write_text(json.dumps({"checked_at": checked.isoformat(), "services": {"alpha": service}}))
    with pytest.MonkeyPatch.context() as patch, postgres() as url:
        migrate(url)
        ledger = SqlLedger(url)
        freeze(ledger, estate, reason="<b>works</b>", by="ada", lasting=timedelta(hours=1))
        ledger.close()
        given = libpq(url)
        connection = {"conn_type": "postgres", "host": given["host"], "port": given.get("port"),
                      "login": given["user"], "schema": given["dbname"]}  # fmt: skip
        environment(home.root, {"ninelives_ledger": connection}, patch.setenv)
        make_database()
        with api_server(Path(folder), "ada") as found:
            yield found


def page(api: Api, path: str, person: str = "") -> httpx.Response:
    client = httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60)
    if not person:
        return client.get(path)
    answer = client.post("/auth/token", json={"username": person, "password": PASSWORD})
    token = answer.raise_for_status().json()["access_token"]
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def test_readiness_is_in_the_menu_and_shown_with_its_age_and_the_freeze(api: Api) -> None:
    listed = page(api, "/api/v2/plugins", "ada").raise_for_status().json()["plugins"]
    views = [view for one in listed for view in one["external_views"]]
    assert [(view["name"], view["destination"]) for view in views if view["href"] == "/ninelives/readiness"] == [
        ("Readiness", "nav")
    ]
    shown = page(api, "/ninelives/readiness", "ada")
    assert shown.status_code == 200, shown.text
    assert "<h1>Readiness: 1 of 1 services could be moved</h1>" in shown.text
    assert "Stale: Checked 1h ago" in shown.text
    assert "automation is frozen by ada" in shown.text
    assert "&lt;b&gt;works&lt;/b&gt;" in shown.text
    assert shown.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize("path", ["readiness", "evidence/1", "gates/1", "experiments/1"])
def test_nobody_sees_a_page_without_signing_in(api: Api, path: str) -> None:
    assert page(api, f"/ninelives/{path}").status_code in {401, 403}
