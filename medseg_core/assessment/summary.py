"""What `summary.json` holds, as strict models: checked when read, and the origin of the stored schema."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg_core.config import FaultKind
from medseg_core.errors import UnreadableRunError
from medseg_core.wire.site_facts import SiteFacts

SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scores(_Part):
    """Means over cases. None: no case defines the metric (mm without spacing, and the other way round)."""

    dice: float
    iou: float
    hd95_mm: float | None
    hd95_px: float | None
    surface_dice: float
    precision: float
    recall: float
    specificity: float
    volume_error: float | None  # signed and relative: negative means too small


class SiteScores(Scores):
    """Scores of one site, the 95 % interval of its Dice over patients, and what they rest on."""

    dice_low: float | None  # None with a single patient
    dice_high: float | None
    n_cases: int
    n_patients: int
    n_empty: int  # labels of cases that exactly one of prediction and truth holds


class WorstSite(_Part):
    """The site with the lowest mean Dice."""

    site: str
    dice: float


class ModelScores(_Part):
    """Test scores of one model, or of each site's own model on its own cases."""

    mean: Scores  # over cases
    site_mean: Scores  # over sites, each counting once
    worst_site: WorstSite
    labels: dict[str, Scores]
    sites: dict[str, SiteScores]


class Counts(_Part):
    """How many for each purpose."""

    train: int
    validation: int
    test: int


class SiteCounts(_Part):
    """What one site brought; with folds, in the first of them."""

    patients: Counts
    cases: Counts


class CrossScore(_Part):
    """One model on the test cases of one site."""

    dice: float


class Point(_Part):
    """One round of a learning curve; round 0 is the initial model. None: not measured in this round."""

    round: int
    training_loss: float | None
    validation_dice: float | None
    sites: dict[str, float | None] = {}  # validation Dice at each site
    server_dice: float | None = None  # on the coordinator's own cases


class Curves(_Part):
    """Learning curves of the shared model and of the baselines, if any."""

    shared: list[Point] = Field(alias="global")
    pooled: list[Point] | None
    local: dict[str, list[Point]] | None


class Contribution(_Part):
    """What one site did in one round."""

    cases: int
    seconds: float
    bytes_up: int
    bytes_down: int


class Round(_Part):
    """Who took part in one round, and why the others did not."""

    round: int
    contributed: dict[str, Contribution]
    absent: dict[str, str]


class Best(_Part):
    """The round whose model was tested, chosen by validation."""

    round: int
    validation_dice: float | None


class Cost(_Part):
    """What the federation took: seconds, bytes between sites and server, memory of the process."""

    wall_s: float
    training_s: float
    bytes_down: int
    bytes_up: int
    peak_rss_mb: float | None = None  # of a simulation


class Suspect(_Part):
    """A site whose updates look as if it did not do its part, as far as the server sees."""

    reason: str  # code, such as `small_updates`
    rounds: list[int]


class AttackRates(_Part):
    """A back door: shares of the voxels of structures near the trigger that the shared model gives the target label."""

    n_voxels: int
    success_rate: float | None  # in test images with the trigger; None: no such voxel
    clean_rate: float | None  # of the same voxels in the same images without it


class SimulatedFaults(_Part):
    """What sites of a simulation were made to do wrong."""

    kind: FaultKind
    sites: list[str]
    attack: AttackRates | None


class Summary(_Part):
    """The figures of a run. With folds, `best`, `curves`, `participation` and `suspects` are lists, one entry a fold.

    What only a simulation knows (`partition`, `device`, `cross`, `faults`) is None after a run across hospitals.
    """

    version_of_schema: Literal[1] = Field(alias="schema")
    run: str
    version: str
    experiment_sha256: str
    task: str
    algorithm: str
    partition: str | None = None
    seed: int
    folds: int | None = None
    n_parameters: int
    device: str | None = None
    best: Best | list[Best]
    sites: dict[str, SiteCounts]
    shared: ModelScores = Field(alias="global")
    personal: ModelScores | None = (
        None  # each case under the model of its own site that came from the shared one
    )
    pooled: ModelScores | None
    local: ModelScores | None
    cross: dict[str, dict[str, CrossScore]] | None = None
    server: SiteScores | None = None  # on the coordinator's own cases
    untested: dict[str, str] = {}  # sites without usable test scores, and why
    facts: dict[str, SiteFacts] = {}  # what sites told of themselves, of a run across hospitals
    curves: Curves | list[Curves]
    participation: list[Round] | list[list[Round]]
    suspects: dict[str, Suspect] | list[dict[str, Suspect]] = {}
    faults: SimulatedFaults | None = None
    cost: Cost

    @property
    def is_simulated(self) -> bool:
        """Whether the sites were virtual: then the scores of single cases lie beside this file."""
        return self.partition is not None

    @property
    def curves_by_fold(self) -> list[Curves]:
        """Learning curves, one entry a fold; one entry without folds."""
        return self.curves if isinstance(self.curves, list) else [self.curves]

    @property
    def best_by_fold(self) -> list[Best]:
        """The chosen round, one entry a fold; one entry without folds."""
        return self.best if isinstance(self.best, list) else [self.best]

    @property
    def suspects_by_fold(self) -> list[dict[str, Suspect]]:
        """Whom the server suspects, one entry a fold; one entry without folds."""
        return self.suspects if isinstance(self.suspects, list) else [self.suspects]

    @property
    def rounds_by_fold(self) -> list[list[Round]]:
        """Participation, one entry a fold; one entry without folds."""
        nested = [fold for fold in self.participation if isinstance(fold, list)]
        return nested or [[entry for entry in self.participation if isinstance(entry, Round)]]


def read_summary(path: Path) -> Summary:
    """The summary in a `summary.json`. Raises UnreadableRunError naming the first fault."""
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UnreadableRunError(path, f"{where}: {fault['msg']}") from None
    except OSError as error:
        raise UnreadableRunError(path, error.strerror or type(error).__name__) from None


def summary_schema() -> dict[str, Any]:
    """JSON schema of `summary.json`, as stored in SCHEMA_FILE for programs that read runs."""
    return Summary.model_json_schema(by_alias=True) | {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    }
