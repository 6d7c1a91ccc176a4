"""When a site counts as lost, and when as back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ninelives.recovery.detection import Change, Observation, Observer, SiteChange, SiteWatch

SITES = ("paris", "dublin")


def seen(site: str, *, gateway: bool | None = True, store: bool | None = True, replicas: bool | None = True) -> list:
    return [
        Observation(site, Observer.GATEWAY, gateway),
        Observation(site, Observer.STORE, store),
        Observation(site, Observer.REPLICAS, replicas),
    ]


def rounds(watch: SiteWatch, *each: list[Observation]) -> list[SiteChange]:
    return [change for at, observations in enumerate(each) for change in watch.round(float(at), observations)]


DOWN = seen("paris", gateway=False, store=False, replicas=False) + seen("dublin")
UP = seen("paris") + seen("dublin")


def test_three_rounds_of_agreement_declare_a_loss_once_with_its_reasons() -> None:
    changes = rounds(SiteWatch(SITES), UP, DOWN, DOWN, DOWN, DOWN, DOWN)
    assert [(one.site, one.change, one.first_seen, one.at) for one in changes] == [("paris", Change.LOST, 1.0, 3.0)]
    assert len(changes[0].reasons) == 3


def test_one_observer_alone_never_declares_a_loss() -> None:
    for alone in ("gateway", "store", "replicas"):
        one = seen("paris", **{alone: False}) + seen("dublin")
        assert rounds(SiteWatch(SITES), *[one] * 20) == []


def test_an_observer_that_could_not_look_counts_for_neither_side() -> None:
    blind = seen("paris", gateway=None, store=False, replicas=True) + seen("dublin")
    assert rounds(SiteWatch(SITES), *[blind] * 20) == []
    two_agree = seen("paris", gateway=None, store=False, replicas=False) + seen("dublin")
    assert [one.change for one in rounds(SiteWatch(SITES), *[two_agree] * 5)] == [Change.LOST]


def test_a_flapping_site_is_not_declared_lost() -> None:
    assert rounds(SiteWatch(SITES), *([DOWN, DOWN, UP] * 10)) == []


def test_when_every_site_seems_gone_the_watcher_is_doubted_instead() -> None:
    both = DOWN[:3] + seen("dublin", gateway=False, store=False, replicas=False)
    assert rounds(SiteWatch(SITES), *[both] * 20) == []


def test_the_last_site_is_never_declared_lost() -> None:
    second = DOWN[:3] + seen("dublin", gateway=False, store=False, replicas=False)
    changes = rounds(SiteWatch(SITES), DOWN, DOWN, DOWN, second, second, second, second)
    assert [(one.site, one.change) for one in changes] == [("paris", Change.LOST)]


def test_a_lost_site_is_back_only_when_nobody_says_down_for_five_rounds() -> None:
    half = seen("paris", gateway=False) + seen("dublin")
    changes = rounds(SiteWatch(SITES, {"paris"}), UP, UP, UP, UP, half, UP, UP, UP, UP, UP)
    assert [(one.change, one.at) for one in changes] == [(Change.BACK, 9.0)]


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=6, max_size=6), max_size=40))
def test_losses_and_returns_alternate_and_at_least_one_site_is_left(script: list[list[bool | None]]) -> None:
    watch = SiteWatch(SITES)
    last: dict[str, Change] = {}
    for at, answers in enumerate(script):
        observations = seen("paris", gateway=answers[0], store=answers[1], replicas=answers[2])
        observations += seen("dublin", gateway=answers[3], store=answers[4], replicas=answers[5])
        for change in watch.round(float(at), observations):
            assert last.get(change.site, Change.BACK) is not change.change
            last[change.site] = change.change
        assert len(watch.lost) < len(SITES)
