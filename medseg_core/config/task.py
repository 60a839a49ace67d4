"""`[task]`: the contract between the data and the network."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg_core.config.section import Name, PositiveInt, Section
from medseg_core.config.series import Pattern, SeriesRules


class Channel(Section):
    """One input channel and how its intensities are normalised."""

    name: Name
    modality: Literal["CT", "MR", "PET", "XR", "US", "fundus", "other"] = "other"
    normalisation: Literal["zscore", "window", "range"] = "zscore"  # nnU-Net's for all but CT
    window: tuple[float, float] | None = None  # (low, high) in the units of the file: HU for CT
    clahe: bool = False  # contrast-limited adaptive histogram equalisation, before normalisation
    optional: bool = False  # cases without it are taken: zeros after normalisation
    series: SeriesRules | None = None  # of several DICOM series of that modality

    @model_validator(mode="after")
    def _window_when_asked(self) -> "Channel":
        if (self.normalisation == "window") != (self.window is not None):
            raise ValueError('window = [low, high] and normalisation = "window" go together')
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError("window must rise: [low, high]")
        return self


Code = Annotated[
    tuple[
        Annotated[str, Field(min_length=1, max_length=16)],
        Annotated[str, Field(min_length=1, max_length=16)],
        Annotated[str, Field(min_length=1, max_length=64)],
    ],
    Field(description="value, coding scheme, meaning"),
]


class LabelCode(Section):
    """`[task.codes.LABEL]`: what a label is in a DICOM result; the scheme of SNOMED CT is SCT."""

    category: Code = ("91723000", "SCT", "Anatomical Structure")  # of DICOM's CID 7150
    type: Code  # of the structure, such as ["10200004", "SCT", "Liver"]


FileValue = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # in a label file
LabelValues = FileValue | tuple[FileValue, ...] | Literal["nonzero"]


def values_of(wanted: LabelValues) -> tuple[int, ...]:
    """The values in label files that a label names; none for "nonzero"."""
    return (wanted,) if isinstance(wanted, int) else tuple(v for v in wanted if isinstance(v, int))


def require_one_meaning(meanings: Sequence[tuple[int, str]]) -> None:
    """No value in label files stands for two names. Raises ValueError."""
    for value, name in meanings:
        if other := next((n for v, n in meanings if v == value and n != name), None):
            raise ValueError(f"value {value} would be both {name} and {other}; give every label its values")


class SiteLabels(Section):
    """What one site's label files hold, where that is not what [task] says.

    `[simulation.site.NAME]` of an experiment, `[labels.TASK]` of a hospital's site.toml.
    """

    labels: dict[Name, LabelValues] = {}  # noqa: RUF012 - pydantic copies it. Of those not named here: the task's
    background: tuple[FileValue, ...] = ()  # values that are none of the task's labels
    not_annotated: tuple[Name, ...] = ()  # labels that may be there, as background


class Task(Section):
    """The contract between the data and the network: channels in, labels out, on which grid."""

    name: Name
    spatial_dims: Literal[2, 3]
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    labels: Annotated[
        dict[Name, LabelValues], Field(min_length=1, max_length=200)
    ]  # foreground; in order 1, 2, ..
    background: tuple[FileValue, ...] = ()  # values in label files that are no label, beside 0
    ignore_value: FileValue | None = None  # value in label files for "not annotated here"
    spacing_mm: tuple[Annotated[float, Field(gt=0)], ...] | None = None  # None: the spacing of each file
    longest_side_px: PositiveInt | None = None  # for images without physical spacing: scaled to this size
    orientation: Annotated[str, Field(pattern="^[RLAPSI]{3}$")] = "LPS"  # DICOM's; 3D only
    foreground_crop: bool = False  # cut empty (zero) borders away
    allow_empty_label: bool = True
    segments: dict[Name, tuple[Pattern, ...]] | None = (
        None  # names in DICOM SEG and RTSTRUCT that are a label
    )
    licence: str | None = None  # of the data, for the model card
    codes: dict[Name, LabelCode] | None = (
        None  # of labels, for DICOM results; others get a code of medseg's own
    )

    @model_validator(mode="after")
    def _dimensions_agree(self) -> "Task":
        if self.spacing_mm is not None and len(self.spacing_mm) != self.spatial_dims:
            raise ValueError(f"spacing_mm needs {self.spatial_dims} entries, got {len(self.spacing_mm)}")
        if self.spacing_mm is not None and self.longest_side_px is not None:
            raise ValueError("spacing_mm and longest_side_px exclude each other")
        if unknown := [name for name in self.codes or {} if name not in self.labels]:
            raise ValueError(
                f"codes names {unknown[0]}, which is none of the labels: {', '.join(self.labels)}"
            )
        if len({c.name for c in self.channels}) != len(self.channels):
            raise ValueError("two channels have the same name")
        for name in set(self.segments or ()) - set(self.labels):
            raise ValueError(f"segments names {name!r}, which is none of the labels")
        if any(len({*pair} & {*self.orientation}) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError(
                f"orientation {self.orientation} needs one letter each of R or L, A or P, S or I"
            )
        self._require_ignored_alone()
        self._require_one_meaning()
        return self

    def _require_one_meaning(self) -> None:
        """Raises ValueError where a value in label files would be two things."""
        meanings = [(v, name) for name, wanted in self.labels.items() for v in values_of(wanted)]
        require_one_meaning([*meanings, *((v, "background") for v in self.background)])
        if len(rest := [name for name, wanted in self.labels.items() if wanted == "nonzero"]) > 1:
            raise ValueError(
                f'labels {rest[0]} and {rest[1]} are both "nonzero": give every label its values'
            )

    def _require_ignored_alone(self) -> None:
        """Raises ValueError where `ignore_value` means something else, too: it wins, and those voxels would vanish."""
        named = {f"label {name}": values_of(wanted) for name, wanted in self.labels.items()}
        for name, values in {**named, "background": self.background}.items():
            if self.ignore_value in values:
                raise ValueError(
                    f"ignore_value = {self.ignore_value} is a value of {name}, too, whose voxels would be left out: "
                    "give one of them another value"
                )

    @property
    def n_classes(self) -> int:
        """Foreground labels and background."""
        return len(self.labels) + 1

    @property
    def optional_channels(self) -> tuple[int, ...]:
        """Numbers of the channels that a case need not have."""
        return tuple(n for n, channel in enumerate(self.channels) if channel.optional)

    @property
    def not_annotated(self) -> tuple[int, ...]:
        """Classes that no value in the label files stands for: of a task `at_site`."""
        return tuple(n for n, wanted in enumerate(self.labels.values(), start=1) if wanted == ())

    def at_site(self, own: SiteLabels) -> "Task":
        """The task in the values of one site's label files: a label that is not annotated there has none.

        The task's values of such a label are background there, unless the site uses them for another one.
        Raises ValueError for labels that the task does not have and for values that would be two things.
        """
        if own == SiteLabels():
            return self
        for name in (*own.labels, *own.not_annotated):
            if name not in self.labels:
                raise ValueError(
                    f"task {self.name} has no label {name!r}; known are {', '.join(self.labels)}"
                )
            if own.labels.get(name) == ():
                raise ValueError(f"label {name!r} has no value; name it in not_annotated instead")
            if name in own.labels and name in own.not_annotated:
                raise ValueError(
                    f"label {name!r} has values and is not annotated; take it out of one of them"
                )
        if set(own.not_annotated) == set(self.labels):
            raise ValueError("not_annotated names every label of the task; a site needs one to train on")
        labels = {
            name: () if name in own.not_annotated else own.labels.get(name, wanted)
            for name, wanted in self.labels.items()
        }
        meanings = [(v, name) for name, wanted in labels.items() for v in values_of(wanted)]
        meanings += [(v, "background") for v in own.background]
        if self.ignore_value is not None:
            meanings.append((self.ignore_value, "what ignore_value leaves out"))
        require_one_meaning(meanings)
        unseen = [v for name in own.not_annotated for v in values_of(self.labels[name])]
        named = {value for value, _ in meanings} - set(own.background)
        background = sorted({*self.background, *own.background, *unseen} - named)
        return self.model_copy(update={"labels": labels, "background": tuple(background)})
