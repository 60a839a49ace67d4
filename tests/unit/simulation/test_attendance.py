"""Whether enough sites take part in every round, of faults that keep sites away: said before anything is trained."""

from typing import Any

import pytest
from builders import make_experiment

from medseg_core.config import Experiment
from medseg_simulation.errors import AttendanceError
from medseg_simulation.misbehaviour.attendance import check_attendance
from medseg_simulation.misbehaviour.conduct import misconduct_of

SITES = ("east", "north", "south", "west")


def experiment_of(faults: dict[str, Any], **federation: Any) -> Experiment:
    return make_experiment(federation={"rounds": 6, **federation}, simulation={"faults": faults})


@pytest.mark.parametrize("kind", ["nan", "drop_out", "straggler"])
def test_a_quorum_that_sites_who_are_away_leave_short_is_refused_with_what_would_do(kind: str) -> None:
    faults = {"kind": kind, "sites": 2}
    with pytest.raises(AttendanceError) as refused:
        check_attendance(experiment_of(faults, quorum=3), SITES)
    assert f'kind = "{kind}" keeps' in str(refused.value)
    assert "2 of the 4 sites asked are left, and [federation] quorum needs 3" in str(refused.value)
    assert "Lower it to 2, or let fewer sites misbehave" in str(refused.value)
    check_attendance(experiment_of(faults, quorum=2), SITES)


def test_the_rounds_that_are_missed_are_those_of_the_run() -> None:
    """One that nobody misses bears any quorum: what is drawn by seed is known."""
    faults = {"kind": "drop_out", "sites": ["south"], "probability": 0.5}
    (south,) = misconduct_of(experiment_of(faults, quorum=4), SITES).values()
    first = next(n for n in range(1, 7) if south.misses(n))
    assert first > 1
    check_attendance(experiment_of(faults, quorum=4, rounds=first - 1), SITES)
    with pytest.raises(AttendanceError, match=f"keeps south out of round {first}"):
        check_attendance(experiment_of(faults, quorum=4, rounds=first), SITES)


def test_where_too_few_are_drawn_the_remedy_is_to_draw_more() -> None:
    faults = {"kind": "nan", "sites": ["south"]}
    with pytest.raises(AttendanceError, match=r"0 of the 1 sites asked .* Raise \[federation\] participants"):
        check_attendance(experiment_of(faults, participants=1, quorum=1, rounds=20), SITES)


def test_a_rule_that_needs_more_updates_than_are_left_is_named() -> None:
    faults = {"kind": "nan", "sites": ["south"]}
    with pytest.raises(AttendanceError, match='algorithm = "median" needs 3') as refused:
        check_attendance(experiment_of(faults, algorithm="median", quorum=1), SITES[1:])
    assert "Choose another algorithm, or let fewer sites misbehave" in str(refused.value)


def test_sites_that_are_refused_are_among_those_that_a_rule_bears() -> None:
    sites = (*SITES, "upland")
    federation = {"algorithm": "multi_krum", "quorum": 3}
    check_attendance(experiment_of({"kind": "nan", "sites": 1}, **federation), sites)
    with pytest.raises(AttendanceError, match=r"quorum needs 5. Lower it to 4"):
        check_attendance(experiment_of({"kind": "nan", "sites": 1}, **(federation | {"quorum": 5})), sites)
    with pytest.raises(AttendanceError, match=r'4 of the 5 .* algorithm = "multi_krum" needs 5'):
        check_attendance(
            experiment_of({"kind": "drop_out", "sites": 1, "probability": 1.0}, **federation), sites
        )


def test_a_required_site_that_is_kept_away_is_refused() -> None:
    faults = {"kind": "nan", "sites": ["south"]}
    with pytest.raises(AttendanceError, match=r"south is one of \[federation\] required_sites. Take it out"):
        check_attendance(experiment_of(faults, quorum=2, required_sites=["south"]), SITES)


def test_in_turn_the_next_site_stands_in_for_one_that_is_away() -> None:
    faults = {"kind": "nan", "sites": ["south"]}
    check_attendance(experiment_of(faults, algorithm="cyclic", quorum=1), SITES)


def test_sites_that_answer_wrongly_are_not_away() -> None:
    check_attendance(experiment_of({"kind": "scale", "sites": 4}), SITES)
    check_attendance(make_experiment(), SITES)
