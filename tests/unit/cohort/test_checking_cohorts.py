"""A check opens every case, keeps every fault, and shows what is there."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohort_files import SHAPE, make_case, make_image, make_label, make_task, write_array, write_manifest
from rich.console import Console

from medseg_core.cohort.cases import Cohort
from medseg_core.cohort.checks import check_cohort
from medseg_core.cohort.manifest import read_cohort
from medseg_core.cohort.tables import render_check
from medseg_core.data_errors import (
    ConstantImageError,
    GeometryMismatchError,
    MissingFileError,
    MissingLabelError,
    UnknownLabelError,
)

DATA = Path(__file__).parents[4] / "shared" / "data"


def cohort_of(*cases, **changes):
    return Cohort(cases, Path("root"), "manifest", **changes)


def shown(report, width=400):
    console = Console(file=io.StringIO(), width=width)
    console.print(render_check(report))
    return console.file.getvalue()


def test_facts_of_a_sound_case(tmp_path):
    case = make_case(tmp_path, spacing=(1.0, 2.0, 5.0))
    write_array(case.images[0], make_image(), spacing=(1.0, 2.0, 5.0))
    report = check_cohort(cohort_of(case), make_task(labels={"b": 2, "a": 1, "absent": 3}))
    assert report.is_sound
    (facts,) = report.facts
    assert facts.case is case
    assert facts.geometry.shape == SHAPE
    assert facts.intensities == ((float(make_image().min()), float(make_image().max())),)
    assert facts.label_voxels == {"b": 40, "a": 40, "absent": 0}
    assert facts.label_sizes == {"b": pytest.approx(0.4), "a": pytest.approx(0.4), "absent": 0.0}  # mL


def test_a_channel_that_is_missing_is_not_shown_as_a_black_one(tmp_path):
    task = make_task(channels=({"name": "T1"}, {"name": "T2", "optional": True}))
    without = replace(make_case(tmp_path), missing=(1,))
    assert "0 to 0" not in (text := shown(check_cohort(cohort_of(without), task)))
    assert "missing" in text
    both = replace(make_case(tmp_path, "c2"), images=(without.images[0], without.images[0]))
    assert "missing" not in shown(check_cohort(cohort_of(without, both), task))


def test_without_a_task_values_and_channels_come_as_found(tmp_path):
    many = write_array(tmp_path / "four.mha", np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32),
                       spacing=(1.0,) * 4, origin=(0.0,) * 4)  # fmt: skip
    report = check_cohort(
        cohort_of(make_case(tmp_path), replace(make_case(tmp_path, "c2"), images=(many,), label=None)), None
    )
    assert report.faults == ()
    assert report.facts[0].label_voxels == {"1": 40, "2": 40}
    assert report.facts[1].label_voxels is None
    assert len(report.facts[1].intensities) == 3


def test_every_fault_of_every_case_is_kept(tmp_path):
    sound = make_case(tmp_path, "sound")
    gone = replace(make_case(tmp_path, "gone"), images=(tmp_path / "nowhere.nii.gz",))
    twice = make_case(tmp_path, "twice", image=np.ones(SHAPE), label=make_label() + 7, origin=(9.0, 0.0, 0.0))
    bare = replace(make_case(tmp_path, "bare", image=make_image(3)), label=None)
    report = check_cohort(cohort_of(sound, gone, twice, bare), make_task())
    assert not report.is_sound
    assert report.n_cases == 4
    assert [f.case.case_id for f in report.facts] == ["sound", "twice", "bare"]
    assert [(f.case_id, type(f)) for f in report.faults] == [
        ("gone", MissingFileError),
        ("twice", ConstantImageError),
        ("twice", GeometryMismatchError),
        ("twice", UnknownLabelError),
        ("bare", MissingLabelError),
    ]
    assert report.facts[1].label_voxels == {"a": 0, "b": 0, "7": 40, "8": 40, "9": 40}


def test_warnings_of_the_list_of_a_case_and_of_copies(tmp_path):
    first = make_case(tmp_path, "c1")
    second = make_case(tmp_path, "c2", label=np.zeros(SHAPE, np.uint8))
    report = check_cohort(cohort_of(first, second, warnings=("no patients",)), make_task())
    assert report.is_sound
    assert report.warnings == (
        "no patients",
        "case c2: the label has no foreground voxel",
        "cases c1, c2: their images agree in every voxel. Keep one, or scores will be flattered",
    )


def test_progress_is_told_for_every_case(tmp_path):
    told = []
    cohort = cohort_of(make_case(tmp_path), replace(make_case(tmp_path, "c2"), images=(tmp_path / "x.nii",)))
    check_cohort(cohort, make_task(), on_case=lambda: told.append(1))
    assert len(told) == 2


def test_table_by_site_then_faults_then_a_summary(tmp_path):
    cases = [replace(make_case(tmp_path, f"c{n}", image=make_image(n)), site="AB"[n % 2]) for n in range(3)]
    broken = replace(make_case(tmp_path, "broken"), site="A", images=(tmp_path / "x.nii.gz",))
    text = shown(check_cohort(cohort_of(*cases, broken), make_task()))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[:5] for row in rows[:2] if row[0]] == [["A", "2", "2", "4 x 5 x 6", "1 x 1 x 1"]]
    assert "a: 0.04 (0.04 to 0.04) mL" in text
    assert ["broken", f"there is no file {tmp_path / 'x.nii.gz'}"] == rows[-1][:2]
    assert "Correct the path, or copy the file there." in text
    assert text.splitlines()[-1] == "3 of 4 cases opened: 3 patients at 2 site(s). 1 fault(s), 0 warning(s)."


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    case = replace(make_case(tmp_path, image=np.ones(SHAPE)), site="[bold]x")
    assert "[bold]x" in shown(check_cohort(cohort_of(case), make_task()))


def test_nothing_to_show_is_no_error(tmp_path):
    report = check_cohort(cohort_of(replace(make_case(tmp_path), images=(tmp_path / "x.nii",))), None)
    assert "0 of 1 cases opened" in shown(report)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")
@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        (
            "retina",
            {"spatial_dims": 2, "channels": [{"name": c} for c in "RGB"], "labels": {"vessel": "nonzero"}},
            {"CHASE": (28, 14), "DRIVE": (40, 40), "STARE": (20, 20)},
        ),
        ("sarcoma", {"labels": {"tumour": 1}}, {"GE": (12, 12), "Philips": (5, 5), "Siemens": (5, 5)}),
        ("cardiac", {"spatial_dims": 2, "labels": {"blood": 255}}, {"": (526, 30)}),
    ],
)
def test_published_sets_are_sound(name, task, expected):
    cohort = read_cohort(DATA / name, make_task(**task))
    counts = {
        site: (len(ours), len({c.patient_id for c in ours}))
        for site in expected
        if (ours := [c for c in cohort.cases if c.site == site])
    }
    assert counts == expected
    some = replace(cohort, cases=cohort.cases[:: max(1, len(cohort.cases) // 5)])
    report = check_cohort(some, make_task(**task))
    assert report.faults == ()
    assert all(n > 0 for facts in report.facts for n in facts.label_voxels.values())


def test_a_list_is_checked_from_its_file_to_the_table(tmp_path):
    make_case(tmp_path)
    write_manifest(
        tmp_path, "c1,p1,A,c1.nii.gz,c1_label.nii.gz,1.5T", header="case_id,patient_id,site,image,label,field"
    )
    report = check_cohort(read_cohort(tmp_path, make_task()), make_task())
    assert report.is_sound
    assert report.facts[0].case.attributes == {"field": "1.5T"}
