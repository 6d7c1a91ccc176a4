"""Which programs an estate needs on one machine: pure, from the estate and from what the gateway was last told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ninelives.errors import Refused
from ninelives.estate import Estate, Mode
from ninelives.estate.model import StandbyKind
from ninelives.stack.ports import REPLICAS


class Part(StrEnum):
    """What can be left out of a lighter stack; PostgreSQL and the sites always run."""

    GATEWAY = "gateway"
    MLFLOW = "mlflow"
    AIRFLOW = "airflow"
    PROBER = "prober"
    FEEDER = "feeder"
    KEEPER = "keeper"
    VAULT = "vault"


AIRFLOW_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


@dataclass(frozen=True)
class Program:
    """One process under supervision, started by ``python -m ninelives.stack.launch NAME``."""

    name: str
    kind: str
    """Picks the command: postgres, store, link, replica, an Airflow component or a ``Part``."""
    part: Part | None = None
    site: str | None = None
    number: int = 0
    """1, 2, ... for the replicas of a site"""
    stop_signal: str = "TERM"
    stop_wait: int = 10
    """seconds from the stop signal to SIGKILL"""
    start_seconds: int = 1
    """How long it must run to count as started; exits before that are what makes supervisord give up."""

    @property
    def group(self) -> str:
        """The supervisord group; a site is one group, so that one call takes all of it away."""
        return site_group(self.site) if self.site else self.name


def site_group(site: str) -> str:
    """Prefixed, because a site may be called like a program."""
    return f"site-{site}"


def programs(estate: Estate, without: frozenset[Part] = frozenset()) -> tuple[Program, ...]:
    """Every program of the local estate, in the order in which they depend on each other."""
    every = [
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients to leave.
        Program("postgres", "postgres", stop_signal="INT", stop_wait=30),
        *(program for site in estate.site_names for program in _of_site(site)),
        Program("gateway", "gateway", Part.GATEWAY),
        Program("mlflow", "mlflow", Part.MLFLOW, start_seconds=3),
        *(
            Program(f"airflow-{component}", component, Part.AIRFLOW, start_seconds=3)
            for component in AIRFLOW_COMPONENTS
        ),
        *(_of_vault() if estate.vault and estate.backups else ()),
        Program("keeper", "keeper", Part.KEEPER),
        Program("feeder", "feeder", Part.FEEDER),
        Program("prober", "prober", Part.PROBER),
    ]
    return tuple(program for program in every if program.part not in without)


def _of_vault() -> list[Program]:
    """Where backups go, and, with a key of its own, who removes those that nobody needs any more."""
    return [Program("vault", "vault", Part.VAULT), Program("vault-keeper", "vault-keeper", Part.VAULT)]


def _of_site(site: str) -> list[Program]:
    # SIGKILL, because supervisord must not bring a lost site back; `stack down` drains them before it stops them.
    return [
        Program(f"{site}-store", "store", site=site, stop_signal="KILL"),
        Program(f"{site}-link", "link", site=site, stop_signal="KILL"),
        *(
            Program(f"{site}-replica-{number}", "replica", site=site, number=number, stop_signal="KILL")
            for number in range(1, REPLICAS + 1)
        ),
    ]


def parts(names: Sequence[str]) -> frozenset[Part]:
    """Parts by name; raises ``Refused`` for one that does not exist."""
    known = {part.value: part for part in Part}
    if unknown := sorted(set(names) - set(known)):
        raise Refused("unknown part of the stack", [f"{name!r} is not one of {', '.join(known)}" for name in unknown])
    return frozenset(known[name] for name in names)


def models_at_start(estate: Estate, site: str, active: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Models that a replica at ``site`` loads when it starts: those whose traffic the site may get, and those of which
    it is a warm standby.

    :param active: service to sites, as the gateway was last told; before that, as declared. A cold standby stays cold,
        so that a failover has to prove that it can load and warm up.
    """
    wanted = {
        service.model: None
        for service in estate.services_at(site)
        if service.standby is StandbyKind.WARM
        or site in active.get(service.name, service.sites if service.mode is Mode.ACTIVE_ACTIVE else service.sites[:1])
    }
    return tuple(wanted)


def primary_site(estate: Estate) -> str:
    """Where new data lands, and with it the registry's artefacts."""
    return estate.datasets[0].primary if estate.datasets else estate.site_names[0]
