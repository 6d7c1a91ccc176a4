"""What ``docs/access.md`` tells people to declare is accepted, and means what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from ninelives.access.grants import needs
from ninelives.estate import Estate
from ninelives.estate.check import check_references
from ninelives.estate.document import read_document

ROOT = Path(__file__).parents[3]


def test_the_example_is_sound_and_lets_serving_read_at_the_standby_in_a_failover() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "access.md").read_text(), re.DOTALL)
    shown = yaml.safe_load(example)
    data = json.loads(json.dumps(read_document(ROOT / "include/estates/demo/estate.yaml").data))
    for part in ("datasets", "models"):
        data[part][0] |= shown.pop(part)[0]
    data["vault"]["region"] = "eu-west-1"  # backups do not leave the example's regions either
    estate = Estate.model_validate(data | shown)
    assert check_references(estate) == []
    (need,) = needs(estate, "arrival-delay", "paris", "dublin")
    assert (need.who, [one.subject for one in need.targets]) == ("serving", ["dataset flights", "model arrival-delay"])
