"""What one answer means to a user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ninelives.probing.golden import Case
from ninelives.probing.records import Outcome
from ninelives.releases.golden import answers_match
from ninelives.serving.protocol import DEGRADED_HEADER, SITE_HEADER, VERSION_HEADER, decode_response

_LONGEST_ERROR = 200
"""characters"""


@dataclass(frozen=True)
class Reply:
    """What came back over the wire; ``error`` where nothing whole did."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """lower-case names"""
    body: bytes = b""
    error: str | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class Judgement:
    outcome: Outcome
    error: str | None = None
    site: str | None = None
    model_version: str | None = None
    unknown_version: bool = False
    """The answer came from a release that the golden file did not know when it was last read."""


def classify(reply: Reply, case: Case, *, latency: float, objective: float) -> Judgement:
    """Good, slow, degraded, wrong or failed; unknown where the answering release is known but this case's answer not.

    :param latency: seconds until the whole answer was there
    :param objective: seconds; a correct answer that took longer is slow
    """
    site, version = reply.headers.get(SITE_HEADER), reply.headers.get(VERSION_HEADER)

    def judged(outcome: Outcome, error: str | None = None, *, unknown_version: bool = False) -> Judgement:
        return Judgement(outcome, error and error[:_LONGEST_ERROR], site, version, unknown_version)

    if reply.error is not None:
        return judged(Outcome.FAILED, reply.error)
    if reply.status != 200:
        return judged(Outcome.FAILED, f"status {reply.status}")
    if DEGRADED_HEADER in reply.headers:
        return judged(Outcome.DEGRADED)
    try:
        answer = decode_response(json.loads(reply.body), reply.headers, latency)
    except (ValueError, RecursionError) as error:
        return judged(Outcome.WRONG, f"not a V2 answer: {error}")
    version = answer.model_version
    if version is None:
        return judged(Outcome.WRONG, "the answer does not say which model version it is from")
    known = case.answers.get(version)
    if known is None and version in case.versions:
        return judged(Outcome.UNKNOWN, f"no golden answer of model version {version} to this request")
    if known is None:
        return judged(Outcome.WRONG, f"model version {version} has no golden answers", unknown_version=True)
    if not answers_match(known.outputs, answer.outputs, known.tolerance):
        got = {name: answer.outputs.get(name) for name in known.outputs}
        return judged(Outcome.WRONG, f"expected {dict(known.outputs)}, got {got}")
    return judged(Outcome.GOOD if latency <= objective else Outcome.SLOW)
