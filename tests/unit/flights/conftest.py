import pytest

from ninelives.flights.data import Flights


@pytest.fixture(scope="session")
def flights() -> Flights:
    """The real year, read once."""
    return Flights.load()
