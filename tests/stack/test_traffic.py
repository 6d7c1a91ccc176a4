"""Whose requests count, on the real gateway: users' always, what drills and probes send never."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from support.models import ROW, estate_of_two_sites
from support.processes import GatewayProcess, SiteProcesses, stopping, wait_until

from ninelives.probing.traffic import user_failures
from ninelives.serving.protocol import DEGRADED_HEADER, TRAFFIC_HEADER, encode_request

pytestmark = pytest.mark.stack


def test_users_failures_in_an_outage_count_and_those_of_drills_and_probes_do_not(tmp_path: Path) -> None:
    """No replica runs: ``beta`` has a degraded answer, ``gamma`` has none."""
    sites = [SiteProcesses(name, tmp_path / name, models="beta,gamma") for name in ("paris", "dublin")]
    envoy = GatewayProcess(estate_of_two_sites(), sites, tmp_path / "gateway")

    def ask(service: str, traffic: str | None) -> int | str:
        headers = {TRAFFIC_HEADER: traffic} if traffic else {}
        url = f"{envoy.url}/services/{service}/v2/models/{service}/infer"
        answer = httpx.post(url, json=encode_request([ROW]), headers=headers, timeout=10, trust_env=False)
        return "degraded" if DEGRADED_HEADER in answer.headers else answer.status_code

    def lines() -> list[str]:
        return envoy.process.log.read_text().splitlines()

    with stopping(envoy):
        envoy.start()
        for service, said in (("beta", "degraded"), ("gamma", 503)):
            for traffic in ("probe", "drill", None, "drill", None):
                assert ask(service, traffic) == said
        wait_until(lambda: sum('"traffic"' in line for line in lines()) == 10, "the gateway has written its log")
    assert [len(user_failures(lines(), service)) for service in ("beta", "gamma")] == [2, 2]
