"""Whether the rounds bear the absences that [simulation.faults] makes: what is drawn by seed is known beforehand."""

from dataclasses import dataclass

from medseg_core.config import Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_server.participation import turns
from medseg_simulation.errors import AttendanceError
from medseg_simulation.misbehaviour.conduct import misconduct_of


@dataclass(frozen=True)
class _Round:
    """Who is asked in a round, those that may stand in among them, and who of them is made to be away."""

    number: int
    asked: frozenset[str]
    away: frozenset[str]

    @property
    def n_left(self) -> int:
        return len(self.asked) - len(self.away)


def check_attendance(experiment: Experiment, sites: tuple[str, ...]) -> None:
    """Every round has enough sites, and those required. Raises AttendanceError, or FaultySitesError.

    That a round asks too few sites even where nobody is away is no matter of faults: the round loop refuses it.
    """
    misconduct, federation = misconduct_of(experiment, sites), experiment.federation
    rounds = []
    for number in range(1, federation.rounds + 1) if misconduct else ():
        asked = frozenset(site for turn in turns(experiment, sites, number) for site in turn)
        away = frozenset(site for site in asked & misconduct.keys() if misconduct[site].misses(number))
        if away:
            rounds.append(_Round(number, asked, away))
    for one in rounds:
        if required := sorted(one.away & set(federation.required_sites)):
            fault = f"{required[0]} is one of [federation] required_sites"
            raise _refused(experiment, one, fault, "Take it out there")
    short = [
        one
        for one in rounds
        if one.n_left < max(federation.quorum or 1, _fewest(experiment, one)) <= len(one.asked)
    ]
    if short:
        worst = min(short, key=lambda one: one.n_left)  # what helps there helps everywhere
        raise _refused(experiment, worst, *_shortage(experiment, worst, n_sites=len(sites)))


def _fewest(experiment: Experiment, one: _Round) -> int:
    """Sites that the algorithm's rule needs in a round where all that are away are so for the same reason."""
    faults, algorithm = experiment.simulation.faults, build_algorithm(experiment)
    assert faults is not None
    return algorithm.fewest_left(len(one.away) if faults.kind == "nan" else 0)


def _shortage(experiment: Experiment, one: _Round, *, n_sites: int) -> tuple[str, str]:
    """What a round lacks, and what helps."""
    federation, fewest = experiment.federation, _fewest(experiment, one)
    told = f"{one.n_left} of the {len(one.asked)} sites asked are left"
    if fewest > max(1, one.n_left):
        return f'{told}, and algorithm = "{federation.algorithm}" needs {fewest}', "Choose another algorithm"
    fault = f"{told}, and [federation] quorum needs {federation.quorum}"
    if one.n_left:
        return fault, f"Lower it to {one.n_left}"
    return fault, "Raise [federation] participants" if len(one.asked) < n_sites else "Add sites"


def _refused(experiment: Experiment, one: _Round, fault: str, remedy: str) -> AttendanceError:
    assert experiment.simulation.faults is not None
    return AttendanceError(experiment.simulation.faults.kind, one.number, sorted(one.away), fault, remedy)
