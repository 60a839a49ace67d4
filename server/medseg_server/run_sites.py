"""The sites of one run as its events tell of them: what they counted, what they are, where their answers stand."""

from dataclasses import asdict, dataclass
from typing import Any

from medseg_core.wire.site_facts import SiteFacts
from medseg_server.ledgers import Head, newest_of
from medseg_server.run import Record
from medseg_server.run_store import RunStore


@dataclass(frozen=True)
class SiteInRun:
    """One site of a run."""

    site: str
    counts: dict[str, int]  # cases and patients by purpose
    facts: SiteFacts | None  # None: its policy keeps them, or it is of an earlier release
    n_rounds: int  # that it contributed to
    last_absence: str | None  # why it missed the newest round that it missed
    ledger: Head | None  # newest line that an answer named

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return asdict(self) | {"facts": self.facts.model_dump(mode="json") if self.facts else None}


def sites_of(store: RunStore) -> list[SiteInRun]:
    """Every site that described its cases, in alphabetical order; empty before."""
    described = store.events("described")
    counts: dict[str, dict[str, int]] = described[0]["sites"] if described else {}
    rounds, facts, heads = store.events("round_finished"), facts_in(store), newest_of(store.events("ledger"))
    return [
        SiteInRun(
            site=site,
            counts=counts[site],
            facts=facts.get(site),
            n_rounds=sum(site in finished["contributed"] for finished in rounds),
            last_absence=_last_absence(rounds, site),
            ledger=heads.get(site),
        )
        for site in sorted(counts)
    ]


def facts_in(store: RunStore) -> dict[str, SiteFacts]:
    """What each site told of itself last."""
    told = {site: facts for event in store.events("site_facts") for site, facts in event["sites"].items()}
    return {site: SiteFacts.model_validate(facts, strict=False) for site, facts in sorted(told.items())}


def _last_absence(rounds: list[Record], site: str) -> str | None:
    reasons = [finished["absent"][site] for finished in rounds if site in finished["absent"]]
    return reasons[-1] if reasons else None


def sentences(of: SiteInRun) -> list[str]:
    """What people read of a site."""
    n = of.counts
    cases = ", ".join(
        f"{n[f'{part}_cases']} to {part} ({n[f'{part}_patients']} patients)"
        for part in ("train", "validation", "test")
    )
    said = [f"{of.site}: {of.n_rounds} rounds; cases: {cases.replace('validation', 'validate')}"]
    said += [f"last absence: {of.last_absence}"] if of.last_absence else []
    said += _of_itself(of.facts) if of.facts else ["tells nothing of its machine and its rules"]
    said += [f"line {of.ledger.sequence} of its ledger: {of.ledger.sha256}"] if of.ledger else []
    return said


def _of_itself(facts: SiteFacts) -> list[str]:
    """Machine, images and limits."""
    medseg, torch = (".".join(map(str, parts)) for parts in (facts.medseg, facts.torch))
    machine = f"{facts.device} with {facts.memory_gib} GiB, {facts.cpu_threads} processor threads"
    spacing = " x ".join(f"{mm:g}" for mm in facts.spacing_mm)
    size = " x ".join(map(str, facts.size_voxels))
    images = [f"images: median size {size}" + (f", spacing {spacing} mm" if spacing else "")] if size else []
    norm = "" if facts.max_update_norm is None else f", updates scaled to norm {facts.max_update_norm:g}"
    return [
        f"{machine}; medseg {medseg}, torch {torch}",
        *images,
        f"limits: {facts.rounds_left} rounds and {facts.evaluations_left} evaluations left; patients for an update "
        f"{facts.min_patients_update}, for a score {facts.min_patients_score}; {facts.max_parameters:,} parameters"
        f"{norm}",
        f"releases figures of: {', '.join(facts.released) or 'nothing'}",
    ]
