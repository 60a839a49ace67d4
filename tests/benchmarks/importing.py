"""Time and memory of `medseg-site import` on a folder of many DICOM files.

    python tests/benchmarks/importing.py --out FOLDER [--studies 2 20]

Each study is one CT series of 99 slices of 256 x 256 and an RTSTRUCT: 100 files. Prints for each number of studies the
seconds and the largest resident memory of the process.
"""

# ruff: noqa: T201
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from dicom_files import make_slice, make_structures, place, save
from experiments import TINY

SLICES, SIZE = 99, 256
TASK = TINY.replace("spatial_dims = 2", "spatial_dims = 3").replace("[16, 16]", "[16, 16, 16]")
TASK = TASK.replace('{ name = "grey" }', '{ name = "grey", modality = "CT" }').replace(
    "organ = 1, lesion = 2", "organ = 1"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--studies", type=int, nargs="*", default=[2, 20])
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    (options.out / "task.toml").write_text(TASK)
    for n in options.studies:
        source = options.out / f"dicom-{n}"
        for study in range(n):
            write_study(source / f"{study}", study)
        site = options.out / f"site-{n}"
        command = [sys.executable, "-m", "medseg_client"]
        subprocess.run(
            [*command, "init", site, "--name", "north", "--data", options.out / f"images-{n}"], check=True
        )
        words = ["--site", site, "--task", options.out / "task.toml", "--out", options.out / f"images-{n}"]
        began = time.perf_counter()
        importing = subprocess.Popen([*command, "import", source, *words])
        _, status, used = os.wait4(importing.pid, 0)
        assert status == 0, "the import failed"
        took_s, peak_mib = time.perf_counter() - began, used.ru_maxrss / 1024
        print(f"{n * (SLICES + 1)} files: {took_s:.0f} s, at most {peak_mib:.0f} MiB", flush=True)


def write_study(folder: Path, number: int) -> None:
    """A patient of his own, with an organ that is a square on ten slices."""
    folder.mkdir(parents=True)
    uid, rng = f"1.2.3.{1000 + number}", np.random.default_rng(number)
    who = {"PatientID": f"P{number}", "StudyInstanceUID": uid, "FrameOfReferenceUID": f"{uid}.9"}
    series = f"{uid}.1"
    for k in range(SLICES):
        pixels = rng.integers(0, 1000, (SIZE, SIZE)).astype(np.int16)
        made = make_slice(
            k,
            pixels=pixels,
            Rows=SIZE,
            Columns=SIZE,
            SeriesInstanceUID=series,
            SOPInstanceUID=f"{series}.{k + 1}",
            **who,
        )
        save(made, folder / f"{k}.dcm")
    corners = [(30, 30), (90, 30), (90, 60), (30, 60)]
    contours = [[(x, y, place(k)[2]) for x, y in corners] for k in range(40, 50)]
    drawn = make_structures(
        {"organ": contours}, SOPInstanceUID=f"{uid}.2", SeriesInstanceUID=f"{uid}.3", **who
    )
    on = drawn.ReferencedFrameOfReferenceSequence[0]
    on.FrameOfReferenceUID = who["FrameOfReferenceUID"]
    on.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = series
    save(drawn, folder / "structures.dcm")


if __name__ == "__main__":
    main()
