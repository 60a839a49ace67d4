"""Who trains, who validates, who tests: whole patients, by a seeded hash of the patient identifier."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from medseg_core.errors import TooFewPatientsError
from medseg_core.seeding import derive_seed
from medseg_core.types import Case

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.10  # of the patients; the rest trains


@dataclass(frozen=True)
class Fold:
    """One of `count` folds, 0-based: its patients test, the others train and validate."""

    index: int
    count: int


@dataclass(frozen=True)
class Split:
    """The cases of one site by purpose; no patient is in two of them."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def split_cases(cases: Sequence[Case], *, site: str, seed: int, fold: Fold | None = None) -> Split:
    """Patients ordered by hash, cut at 25 % test and 10 % validation (each at least one), or at the fold.

    `seed` is the experiment's. Independent of the order of `cases` and of how other sites are made up.

    Raises:
        TooFewPatientsError: fewer patients than the split needs to give each part one.
    """
    own_seed = derive_seed(seed, purpose="split")
    patients = sorted({c.patient_id for c in cases}, key=lambda p: _rank(own_seed, p))
    needed = 3 if fold is None else _needed_for_folds(fold.count)
    if len(patients) < needed:
        raise TooFewPatientsError(site, len(patients), needed)
    if fold is None:
        n_test = max(1, round(TEST_SHARE * len(patients)))
        test, rest = patients[:n_test], patients[n_test:]
    else:
        test = patients[fold.index :: fold.count]
        rest = [p for p in patients if p not in set(test)]
    n_validation = max(1, round(VALIDATION_SHARE / (1 - TEST_SHARE) * len(rest)))
    validation, train = rest[:n_validation], rest[n_validation:]
    return Split(*(_of(cases, group) for group in (train, validation, test)))


def _needed_for_folds(count: int) -> int:
    """Fewest patients that give each fold one to test, and leave two: one to train, one to validate."""
    return 4 if count == 2 else count


def _rank(seed: int, patient_id: str) -> str:
    """Position of a patient in the seeded order."""
    return hashlib.sha256(f"{seed}|{patient_id}".encode()).hexdigest()


def _of(cases: Sequence[Case], patients: Sequence[str]) -> tuple[Case, ...]:
    """The cases of some patients, by case identifier."""
    chosen = set(patients)
    return tuple(sorted((c for c in cases if c.patient_id in chosen), key=lambda c: c.case_id))
