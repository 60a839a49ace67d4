"""`medseg-site predict` for DICOM: each case segmented or held, results written, sent to the PACS where asked for."""

import functools
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import typer

from medseg_client.bars import Bars, Watch
from medseg_client.pacs import Pacs, pacs_of
from medseg_client.series_results import Earlier, read_earlier, told, told_earlier, write_prediction
from medseg_client.series_sources import PacsCase, SeriesCase, cases_of, is_of_series
from medseg_client.site_folder import SiteFolder
from medseg_core.dicom_errors import DicomError
from medseg_core.errors import DataError, FaultyCasesError, SameOutputError
from medseg_core.files import sole_use
from medseg_core.learning.model_package import LoadedModel, read_model
from medseg_core.learning.scope import what_is_missing
from medseg_core.learning.series_prediction import predict_series
from medseg_core.pacs_errors import PacsError

FETCHED = ".fetched"  # in the folder of results: a series of the PACS while it is segmented


@dataclass
class Outcome:
    """What became of the cases so far."""

    n_cases: int = 0
    n_held: int = 0  # of which nothing was computed
    faults: list[DataError] = field(default_factory=list)


@dataclass(frozen=True)
class SeriesPredictor:
    """A model, and what is to be done with its results; `tell` takes a line a case.

    `pacs` gives the PACS that queries and `is_stored` need; `watch` is told of series of the PACS.
    """

    model: LoadedModel
    out: Path
    pacs: Callable[[], Pacs]
    is_forced: bool
    is_stored: bool
    tell: Callable[[str], None]
    watch: Watch

    def run(self, sources: Sequence[str]) -> Outcome:
        """Segment the cases of each source; one that does not serve is no reason to leave out the others.

        What an earlier call left of a case is not computed again, but sent where that is asked for.
        Raises OutputExistsError and SameOutputError before anything is computed, PacsError leaves,
        UnusableFolderError, BusyFolderError, SegmentationMemoryError.
        """
        cases = self._cases(sources)
        outcome = Outcome(len(cases))
        with sole_use(self.out):
            shutil.rmtree(self.out / FETCHED, ignore_errors=True)  # of a call that was killed
            if n_fetched := sum(isinstance(case, PacsCase) for case in cases):
                self.watch.expected(n_fetched)
            for case in cases:
                try:
                    outcome.n_held += not self._settle(case)
                except DicomError as fault:
                    outcome.faults.append(_of_case(case, fault))
                except DataError as fault:
                    outcome.faults.append(fault)
                if isinstance(case, PacsCase):
                    self.watch.finished()
        return outcome

    def _cases(self, sources: Sequence[str]) -> tuple[SeriesCase, ...]:
        """What the sources name: each once, and with a folder for its results that nothing else has."""
        task, work = self.model.experiment.task, self.out / FETCHED
        found = [
            case for text in sources for case in cases_of(text, task, self.pacs, work, self.watch.fetched)
        ]
        owners: dict[str, SeriesCase] = {}
        for case in found:
            other = owners.setdefault(case.name.lower(), case)
            if other is not case and not (isinstance(case, PacsCase) and other == case):
                raise SameOutputError(other.origin, case.origin, case.name)
        for case in owners.values():
            with suppress(DataError):  # said when its turn comes
                self._earlier(case)
        return tuple(owners.values())

    def _earlier(self, case: SeriesCase) -> Earlier | None:
        folder = self.out / case.name
        if not folder.exists():
            return None
        return read_earlier(folder, self.model, case.uids(self.model.experiment.task))

    def _settle(self, case: SeriesCase) -> bool:
        """Whether there is a segmentation of the case now."""
        earlier = self._earlier(case)
        if earlier is not None and (earlier.files or not self.is_forced):
            files = earlier.files
            self.tell(told_earlier(case.name, earlier))
        else:
            files = self._predict(case, earlier)
        if files and self.is_stored:
            self._store(case.name, files)
        return bool(files)

    def _predict(self, case: SeriesCase, held: Earlier | None) -> tuple[Path, ...]:
        folder = self.out / case.name
        with case.opened(self.model.experiment.task) as series:
            prediction = predict_series(self.model, series, name=case.name, is_forced=self.is_forced)
            if held is not None:  # now it is asked for all the same
                shutil.rmtree(folder, ignore_errors=True)
            files = write_prediction(folder, self.model, series, prediction)
        self.tell(told(case.name, prediction))
        return files

    def _store(self, name: str, files: Sequence[Path]) -> None:
        try:
            self.pacs().store(files)
        except PacsError:
            self.tell(f"{name}: its results are in {self.out / name}; the same command sends them later")
            raise
        self.tell(f"{name}: segmentation and report are in the PACS at {self.pacs().address}")


def _of_case(case: SeriesCase, fault: DicomError) -> DicomError:
    """The fault, which names a file or tells of a series, with the case that it is of."""
    if fault.where.startswith(str(case.origin)):
        return fault
    return DicomError(f"{case.origin}: {fault.where}", fault.fault, fault.remedy)


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
    for sentence in what_is_missing(model.provenance.scope):
        typer.echo(sentence, err=True)
    pacs = functools.cache(lambda: pacs_of(site))
    if is_stored:
        pacs()  # what is wrong with its settings is said before anything is computed
    with Bars("series") as bars:
        outcome = SeriesPredictor(model, out, pacs, is_forced, is_stored, bars.say, bars).run(sources)
    if outcome.faults:
        raise (
            outcome.faults[0] if outcome.n_cases == 1 else FaultyCasesError(outcome.faults, outcome.n_cases)
        )
    if outcome.n_held:
        raise typer.Exit(1)
