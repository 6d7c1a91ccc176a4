"""One attempt at a training: it finishes, or says what it must wait for. Repeated, it goes on from its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from ninelives.errors import Refused, Unavailable
from ninelives.gates.evidence import usable_verdict
from ninelives.ports import Lease, Ledger, Systems
from ninelives.training.checkpoints import Keeper
from ninelives.training.connectivity import LEDGER, REGISTRY, store_of
from ninelives.training.records import KIND, Training, begin, finish
from ninelives.versions.copies import Healed, make_whole

LEASE_TTL = timedelta(minutes=15)
"""Longer than any training takes from one checkpoint to the next; renewed at each."""

PING = 2.0
"""seconds"""

Model_co = TypeVar("Model_co", covariant=True)
Model = TypeVar("Model")


class Fit(Protocol[Model_co]):
    """Trains on the data version that is whole at ``site``, from the keeper's newest checkpoint on."""

    def __call__(self, site: str, keeper: Keeper) -> Model_co: ...


class Publish(Protocol):
    """Registers and publishes a trained model; a repeat finds what is there. Raises ``Unavailable``."""

    def __call__(self, trained: Any, data_hash: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Wait:
    """Why it cannot go on, and which sources must be back: one of each group."""

    reasons: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        return "; ".join(self.reasons)


def attempt(
    systems: Systems, training: Training, fit: Fit[Model], publish: Publish, *, holder: str, gated: bool
) -> dict[str, Any] | Wait:
    """Train at the first site that can, and publish; every site is tried at most once.

    :param holder: who trains; another holder waits until this one is done or dead for ``LEASE_TTL``
    :param gated: ask the gate about the site's data first; its no is a reason to wait, not a failure
    :raises Refused: the training itself says no
    :raises Corrupted: the data version is right nowhere
    """
    declared = systems.estate.dataset_by_name[training.dataset]
    sites = (declared.primary, *declared.copies)
    try:
        ledger = systems.ledger()
        with _alone(ledger, training, holder) as renew:
            begin(ledger, training)
            return _at_some_site(systems, training, fit, publish, sites, ledger, renew, gated)
    except Unavailable as error:
        return Wait((str(error),), ((LEDGER,),))


def _at_some_site(
    systems: Systems,
    training: Training,
    fit: Fit[Model],
    publish: Publish,
    sites: tuple[str, ...],
    ledger: Ledger,
    renew: Callable[[], None],
    gated: bool,
) -> dict[str, Any] | Wait:
    reasons: list[str] = []
    for site in sites:
        others = [other for other in sites if other != site]
        facts = {"data_version": training.data_version, "recipe": training.recipe}
        keeper = Keeper(systems, training.stream, site, others, facts, renew)
        try:
            systems.store(site).ping(PING)
            gate = usable_verdict(systems, training.dataset, site).seq if gated else None
        except (Unavailable, Refused) as error:
            reasons.append(f"{site}: {error}")
            continue
        try:
            whole = make_whole(systems, training.dataset, training.data_version, site)
            trained = fit(site, keeper)
        except Unavailable as error:
            reasons.append(f"{site}: {error}")
            continue
        try:
            result = publish(trained, whole.hash)
            record = finish(ledger, training, {**_how(keeper, whole), "gate": gate})
        except Unavailable as error:
            return Wait(
                (f"trained at {site}, not published: {error}",), ((store_of(sites[0]),), (REGISTRY,), (LEDGER,))
            )
        return {**result, "training": record.seq, **_how(keeper, whole)}
    return Wait(tuple(reasons), (tuple(store_of(site) for site in sites), (LEDGER,)))


def _how(keeper: Keeper, whole: Healed) -> dict[str, Any]:
    begun = keeper.resumed_from
    return {
        "trained_at": keeper.site,
        "resumed_from": {"step": begun.step, "site": begun.site} if begun else None,
        "checkpoints": keeper.kept,
        "checkpoints_missed": dict(keeper.missed),
        "data_hash": whole.hash,
        "healed": dict(whole.copied),
    }


@contextmanager
def _alone(ledger: Ledger, training: Training, holder: str) -> Iterator[Callable[[], None]]:
    """Two that train the same do no harm, since they write the same bytes; they only waste each other's time."""

    def take() -> Lease:
        try:
            return ledger.take_lease(f"{KIND}/{training.stream}", holder, LEASE_TTL)
        except Refused as error:
            raise Unavailable(f"another run trains {training.model} on the same data: {error}") from error

    latest = take()

    def renew() -> None:
        nonlocal latest
        latest = take()

    try:
        yield renew
    finally:
        ledger.release_lease(latest)
