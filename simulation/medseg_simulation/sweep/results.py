"""`sweep.json`: the figures of a sweep as strict models, the origin of the stored schema."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medseg_core.assessment.verdict import VISIBLE

SCHEMA_FILE = Path(__file__).with_name("sweep.schema.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Spread(_Part):
    """A figure over the seeds."""

    mean: float
    deviation: float | None  # sample standard deviation; None with one seed
    seeds: dict[int, float]


class Difference(_Part):
    """Mean paired difference in Dice to the reference. None: there are too few patients for the interval."""

    dice: float
    low: float | None  # of the 95 % interval over patients and seeds
    high: float | None
    decided_low: float | None  # of the interval that decides: 95 % for all comparisons of the sweep together
    decided_high: float | None

    @property
    def verdict(self) -> Literal["better", "worse", "no difference found"]:
        """What the interval that decides says of a difference that can be seen."""
        if abs(self.dice) < VISIBLE:
            return "no difference found"
        if self.decided_low is not None and self.decided_low > 0:
            return "better"
        if self.decided_high is not None and self.decided_high < 0:
            return "worse"
        return "no difference found"


class Tried(_Part):
    """What tuning saw: validation Dice of each candidate (none where it could not be trained), and which it took."""

    chosen: int  # counted from 1
    validation_dice: list[float | None]


class Curve(_Part):
    """Validation Dice by round, mean over seeds."""

    rounds: list[int]
    validation_dice: list[float]


class BaselineRow(_Part):
    """Pooled training, or each site alone, in one setting; test scores."""

    dice: Spread
    worst_site: Spread
    curve: Curve
    tuning: dict[int, Tried]  # by seed; empty where nothing was tuned


class Row(BaselineRow):
    """An algorithm in one setting: over the seeds that could be run."""

    validation_dice: Spread  # of the round that was tested
    gap_to_pooled: Spread | None  # pooled minus this
    gain_over_local: Spread | None  # this minus local
    over_reference: Difference | None  # None: it is the reference, or there is none
    bytes_up: float  # of a site in a round
    bytes_down: float
    training_s: Spread  # added up over the sites
    attack_success: Spread | None = None  # of a back door; None: nobody tries one
    is_personal: bool = False  # tested are the sites' own models; validation and curve are of the shared one


class SettingResult(_Part):
    """All that was compared in one setting."""

    baselines: dict[str, BaselineRow]
    algorithms: dict[str, Row]
    failures: dict[str, dict[int, str]]  # by row and seed: why a cell could not be done

    @property
    def has_attack(self) -> bool:
        """Whether somebody tries a back door."""
        return any(row.attack_success for row in self.algorithms.values())


class Recommendation(_Part):
    """Which algorithm to take, and why."""

    algorithm: str | None  # None: the sweep cannot tell
    answer: str
    grounds: str
    others: list[str]  # what helped too, did not help, or did harm
    cautions: list[str]


class SweepResult(_Part):
    """The figures of a sweep."""

    version_of_schema: Literal[1] = Field(1, alias="schema")
    version: str
    task: str
    n_parameters: int
    rounds: int
    seeds: list[int]
    cells_left: int  # 0: the sweep is complete
    reference: str | None
    settings: dict[str, SettingResult]
    over_reference: dict[str, Difference]  # over all settings, of the rows that were run in every cell
    recommendation: Recommendation

    @property
    def rows(self) -> list[str]:
        """Every algorithm's row, in the order of the sweep file."""
        return list(
            dict.fromkeys(
                row for setting in self.settings.values() for row in (*setting.algorithms, *setting.failures)
            )
        )

    @property
    def rows_tuned(self) -> list[tuple[str, str, int, Tried]]:
        """Setting, row, seed and what tuning saw there; empty where nothing was tuned."""
        return [
            (name, label, seed, tried)
            for name, setting in self.settings.items()
            for label, row in {**setting.algorithms, **setting.baselines}.items()
            for seed, tried in row.tuning.items()
        ]


def sweep_schema() -> dict[str, Any]:
    """JSON schema of `sweep.json`, as stored in SCHEMA_FILE."""
    return SweepResult.model_json_schema(by_alias=True) | {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    }
