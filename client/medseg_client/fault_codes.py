"""Which code leaves for a fault at a site; its text stays in the site's log."""

from medseg_core.errors import (
    DataError,
    DivergedError,
    ModelSignatureError,
    OutOfMemoryError,
    RoundOverError,
    UpdateError,
    WireError,
)
from medseg_core.wire.codes import RefusalCode


def code_of(error: Exception) -> RefusalCode:
    """What the coordinator may know of a fault."""
    match error:
        case WireError():
            return RefusalCode(error.code)
        case UpdateError():
            return RefusalCode.MALFORMED
        case ModelSignatureError():
            return RefusalCode.BAD_SIGNATURE
        case DataError():
            return RefusalCode.DATA_FAULT
        case DivergedError():
            return RefusalCode.DIVERGED
        case OutOfMemoryError():
            return RefusalCode.OUT_OF_MEMORY
        case RoundOverError():
            return RefusalCode.STALE_ROUND
        case _:
            return RefusalCode.INTERNAL
