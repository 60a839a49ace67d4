"""How much better an algorithm is than another on the same test cases, over settings, seeds and patients."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medseg_core.assessment.scores import CaseScores
from medseg_core.assessment.verdict import FEWEST_PATIENTS
from medseg_core.seeding import derive_seed
from medseg_simulation.sweep.results import Difference

SAMPLES = 10_000  # the tails of a corrected interval need more than the 2000 of a run
Floats = npt.NDArray[np.float64]
Pairs = Mapping[
    tuple[str, int], Sequence[tuple[str, float]]
]  # (setting, seed) -> (patient, difference in Dice)


def paired(model: Sequence[CaseScores], other: Sequence[CaseScores]) -> list[tuple[str, float]]:
    """Patient and difference in Dice of each case that both scored."""
    others = {case.case_id: case.dice for case in other}
    return [(c.patient_id, c.dice - others[c.case_id]) for c in model if c.case_id in others]


def find_difference(pairs: Pairs, *, comparisons: int) -> Difference | None:
    """The mean of `pairs` with its intervals; None without pairs. Deterministic.

    Seeds and patients are drawn with replacement, independently of each other, and every difference counts as often as
    both of its own were drawn: a patient is the same one in all settings and seeds. With one seed the interval covers
    patients only. What decides is a 95 % interval for all `comparisons` together; fewer patients than a verdict needs
    decide nothing.
    Source: Owen 2007, The pigeonhole bootstrap (it errs on the wide side); Bonferroni.
    """
    patients = sorted({patient for cell in pairs.values() for patient, _ in cell})
    if not patients:
        return None
    settings, seeds = sorted({setting for setting, _ in pairs}), sorted({seed for _, seed in pairs})
    sums = np.zeros((len(settings), len(seeds), len(patients)))
    counts = np.zeros_like(sums)
    place = {patient: n for n, patient in enumerate(patients)}
    for (setting, seed), cell in pairs.items():
        for patient, difference in cell:
            where = settings.index(setting), seeds.index(seed), place[patient]
            sums[where] += difference
            counts[where] += 1
    mean = float((sums.sum(axis=(1, 2)) / counts.sum(axis=(1, 2))).mean())
    if len(patients) < 2:
        return Difference(dice=mean, low=None, high=None, decided_low=None, decided_high=None)
    means = _resampled_means(sums, counts)
    tail = 2.5 / max(1, comparisons)
    low, high, *decided = map(float, np.percentile(means, [2.5, 97.5, tail, 100 - tail]))
    decided_low, decided_high = decided if len(patients) >= FEWEST_PATIENTS else (None, None)
    return Difference(dice=mean, low=low, high=high, decided_low=decided_low, decided_high=decided_high)


def _resampled_means(sums: Floats, counts: Floats) -> Floats:
    """Means of draws of seeds and patients; arrays are (setting, seed, patient).

    Draws that miss a setting are left out.
    """
    rng = np.random.default_rng(derive_seed(0, purpose="bootstrap"))
    _, n_seeds, n_patients = sums.shape
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=SAMPLES)  # how often each is drawn
    patients = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=SAMPLES)
    total = np.einsum("bs,gsp,bp->bg", seeds, sums, patients, optimize=True)
    weight = np.einsum("bs,gsp,bp->bg", seeds, counts, patients, optimize=True)
    kept = (weight > 0).all(axis=1)
    return np.asarray((total[kept] / weight[kept]).mean(axis=1))
