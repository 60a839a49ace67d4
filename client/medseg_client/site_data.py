"""The cases of one site, prepared for one experiment."""

from dataclasses import dataclass

from medseg_core.cohort.preprocess import PreprocessedCase


@dataclass(frozen=True)
class SiteData:
    """Preprocessed cases by purpose. `test` is read for the chosen model only, after training."""

    train: tuple[PreprocessedCase, ...]
    validation: tuple[PreprocessedCase, ...]
    test: tuple[PreprocessedCase, ...]


def case_counts(data: SiteData) -> dict[str, int]:
    """Cases and patients by purpose: `train_cases`, `train_patients`, and so on."""
    counts = {}
    for purpose in ("train", "validation", "test"):
        cases = getattr(data, purpose)
        counts[f"{purpose}_cases"] = len(cases)
        counts[f"{purpose}_patients"] = len({c.case.patient_id for c in cases})
    return counts
