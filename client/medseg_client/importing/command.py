"""`medseg-site import`: settings in, progress on the terminal, one sentence at the end."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import typer

from medseg_client.bars import Bars
from medseg_client.importing.folder import MANIFEST, ImportFolder
from medseg_client.importing.private_record import PrivateRecord
from medseg_client.importing.pseudonyms import pseudonyms_of
from medseg_client.importing.run import Tally, import_all
from medseg_client.importing.source import Sources, scans
from medseg_client.importing.study import Importer
from medseg_client.pacs import pacs_of
from medseg_client.site_folder import SiteFolder
from medseg_core.config import Task, read_experiment
from medseg_core.errors import UnusableFolderError
from medseg_core.files import sole_use
from medseg_core.import_errors import IncompleteImportError, NoTaskError, NothingImportedError

SHOWN = 10  # kinds of refusals on the terminal; the page has all


def import_sources(site: SiteFolder, sources: Sequence[str], out: Path, *, experiment: Path | None) -> None:
    """Import folders and queries into `out`.

    Raises IncompleteImportError where a study was left out with a fault, NothingImportedError, and MedsegError leaves
    that stopped it.
    """
    settings, wanted = site.settings, Sources.parse(sources)
    pacs = pacs_of(site) if wanted.queries else None
    task = settings.task_here(_task(site, experiment))
    names = pseudonyms_of(site.pseudonym_key)
    with sole_use(out), sole_use(site.imports):
        folder = ImportFolder(out, settings.name, task)
        try:
            record = PrivateRecord(site.imports)
            shutil.rmtree(site.imports / "fetched", ignore_errors=True)  # of an import that was killed
        except OSError as error:
            raise UnusableFolderError(site.imports, error.strerror or "it cannot be made") from None
        importer = Importer(task, names, folder, settings.name)
        with Bars("studies") as bars:
            found = scans(wanted, pacs, site.imports / "fetched", bars)
            tally = import_all(found, importer, record, bars.finished)
    _tell(tally, folder, record, site)


def _task(site: SiteFolder, experiment: Path | None) -> Task:
    if experiment is not None:
        return read_experiment(experiment).task
    approved = list({e.task.model_dump_json(): e.task for e in site.approved.values()}.values())
    if len(approved) != 1:
        raise NoTaskError(len(approved))
    return approved[0]


def _tell(tally: Tally, folder: ImportFolder, record: PrivateRecord, site: SiteFolder) -> None:
    """Raises IncompleteImportError, NothingImportedError."""
    alike: dict[str, list[str]] = defaultdict(list)
    for refusal in tally.refusals:
        alike[f"{refusal.fault} {refusal.remedy}"].append(refusal.case_id)
    for sentence, cases in list(alike.items())[:SHOWN]:
        others = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
        typer.echo(f"{cases[0]}{others}: {sentence}", err=True)
    if sum(tally.unused.values()):
        typer.echo(f"{sum(tally.unused.values())} files and series are not used: {folder.page} says why")
    if tally.n_lost:
        typer.echo(
            f"warning: {tally.n_lost} of them may be slices, which their series then lack. Copy or export them again, "
            "and import anew.",
            err=True,
        )
    if tally.n_shared_numbers:
        typer.echo(
            f"warning: {tally.n_shared_numbers} patient ID(s) were given by several issuers. Each counts as one "
            "patient, so that nobody is in training and in test; export different people with different patient IDs.",
            err=True,
        )
    if tally.imported:
        typer.echo(f"{tally.imported} cases imported: {folder.root / MANIFEST}")
        typer.echo(f"look at their pictures: {folder.page}. It shows images: keep it as you keep those.")
        if (site.root / site.settings.data).resolve() != folder.root.resolve():
            typer.echo(f'to train on them: data = "{folder.root.absolute()}" in {site.root / "site.toml"}')
    if tally.refusals:
        raise IncompleteImportError(len(tally.refusals), tally.imported, folder.page, record.left_out)
    if not tally.imported:
        raise NothingImportedError(tally.n_series)
