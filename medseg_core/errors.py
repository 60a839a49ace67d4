"""Every error that a user can meet, one tree.

    MedsegError
    ├── ConfigError        the experiment or site file asks for something impossible
    ├── DataError          an image, a label or a manifest is not what the task needs
    │   ├── CaseError          one case
    │   └── ManifestError      the list of cases
    ├── WireError          an envelope is not acceptable; carries a refusal code
    ├── UpdateError        a client update must not be added
    ├── RunError           a run cannot start, go on or be resumed
    ├── PacsError          the hospital's PACS cannot be used as asked (pacs_errors.py)
    └── StorageError       a folder cannot be written or read

Each leaf carries its facts and builds its own message: what, where, got against expected, what to do.
Messages may name paths and cases: they are for the person at this machine and never leave a site.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class MedsegError(Exception):
    """What went wrong, where, and what to do about it, in a sentence.

    Goes from one process to another as it is, though leaves are made of facts and hold a sentence.
    """

    def __reduce__(self) -> tuple[Callable[..., "MedsegError"], tuple[object, ...], dict[str, Any]]:
        return Exception.__new__, (type(self), *self.args), dict(self.__dict__)


class ConfigError(MedsegError):
    """The experiment file cannot be used."""


class DataError(MedsegError):
    """The data cannot be used as they are."""


class ManifestError(DataError):
    """The list of cases cannot be used: `LIST: FAULT. REMEDY.` (leaves: data_errors.py)."""

    def __init__(self, source: str, fault: str, remedy: str) -> None:
        self.source, self.fault, self.remedy = source, fault, remedy
        super().__init__(f"{source}: {fault}. {remedy}")


class CaseError(DataError):
    """One case cannot be used; the message names case, fault and remedy."""

    def __init__(self, case_id: str, fault: str, remedy: str) -> None:
        self.case_id, self.fault, self.remedy = case_id, fault, remedy
        super().__init__(f"case {case_id}: {fault}. {remedy}")


class WireError(MedsegError):
    """An envelope is not acceptable. `code` is all that may be told to the other side."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


class PolicyError(WireError):
    """A hospital's own rules refuse a request: the code leaves, the sentence is for its log."""

    def __init__(self, code: str, key: str, asked: str, allowed: object) -> None:
        super().__init__(
            code, f"{asked}. [policy] {key} is {allowed}: to allow it, change site.toml and restart"
        )


class UpdateError(MedsegError):
    """A client update must not be added to the global model; `reason` is one short phrase without free text."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class RunError(MedsegError):
    """A run cannot start, go on or be resumed."""


class StorageError(MedsegError):
    """A folder cannot be used."""


# ---- configuration ---------------------------------------------------------------------------------------------


class ExperimentFileError(ConfigError):
    """One or more keys of an experiment file are wrong; lists all of them."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{source}: " + "; ".join(faults))


class DeviceError(ConfigError):
    """The device asked for is not there."""

    def __init__(self, wanted: str, available: Sequence[str]) -> None:
        super().__init__(f"--device {wanted}: not on this machine. Available: auto, {', '.join(available)}.")


# ---- networks ----------------------------------------------------------------------------------------------


class NormalisationError(ConfigError):
    """The network exists with other kinds of normalisation only."""

    def __init__(self, network: str, normalisation: str, supported: Sequence[str]) -> None:
        super().__init__(
            f'[model] normalisation = "{normalisation}": {network} has {" or ".join(supported)} normalisation '
            f'only. Set normalisation = "{supported[0]}", or choose another [model] name.'
        )


class NetworkShapeError(ConfigError):
    """The network cannot have levels of this number, width or depth."""

    def __init__(self, network: str, fault: str, remedy: str) -> None:
        super().__init__(f'[model] name = "{network}": {fault}. {remedy}.')


# ---- runs ------------------------------------------------------------------------------------------------------


class OutOfMemoryError(RunError):
    """The device has too little memory for this experiment."""

    def __init__(self, device: str, batch_size: int, patch_size: Sequence[int]) -> None:
        super().__init__(
            f"out of memory on {device} with batches of {batch_size} patches of {'x'.join(map(str, patch_size))}. "
            "Lower [training] batch_size or patch_size, or use a device with more memory (--device)."
        )


class RoundOverError(RunError):
    """Local training was stopped: nobody waits for its result any more."""

    def __init__(self, site: str, round_number: int) -> None:
        super().__init__(
            f"round {round_number}, site {site}: training was stopped, the round is over. Nothing needs to be done: "
            "the site's state is as before the round."
        )


class DivergedError(RunError):
    """Local training ended in weights that are not finite."""

    def __init__(self, site: str, round_number: int) -> None:
        super().__init__(
            f"round {round_number}, site {site}: training diverged, its weights are no longer finite numbers. Lower "
            "[training] learning_rate, or set gradient_clip_norm to 12 or less."
        )


class OccupiedFolderError(StorageError):
    """The output folder already holds a run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} already holds a run. Add --resume to go on with it, or choose another --out."
        )


class BusyFolderError(StorageError):
    """Another process works in the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is in use by another process. Wait until it ends or stop it, or choose another --out."
        )


class SocketPathError(StorageError):
    """A unix socket cannot have so long a path."""

    def __init__(self, path: Path, longest: int) -> None:
        super().__init__(
            f"{path} is {len(str(path).encode())} bytes long, and a socket's path at most {longest}. "
            "Choose a folder nearer to the root."
        )


class UnusableFolderError(StorageError):
    """A folder cannot be created or written."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"cannot write to {folder}: {reason}. Choose another folder, or free space or rights there."
        )


# ---- cohort ----------------------------------------------------------------------------------------------------


class TooFewPatientsError(DataError):
    """A site cannot be split into training, validation and test patients."""

    def __init__(self, site: str, patients: int, needed: int) -> None:
        super().__init__(
            f"site {site} has {patients} patients, but a split by patient needs at least {needed}. Give the site more "
            "patients, use fewer [simulation] sites or folds, or another partition."
        )


# ---- checkpoints -----------------------------------------------------------------------------------------------


class CheckpointError(StorageError):
    """A checkpoint is torn, damaged or foreign."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"checkpoint {path} {fault}. Resume goes on from the one before it; restore it from a copy."
        )


# ---- keys ------------------------------------------------------------------------------------------------------


class KeyFileError(StorageError):
    """The file of a private key cannot be used."""

    def __init__(self, path: Path, fault: str, remedy: str) -> None:
        super().__init__(f"key {path}: {fault}. {remedy}.")


class PublicKeyError(ConfigError):
    """A text is not a public key."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"public key {text[:60]!r}: not 'ed25519:' and 44 characters. "
            "Copy the whole line that the other side printed."
        )


# ---- simulation ------------------------------------------------------------------------------------------------


class SimulatedFaultsError(ConfigError):
    """An experiment with misbehaviour is not for hospitals."""

    def __init__(self) -> None:
        super().__init__(
            "the experiment has [simulation.faults], sites that misbehave: those are for medseg-simulate alone, and no "
            "hospital is asked for them. Take the section out."
        )


# ---- assessment ------------------------------------------------------------------------------------------


class UnreadableRunError(StorageError):
    """A file of a run folder is missing, damaged or of another version."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"{path}: {fault}. A report needs the experiment.toml, summary.json and cases.json of a finished run "
            "of this version: give the folder that --out named, or finish the run with --resume."
        )


class FaultyCasesError(DataError):
    """Some cases of a data set cannot be used; lists the first of them."""

    SHOWN = 10

    def __init__(self, faults: Sequence[DataError], total: int) -> None:
        self.faults = tuple(faults)
        listed = "\n".join(f"  {fault}" for fault in self.faults[: self.SHOWN])
        more = f"\n  and {len(self.faults) - self.SHOWN} more" if len(self.faults) > self.SHOWN else ""
        super().__init__(
            f"{len(self.faults)} of {total} cases cannot be used; mend them or leave them out:\n{listed}{more}"
        )


# ---- trained models --------------------------------------------------------------------------------------------


class ModelFolderError(StorageError):
    """The folder of a trained model is incomplete, damaged or foreign."""

    def __init__(self, folder: Path, fault: str) -> None:
        super().__init__(
            f"model {folder}: {fault}. Give the model/ folder of a finished run, or copy it again from there."
        )


class NoPersonalModelError(StorageError):
    """A site that has nothing of its own beside a model is named."""

    def __init__(self, folder: Path, site: str, known: Sequence[str]) -> None:
        remedy = f"Sites that have: {', '.join(known)}." if known else "No site has: leave --site out."
        super().__init__(f"model {folder}: there is nothing of a site {site}'s own. {remedy}")


class NotWholeError(StorageError):
    """Sites keep part of a model, so that the package alone cannot predict."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        super().__init__(
            f"model {folder}: with algorithm {algorithm} every site has its own part of the model, which is not in the "
            "package. Name the site whose part to use, one of those in personal/: --site NAME. A hospital has its part "
            "once it has tested the model of the run."
        )


class ModelSignatureError(MedsegError):
    """A model package is not whole, or not signed by the coordinator; `fault` says which."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(f"model package: {fault}. Ask the coordinator to publish it again.")


class OutputExistsError(StorageError):
    """A result would replace a file that is there."""

    def __init__(self, path: Path, fault: str = "is there already,") -> None:
        super().__init__(f"{path} {fault} and is left as it is. Choose another --out, or move it away.")


class SameOutputError(DataError):
    """Two images would be segmented into one file."""

    def __init__(self, first: Path, second: Path, name: str) -> None:
        super().__init__(
            f"{first} and {second} would both be segmented into {name}. Segment them into different folders."
        )


class NothingToScoreError(DataError):
    """A data set holds no case with a label."""

    def __init__(self, data: Path) -> None:
        super().__init__(
            f"{data} names no label for any case. Scores need the truth: use predict, or add labels."
        )


class SegmentationMemoryError(RunError):
    """The device cannot hold the segmentation of one image."""

    def __init__(self, case_id: str, shape: Sequence[int], device: str) -> None:
        size = "x".join(map(str, shape))
        super().__init__(
            f"case {case_id}: out of memory on {device} while segmenting {size} voxels. Use --device cpu, a device "
            "with more memory, or a smaller part of the image."
        )


# ---- enrolment -------------------------------------------------------------------------------------------------
