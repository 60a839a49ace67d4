"""The page of an import: one HTML file for the hospital's own people. It shows images and names nobody."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medseg_client.importing.folder import ImportedCase, ImportFolder
from medseg_core.assessment.report_overlays import Overlay, read_overlay
from medseg_core.assessment.report_page import report_template
from medseg_core.files import write_atomic
from medseg_core.version import version_text


@dataclass(frozen=True)
class Refusal:
    """A study that became no case though the task asks for it; without an identifier."""

    case_id: str
    fault: str
    remedy: str


@dataclass(frozen=True)
class PageCase:
    """A case with its picture, if that is whole."""

    case: ImportedCase
    overlay: Overlay | None

    @property
    def grid(self) -> str:
        """Size and spacing in words."""
        size = " x ".join(map(str, self.case.size))
        spacing = self.case.spacing_mm
        return f"{size} at {' x '.join(f'{mm:.3g}' for mm in spacing)} mm" if spacing else f"{size} px"

    @property
    def volumes(self) -> str:
        """Labels with their volumes in words."""
        unit = "mL" if self.case.spacing_mm and len(self.case.size) == 3 else "px"
        return ", ".join(f"{name} {volume:,.3g} {unit}" for name, volume in self.case.volumes_ml.items())

    @property
    def attributes(self) -> str:
        """What is told of scanner and patient, in words."""
        told = self.case.attributes
        tesla = told.get("field_strength_t")
        words = (told.get(name) for name in ("modality", "scanner", "sex", "age_group"))
        return ", ".join([word for word in words if word] + ([f"{tesla} T"] if tesla else []))


def write_page(
    folder: ImportFolder, site: str, *, refusals: Sequence[Refusal], unused: Mapping[str, int]
) -> None:
    """Write import.html: every case in the folder, the refusals of this import, and why series and files are unused.

    Raises UnusableFolderError.
    """
    cases = [PageCase(case, read_overlay(folder.picture(case.case_id))) for case in folder.cases()]
    page = report_template("import.html.j2", "medseg_client.importing").render(
        site=site,
        cases=cases,
        patients=len({shown.case.patient_id for shown in cases}),
        refusals=sorted(refusals, key=lambda refusal: refusal.case_id),
        unused=sorted(Counter(unused).items(), key=lambda item: (-item[1], item[0])),
        version=version_text(),
    )
    write_atomic(folder.page, page.encode())
