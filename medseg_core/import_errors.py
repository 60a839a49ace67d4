"""What goes wrong while a hospital's DICOM becomes cases. No message holds an identifier or a path of the source."""

from collections.abc import Sequence
from pathlib import Path

from medseg_core.errors import CaseError, ConfigError, DataError, StorageError


class OccupiedImportError(StorageError):
    """The output folder is somebody's, or another import's."""

    def __init__(self, folder: Path, held: str) -> None:
        super().__init__(f"{folder} {held}. Choose another --out.")


class NoTaskError(ConfigError):
    """Nothing says which series and labels are wanted."""

    def __init__(self, approved: int) -> None:
        fault = f"{approved} experiments are approved here" if approved else "no experiment is approved here"
        super().__init__(
            f"{fault}, so that it is open which images to take. Name one with --task EXPERIMENT.toml."
        )


class NoSourceError(DataError):
    """The source cannot be read."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"source {number} is neither a folder nor a query. Name a folder of DICOM files, or a query as "
            "pacs:KEY=VALUE."
        )


class NoPatientIdError(CaseError):
    """A study does not say of whom it is, so that patients could not be kept apart."""

    def __init__(self, case_id: str) -> None:
        super().__init__(
            case_id,
            "its headers have no patient ID that can be read, and training and test would share patients unseen",
            "Export it with patient IDs, which do not leave this machine",
        )


class NoLabelsError(CaseError):
    """A case has no segmentation of the task's labels; `drawn` names those that it has, and stands in no message."""

    def __init__(self, case_id: str, drawn: Sequence[str]) -> None:
        self.drawn = tuple(drawn)
        fault, remedy = "there is no DICOM SEG or RTSTRUCT of its images", "Draw and export them"
        if drawn:
            fault = f"none of the {len(drawn)} segments drawn on its images is a label of the task"
            remedy = "Name it as the task does, or give --task a copy of the experiment whose [task] segments names it"
        super().__init__(case_id, fault, remedy)


class StripedLabelError(CaseError):
    """A label fills every so many slices and none between: it was drawn on thicker slices, or in some only."""

    def __init__(self, case_id: str, label: str, step: int) -> None:
        super().__init__(
            case_id,
            f"the label {label} is drawn in one of every {step} slices and in none between",
            "Let the program that it was drawn with interpolate it, or import the series that it was drawn on",
        )


class LostLabelError(CaseError):
    """A label has contours, and none of them holds a voxel: the case would look as if it had none."""

    def __init__(self, case_id: str, label: str) -> None:
        super().__init__(
            case_id,
            f"the label {label} is drawn, and its contours hold no voxel: they are points, open lines or too small",
            "Draw it as closed contours on the slices, and export it again",
        )


class RepeatedLabelError(CaseError):
    """Two segments of a case are one label of the task: nothing says which is meant."""

    def __init__(self, case_id: str, label: str) -> None:
        super().__init__(
            case_id,
            f"two segments on its images are the label {label}",
            "Keep one of them, or name the right one under [task] in the experiment",
        )


class AmbiguousChannelError(CaseError):
    """Several series of a study fit one channel of a task with several."""

    def __init__(self, case_id: str, channel: str, n_series: int) -> None:
        super().__init__(
            case_id,
            f"{n_series} series of the study are channel {channel} by the task's rules",
            "Narrow series under [task.channels] in the experiment, such as by description or slice thickness",
        )


class SeparateSpacesError(CaseError):
    """Channels of a case lie on different grids, and nothing says how these lie to each other."""

    def __init__(self, case_id: str) -> None:
        super().__init__(
            case_id,
            "its channels lie on different grids without a common frame of reference",
            "Register them, and export the result as series of one frame of reference",
        )


class IncompleteImportError(DataError):
    """Some studies became no cases; those that did are usable."""

    def __init__(self, refused: int, imported: int, page: Path, record: Path) -> None:
        super().__init__(
            f"{refused} left out with a fault, {imported} imported. {page} says why and what to do, {record} which "
            "patients and series they are and what is drawn on them. Correct them and import again."
        )


class NothingImportedError(DataError):
    """No study became a case, and none had a fault."""

    def __init__(self, n_series: int) -> None:
        super().__init__(
            f"none of the {n_series} series found is what the task asks for. Compare the rules of [task] channels with "
            "the series that the scanner makes, or name another source."
        )
