"""`[task.channels.series]`: which DICOM series of a study is a channel."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg_core.config.section import PositiveFloat, Section

Pattern = Annotated[str, Field(min_length=1, max_length=64)]


class SeriesRules(Section):
    """All of these must hold of a series, beside the channel's modality.

    Patterns know `*` for any letters, `?` for one and `[ab]` for one of these; upper and lower case are alike.
    """

    description: tuple[Pattern, ...] = ()  # of which one fits; none: any
    not_description: tuple[Pattern, ...] = ()  # of which none fits
    orientation: Literal["axial", "coronal", "sagittal", "oblique"] | None = None
    slice_thickness_mm: tuple[PositiveFloat, PositiveFloat] | None = None  # least and most

    @model_validator(mode="after")
    def _range_rises(self) -> "SeriesRules":
        if self.slice_thickness_mm is not None and self.slice_thickness_mm[0] > self.slice_thickness_mm[1]:
            raise ValueError("slice_thickness_mm must rise: [least, most]")
        return self
