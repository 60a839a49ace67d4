"""What keeps a coordinator's rounds from going on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg_core.errors import RunError, StorageError


class QuorumError(RunError):
    """Too few sites answered; names them and why."""

    def __init__(
        self,
        round_number: int,
        counted: int,
        quorum: int,
        absent: Sequence[str],
        *,
        can_stand_in: bool = False,
    ) -> None:
        super().__init__(
            f"round {round_number}: {counted} of the {quorum} sites that [federation] quorum asks for contributed; "
            f"absent: {', '.join(absent) or 'none asked'}. {self._remedy(absent, can_stand_in)}"
        )

    @staticmethod
    def _remedy(absent: Sequence[str], can_stand_in: bool) -> str:
        if absent and all("norm_exceeded" in site for site in absent):
            return (
                "Their updates are longer than [federation] max_update_norm: raise it, or lower [training] "
                "learning_rate, in a new run."
            )
        if any(
            reason in site
            for site in absent
            for reason in ("diverged", "overflow", "not_finite", "norm_exceeded")
        ):
            return "The training leaps too far: lower [training] learning_rate, in a new run."
        if can_stand_in:
            return "Mend that site and resume the run. With [federation] quorum = 1 the next site would stand in."
        return "Mend those sites and resume the run, or lower the quorum."


class UnreachableQuorumError(RunError):
    """A quorum that no round can have."""

    def __init__(self, quorum: int, n_asked: int) -> None:
        super().__init__(
            f"[federation] quorum = {quorum}, but {n_asked} sites are asked in a round. Lower the quorum, use more "
            "sites, or raise participants."
        )


class UnscoredSitesError(RunError):
    """Sites are to be weighed by validation cases that they do not have."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__(
            f'[federation] weights = "validation_gain" weighs sites by their validation cases. Without any: '
            f'{", ".join(sites)}. Use weights = "cases", or give validation cases there.'
        )


class TooFewSitesError(RunError):
    """An algorithm's rule needs more sites than a round has."""

    def __init__(self, algorithm: str, needed: int, n_sites: int) -> None:
        bears_some = algorithm in ("trimmed_mean", "krum", "multi_krum")
        smaller = ", or a smaller [federation.robust] hostile_sites" if bears_some else ""
        super().__init__(
            f"[federation] algorithm = {algorithm!r} needs the updates of {needed} sites in a round, "
            f"{n_sites} are asked. Use more sites or another algorithm{smaller}."
        )


class TooFewUpdatesError(RunError):
    """A round has its quorum, and fewer updates than the algorithm's rule needs; names who is missing and why."""

    def __init__(
        self, round_number: int, algorithm: str, needed: int, counted: int, absent: Sequence[str]
    ) -> None:
        super().__init__(
            f"round {round_number}: [federation] algorithm = {algorithm!r} needs the updates of {needed} sites, "
            f"{counted} contributed; absent: {', '.join(absent)}. Mend those sites and resume the run."
        )


class RequiredSiteError(RunError):
    """A site that the experiment requires did not contribute."""

    def __init__(self, round_number: int, missing: Sequence[str]) -> None:
        super().__init__(
            f"round {round_number}: required sites did not contribute: {', '.join(missing)}. Mend those sites and "
            "resume the run, or take them out of [federation] required_sites."
        )


class SiteAnswersError(RunError):
    """Sites that must answer did not."""

    def __init__(self, kind: str, absent: Mapping[str, str]) -> None:
        reasons = ", ".join(f"{site} ({why})" for site, why in sorted(absent.items()))
        super().__init__(
            f"no usable answer to '{kind}' from {reasons or 'any site'}. Mend those sites and resume the run."
        )


class DifferentDataError(StorageError):
    """The folder holds a run on other cases."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds a run on other data: cases, patients, images or labels are not those of its start, so it "
            "cannot be resumed with these. Give the data as they were, or choose another --out."
        )


class DifferentExperimentError(StorageError):
    """The folder holds a run of another experiment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds a run of another experiment (see its experiment.toml), so it cannot be resumed with this "
            "one. Give the options of the first start, or choose another --out."
        )
