"""The report of a site: one HTML file for its own people, about what it took part in. It never leaves.

In: the ledger, and of the site's state the scores and pictures of its own test cases. It names cases and shows images.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medseg_client.answered import Answered
from medseg_client.budget import rule_for
from medseg_client.history import RunHistory, history_of
from medseg_client.ledger_lines import Entry, read_ledger
from medseg_client.membership import status
from medseg_client.policy import Policy
from medseg_client.site_folder import SiteFolder
from medseg_client.site_state import SiteState
from medseg_core.assessment.report_curves import draw_site_curve
from medseg_core.assessment.report_page import report_template
from medseg_core.assessment.report_pictures import Picture, find_pictures
from medseg_core.assessment.report_tables import WorstCase, find_worst_cases
from medseg_core.assessment.scores import CaseScores, read_site_cases
from medseg_core.errors import UnreadableRunError
from medseg_core.files import write_atomic
from medseg_core.version import version_text
from medseg_core.wire.header import PERSONAL, Kind


@dataclass(frozen=True)
class RunPage:
    """One run with what the site keeps of it."""

    history: RunHistory
    rounds_agreed: int | None  # None: the experiment is no longer among those approved
    model: str | None  # state of the model that was published
    curve: str  # SVG; empty without a score
    worst_cases: list[WorstCase]
    pictures: dict[str, list[Picture]]
    labels: tuple[str, ...]

    @property
    def unit(self) -> str:
        """Of HD95: px where the files know no millimetres."""
        tested = self.history.tested
        return "mm" if tested is None or tested.scalars.get("hd95_mm") is not None else "px"

    def figures(self, label: str = "") -> Mapping[str, float | None]:
        """Test figures that were released, of all labels or of one."""
        told = self.history.tested.scalars if self.history.tested else {}
        prefix = f"{label}/" if label else ""
        return {
            name.removeprefix(prefix): value
            for name, value in told.items()
            if name.startswith(prefix) and (label or "/" not in name)
        }

    @property
    def own_figures(self) -> Mapping[str, float | None]:
        """Test figures that were released of this site's own model, over all labels; empty where it has none."""
        told = self.figures()
        return {name.removeprefix(PERSONAL): v for name, v in told.items() if name.startswith(PERSONAL)}


@dataclass(frozen=True)
class BudgetRow:
    """What one task has used of the budget for one kind of request."""

    task: str
    kind: Kind
    used: int
    rule: str  # as in site.toml
    limit: int


def write_site_report(folder: SiteFolder, path: Path) -> None:
    """Write the report to `path`.

    Raises LedgerError, NoSiteFolderError, ApprovalsError, ExperimentFileError, UnusableFolderError. Missing or damaged
    scores and pictures of test cases are left out.
    """
    standing, policy = status(folder), folder.settings.policy
    reading = read_ledger(folder.ledger, folder.public_key, each_signature=False)
    entries = [line.entry for line in reading.lines]
    history = history_of(entries)
    html = report_template("site_report.html.j2", "medseg_client").render(
        standing=standing,
        policy=policy,
        pages=[_page(folder, run, standing.models.get(run.run)) for run in reversed(history.runs.values())],
        history=history,
        budgets=_budgets(entries, policy),
        reading=reading,
        written=dt.datetime.now(dt.UTC).isoformat(timespec="minutes").removesuffix("+00:00"),
        version=version_text(),
    )
    write_atomic(path, html.encode())


def _page(folder: SiteFolder, run: RunHistory, model: str | None) -> RunPage:
    experiment = folder.approved.get(run.experiment_sha256)
    tested = SiteState(folder.root / "state").test_folder(run.run)
    cases = _cases(tested) if tested else []
    curve = draw_site_curve(run.validation, run.tested.round if run.tested else None)
    return RunPage(
        history=run,
        rounds_agreed=experiment.federation.rounds if experiment else None,
        model=model,
        curve=curve if run.validation else "",
        worst_cases=find_worst_cases({"global": cases}),
        pictures=find_pictures(cases, tested) if tested else {},
        labels=tuple(experiment.task.labels) if experiment and len(experiment.task.labels) > 1 else (),
    )


def _cases(tested: Path) -> list[CaseScores]:
    """The scores of the site's own test cases; none where they are damaged or gone."""
    try:
        return read_site_cases(tested / "cases.json")
    except UnreadableRunError:
        return []


def _budgets(entries: list[Entry], policy: Policy) -> list[BudgetRow]:
    """Every task that was ever answered against every budget."""
    answered = Answered()
    for entry in entries:
        answered.add(entry)
    tasks = sorted({entry.header.task for entry in entries if entry.header})
    return [
        BudgetRow(task, kind, len(answered.charges(kind, task)), *rule_for(policy, kind))
        for task in tasks
        for kind in get_args(Kind)
    ]
