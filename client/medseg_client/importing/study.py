"""A study becomes a case: its series and what is drawn on them are read, checked as `check` does, and kept whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_client.importing import attributes
from medseg_client.importing.folder import ImportedCase, ImportFolder
from medseg_client.importing.pseudonyms import Pseudonyms
from medseg_client.importing.source import Study
from medseg_core.assessment.pictured_slice import picture, picture_file
from medseg_core.cohort.labels import file_values
from medseg_core.cohort.loading import grid_faults, load_case
from medseg_core.config import Task
from medseg_core.dicom_errors import ForeignSegmentationError
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.segments import Segment, Wanted
from medseg_core.imaging.dicom.selection import label_of
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.dicom.structures import read_structures
from medseg_core.imaging.geometry import resample_to
from medseg_core.imaging.io import write_image
from medseg_core.import_errors import (
    LostLabelError,
    NoLabelsError,
    NoPatientIdError,
    RepeatedLabelError,
    SeparateSpacesError,
    StripedLabelError,
)
from medseg_core.types import Case, Geometry, LoadedCase, Volume

_UNREADABLE = (
    "\N{REPLACEMENT CHARACTER}"  # of bytes of another alphabet than is told: two patients may look alike
)


@dataclass(frozen=True)
class Importer:
    """What is the same for every study: the task in the values of this site's label files, names, the folder."""

    task: Task
    names: Pseudonyms
    folder: ImportFolder
    site: str

    def import_case(self, study: Study, chosen: Mapping[int, Series]) -> ImportedCase:
        """Read, check and keep the case of a study whose channels are `chosen`, by their numbers in the task.

        Raises DicomError, CaseError and GridTooLargeError leaves; nothing is kept then.
        """
        case_id = self.case_id(chosen)
        if not study.patient_id.strip() or _UNREADABLE in study.patient_id:
            raise NoPatientIdError(case_id)
        volumes = {number: read_series(series) for number, series in chosen.items()}
        classes = self._classes(study, chosen, volumes, case_id)
        volumes, reference = _on_one_grid(chosen, volumes, case_id), classes.geometry
        names = {n: self.task.channels[n].name for n in volumes}
        images = {name: f"images/{case_id}_{name}.nii.gz" for name in names.values()}
        label = f"labels/{case_id}.nii.gz"
        with self.folder.filling() as part:
            for number, volume in volumes.items():
                write_image(part / images[names[number]], _compact(volume.voxels[0]), reference)
            write_image(part / label, file_values(self.task)[classes.voxels[0]], reference)
            missing = tuple(n for n in range(len(self.task.channels)) if n not in volumes)
            files = tuple(part / path for path in images.values())
            patient = self.names.patient(study.patient_id)
            case = Case(case_id, patient, self.site, files, part / label, missing=missing)
            loaded = load_case(case, self.task)
            imported = ImportedCase(
                case_id=case_id,
                patient_id=patient,
                images=images,
                label=label,
                attributes=self._attributes(next(iter(chosen.values()))),
                size=reference.shape,
                spacing_mm=reference.spacing_mm,
                volumes_ml=self._volumes_ml(classes),
                warnings=tuple(text.removeprefix(f"case {case_id}: ") for text in loaded.warnings),
            )
            self._draw(loaded, part)
            self.folder.keep(imported, part)
        return imported

    def case_id(self, chosen: Mapping[int, Series]) -> str:
        """The name of the case that series make."""
        return self.names.case(series.series_uid for series in chosen.values())

    def _classes(
        self, study: Study, chosen: Mapping[int, Series], volumes: Mapping[int, Volume], case_id: str
    ) -> Volume:
        """The label map `(1, i, j[, k])` on the grid of the first channel; of labels that overlap the later wins.

        Each drawing is read on the grid of the series that it was drawn on. Of a label drawn on several channels that
        on the first counts.
        """
        reference, masks, names = next(iter(volumes.values())).geometry, dict[int, Volume](), list[str]()

        def is_wanted(name: str, meaning: str) -> bool:
            names.append(name)
            return self._label(name, meaning) is not None

        for number, series in chosen.items():
            grid, drawn_here = volumes[number].geometry, set[int]()
            for segment in _segments(study, series, grid, is_wanted):
                label = self._label(segment.name, segment.meaning)
                assert label is not None, "it is wanted"
                if label in drawn_here:
                    raise RepeatedLabelError(case_id, list(self.task.labels)[label - 1])
                if segment.is_lost:
                    raise LostLabelError(case_id, list(self.task.labels)[label - 1])
                if segment.step > 1:
                    raise StripedLabelError(case_id, list(self.task.labels)[label - 1], segment.step)
                drawn_here.add(label)
                if label not in masks:
                    mask = Volume(segment.mask[None].astype(np.uint8), grid)
                    masks[label] = resample_to(mask, reference, is_label=True)
        if not masks:
            raise NoLabelsError(case_id, names)
        classes = np.zeros((1, *reference.shape), np.uint8)
        for label in sorted(masks):
            classes[masks[label].voxels > 0] = label
        return Volume(classes, reference)

    def _label(self, name: str, meaning: str) -> int | None:
        """The class of a segment; None where the task does not ask for it, or nobody here draws it."""
        label = label_of(name, meaning, self.task)
        return None if label in self.task.not_annotated else label

    def _attributes(self, series: Series) -> dict[str, str]:
        return {
            "modality": attributes.modality(series.modality),
            "vendor": attributes.vendor(series.manufacturer),
            "scanner": attributes.scanner(series.manufacturer, series.model, self.names),
            "field_strength_t": attributes.field_strength(series.field_strength_t),
            "sex": attributes.sex(series.sex),
            "age_group": attributes.age_group(series.age_years),
        }

    def _volumes_ml(self, classes: Volume) -> dict[str, float]:
        """By label: millilitres, or pixels where the grid is flat or knows no millimetres."""
        grid = classes.geometry
        is_physical = grid.spacing_mm is not None and len(grid.shape) == 3
        unit = float(np.prod(grid.spacing)) / 1000 if is_physical else 1.0
        counts = np.bincount(classes.voxels.ravel(), minlength=self.task.n_classes)
        return {name: round(int(counts[n]) * unit, 4) for n, name in enumerate(self.task.labels, start=1)}

    def _draw(self, loaded: LoadedCase, part: Path) -> None:
        assert loaded.label is not None, "it was loaded with its label"
        number = next(n for n in range(len(loaded.image.voxels)) if n not in loaded.case.missing)
        nothing = np.zeros_like(loaded.label)
        spacing = loaded.image.geometry.spacing
        shown = picture(loaded.image.voxels, loaded.label, nothing, spacing, channel=number)
        (part / "cases").mkdir()
        (part / "cases" / f"{loaded.case.case_id}.npz").write_bytes(picture_file(shown))


def _segments(study: Study, series: Series, grid: Geometry, wanted: Wanted) -> Iterator[Segment]:
    """What is drawn on a series and wanted. Raises DicomError leaves: a drawing that names the series has to fit it."""
    for read, drawings in ((read_segmentation, study.segmentations), (read_structures, study.structures)):
        for drawing in drawings:
            if drawing.referenced_series_uids and series.series_uid not in drawing.referenced_series_uids:
                continue
            for path in drawing.files:
                try:
                    yield from read(path, grid, drawn_on=series, wanted=wanted)
                except ForeignSegmentationError:
                    if drawing.referenced_series_uids:
                        raise


def _on_one_grid(
    chosen: Mapping[int, Series], volumes: Mapping[int, Volume], case_id: str
) -> dict[int, Volume]:
    """Each channel on the grid of the first. Raises SeparateSpacesError where nothing says how they lie to it."""
    first, *_ = chosen
    grid, space, found = volumes[first].geometry, chosen[first].frame_of_reference_uid, dict[int, Volume]()
    for number, volume in volumes.items():
        if any(grid_faults(volume.geometry, grid, names=("", ""), case_id=case_id)):
            if not space or space != chosen[number].frame_of_reference_uid:
                raise SeparateSpacesError(case_id)
            found[number] = resample_to(volume, grid, is_label=False)
        else:
            found[number] = Volume(volume.voxels, grid)
    return found


def _compact(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
    """Whole numbers as such: half the size on disk, and read back equal."""
    small = voxels.astype(np.int16) if np.abs(voxels).max() < 2**15 else voxels
    return small if np.array_equal(small, voxels) else voxels
