"""What every part of the file is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]


class Section(BaseModel):
    """A strict, frozen part of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
