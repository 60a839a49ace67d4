"""Which cases of each site a report pictures: the best, the middle and the worst of those that have an overlay."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg_core.assessment.report_overlays import Overlay, read_overlay
from medseg_core.assessment.report_tables import name_ranks
from medseg_core.assessment.scores import CaseScores, by_site


@dataclass(frozen=True)
class Picture:
    """A pictured case: `rank` says where it stands among its site's."""

    rank: str
    scores: CaseScores
    overlay: Overlay


def find_pictures(cases: Sequence[CaseScores], folder: Path) -> dict[str, list[Picture]]:
    """For each site the best, the middle and the worst of the cases that have a picture: `folder`/CASE.npz.

    Damaged ones are left out.
    """
    paths = {path.stem: path for path in folder.glob("*.npz")}
    found = {}
    for site, own in by_site(cases).items():
        pictured = [(rank, case) for rank, case in name_ranks(own) if case.case_id in paths]
        places = sorted({0, len(pictured) // 2, len(pictured) - 1} if pictured else set())
        found[site] = [
            Picture(rank, case, overlay)
            for rank, case in (pictured[place] for place in places)
            if (overlay := read_overlay(paths[case.case_id])) is not None
        ]
    return {site: pictures for site, pictures in found.items() if pictures}
