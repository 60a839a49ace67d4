"""`medseg-site predict` for DICOM: each case segmented or held, results written, sent to the PACS where asked for."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import typer

from medseg_client.pacs import SCHEME, Pacs, pacs_of
from medseg_client.series_results import told, write_prediction
from medseg_client.series_sources import SeriesCase, case_in, cases_of, is_of_series
from medseg_client.site_folder import SiteFolder
from medseg_core.errors import DataError, FaultyCasesError, OutputExistsError, SameOutputError
from medseg_core.learning.model_package import LoadedModel, read_model
from medseg_core.learning.series_prediction import SeriesPrediction, predict_series, threshold_of


@dataclass
class Outcome:
    """What became of the cases so far."""

    n_cases: int = 0
    n_held: int = 0  # of which nothing was computed
    faults: list[DataError] = field(default_factory=list)


@dataclass(frozen=True)
class SeriesPredictor:
    """A model, and what is to be done with its results; `tell` takes a line a case.

    `pacs` gives the PACS that queries and `is_stored` need.
    """

    model: LoadedModel
    out: Path
    pacs: Callable[[], Pacs]
    is_forced: bool
    is_stored: bool
    tell: Callable[[str], None]

    def run(self, sources: Sequence[str]) -> Outcome:
        """Segment the cases of each source; one that does not serve is no reason to leave out the others.

        Raises OutputExistsError and SameOutputError before anything is computed of folders, PacsError leaves,
        UnusableFolderError, SegmentationMemoryError.
        """
        outcome = Outcome()
        self._require_new(sources)
        for text in sources:
            for case in cases_of(text, self.model.experiment.task, self.pacs):
                outcome.n_cases += 1
                try:
                    outcome.n_held += self._predict(case).drawn is None
                except DataError as fault:
                    outcome.faults.append(fault)
        return outcome

    def _require_new(self, sources: Sequence[str]) -> None:
        """Each folder given has a folder of results of its own, and nothing lies there yet."""
        owners: dict[str, Path] = {}
        for case in (case_in(text) for text in sources if not text.startswith(SCHEME)):
            if (other := owners.setdefault(case.name.lower(), case.folders[0])) is not case.folders[0]:
                raise SameOutputError(other, case.folders[0], case.name)
            if (self.out / case.name).exists():
                raise OutputExistsError(self.out / case.name)

    def _predict(self, case: SeriesCase) -> SeriesPrediction:
        folder = self.out / case.name
        if folder.exists():
            raise OutputExistsError(folder)
        series = case.series(self.model.experiment.task)
        prediction = predict_series(self.model, series, name=case.name, is_forced=self.is_forced)
        files = write_prediction(folder, self.model, series, prediction)
        self.tell(told(case.name, prediction))
        if files and self.is_stored:
            self.pacs().store(files)
            self.tell(f"{case.name}: segmentation and report are in the PACS at {self.pacs().address}")
        return prediction


def predict_as_asked(
    site: SiteFolder,
    model_folder: Path,
    sources: Sequence[str],
    out: Path,
    *,
    device: str,
    personal: Path | None,
    is_forced: bool,
    is_stored: bool,
) -> None:
    """Segment cases of DICOM into `out` and tell of each on the terminal.

    Exits with 1 where a case is held. Raises MedsegError leaves.
    """
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed

    if files := [text for text in sources if not is_of_series(text)]:
        raise click.UsageError(
            f"{files[0]} is no folder and no query of the PACS; give files in a run of their own"
        )
    model = read_model(model_folder, personal)
    model.network.to(choose_device(device))
    if threshold_of(model.provenance.scope) is None:
        typer.echo("this model has no threshold of uncertainty: no case is flagged", err=True)
    pacs = functools.cache(lambda: pacs_of(site))
    if is_stored:
        pacs()  # what is wrong with its settings is said before anything is computed
    predictor = SeriesPredictor(model, out, pacs, is_forced, is_stored, typer.echo)
    outcome = predictor.run(sources)
    if outcome.faults:
        raise (
            outcome.faults[0] if outcome.n_cases == 1 else FaultyCasesError(outcome.faults, outcome.n_cases)
        )
    if outcome.n_held:
        raise typer.Exit(1)
