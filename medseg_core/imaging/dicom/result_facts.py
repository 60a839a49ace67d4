"""What a result says of itself: who made it, and what its segments mean."""

from dataclasses import dataclass

MAKER = "medseg"  # Manufacturer of every result, by which it is known again
NOTICE = "Research use only, not a medical device"
Code = tuple[str, str, str]  # value, coding scheme, meaning
ANATOMY: Code = ("91723000", "SCT", "Anatomical Structure")
OWN_SCHEME = "99MEDSEG"  # DICOM: schemes of one's own begin with 99
_VALUE_CHARACTERS = 16  # of a code value (SH); of text of the kinds LO, 64
_TEXT_CHARACTERS = 64


@dataclass(frozen=True)
class Maker:
    """The model that made a result."""

    task: str
    run: str
    weights_sha256: str
    version: str  # of medseg

    def described(self, remark: str) -> str:
        """The notice, the task and a remark, in the 64 characters of a series description."""
        return "; ".join(part for part in ("Research use only", remark, self.task) if part)[:_TEXT_CHARACTERS]


@dataclass(frozen=True)
class Meaning:
    """What a segment is, in codes: of its kind (such as anatomy, or an abnormality), and of the very structure."""

    name: str  # of the label in the task
    category: Code = ANATOMY
    kind: Code | None = None  # None: a code of our own with the label's name

    @property
    def type(self) -> Code:
        """The structure: the code given, or one of our own scheme with the label's name."""
        return self.kind or (self.name[:_VALUE_CHARACTERS], OWN_SCHEME, self.name)
