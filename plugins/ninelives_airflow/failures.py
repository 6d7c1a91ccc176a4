"""The only place where Ninelives' errors become Airflow's: what can succeed on retry retries, nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from ninelives.errors import NinelivesError, Unavailable


@contextmanager
def airflow_failures() -> Iterator[None]:
    """Map ``Unavailable`` to a failure that retries and every other error of ours to one that does not."""
    try:
        yield
    except Unavailable as error:
        raise AirflowException(str(error)) from error
    except NinelivesError as error:
        raise AirflowFailException(str(error)) from error
