"""The versions of the wire format that this release speaks: its own, and the one before it.

A coordinator and a site use the newest that both speak, so either side may be upgraded first.
"""

from collections.abc import Iterable

from medseg_core.federation_errors import WireVersionsError

WIRE_VERSION = 1
SPOKEN: tuple[int, ...] = (1,)  # oldest first; the next release speaks (1, 2)
VERSION_MAX = 1_000_000


def newest_common(theirs: Iterable[int], *, us: str, them: str) -> int:
    """The version to use with the other side. Raises WireVersionsError naming both, and who has to upgrade."""
    spoken = tuple(theirs)
    if common := set(spoken) & set(SPOKEN):
        return max(common)
    raise WireVersionsError(us, SPOKEN, them, spoken)
