"""Open a registry's database as MLflow itself does, in a process of its own: its URL on standard input.

MLflow refuses a database whose tables are not those of its version, and what cannot be read raises.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print how many model versions there are, each with a run that can be read."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    url = sys.stdin.read().strip()
    registry = Registry(url)  # type: ignore[no-untyped-call]
    tracking = Tracking(url, "mlflow-artifacts:/")  # type: ignore[no-untyped-call]
    count, token = 0, None
    while True:
        page = registry.search_model_versions(max_results=1000, page_token=token)  # type: ignore[no-untyped-call]
        for version in page:
            if version.run_id:
                tracking.get_run(version.run_id)  # type: ignore[no-untyped-call]
        count, token = count + len(page), page.token
        if not token:
            break
    print(json.dumps({"versions": count}))


if __name__ == "__main__":
    main()
