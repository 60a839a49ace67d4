"""Picture files (PNG, JPEG, TIFF, PPM, GIF) by Pillow and tifffile, which read what SimpleITK misreads."""

from pathlib import Path

from medseg_core.types import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif", ".bmp")


def read_picture(path: Path, case_id: str, *, is_label: bool) -> Volume:
    """A picture as `(c, i, j[, k])` in the file's own type; `spacing_mm` is None."""
    raise NotImplementedError
