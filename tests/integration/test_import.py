"""`medseg-site import` as a hospital runs it: from a real PACS, killed, and with thousands of files."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dicom_studies import make_importing_site, make_study
from real_pacs import LOGIN, running_pacs
from waiting import wait_until

from medseg_client.machine_check import check_data
from medseg_client.pacs_settings import PacsSettings
from medseg_client.site_folder import SiteFolder
from medseg_core.cohort.checks import check_cohort
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import read_experiment
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.io import read_image, read_label

DICOM = Path(__file__).parents[3] / "shared" / "data" / "dicom"
SARCOMA = """
[task]
name = "sarcoma"
spatial_dims = 3
labels = { tumour = 1 }
segments = { tumour = ["GTV*"] }
[[task.channels]]
name = "t1"
modality = "MR"
[training]
patch_size = [64, 64, 16]
"""
MEMORY_MIB = 600  # torch alone takes half of it
# a process counts what its parent held when it was started: so a small one starts it, and tells its peak in KiB
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def command(site: SiteFolder, out: Path, *sources: object) -> list[str]:
    task = site.root.parent / "experiment.toml"
    words = ["import", *sources, "--out", out, "--site", site.root, "--task", task]
    return [sys.executable, "-m", "medseg_client", *map(str, words)]


def run(site: SiteFolder, out: Path, *sources: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(site, out, *sources), capture_output=True, text=True, check=False)


def files(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"the public data sets are not in {DICOM}")
def test_a_pacs_gives_the_cases_that_a_folder_gives_by_either_protocol(tmp_path: Path) -> None:
    with running_pacs(tmp_path / "pacs") as pacs:
        for path in sorted((DICOM / "sts").rglob("*.dcm")):
            if "PET" not in path.parts:
                pacs.put(path)
        site = make_importing_site(tmp_path, pacs=PacsSettings(dicomweb=pacs.web_settings()))
        (tmp_path / "experiment.toml").write_text(SARCOMA)
        site.pacs_login.write_text(f"{LOGIN}\n")
        site.pacs_login.chmod(0o600)
        query = "pacs:patient=STS_*,modality=MR"
        by_web = run(site, tmp_path / "web", query)
        assert by_web.returncode == 0, by_web.stderr
        assert "2 cases imported" in by_web.stdout
        assert not (site.root / "import" / "fetched").exists()
        changed = site.settings.model_copy(update={"pacs": PacsSettings(dimse=pacs.dimse_settings())})
        (site.root / "site.toml").write_text(changed.to_toml())
        by_dimse = run(site, tmp_path / "dimse", query)
        assert by_dimse.returncode == 0, by_dimse.stderr
    by_folder = run(site, tmp_path / "folder", *(DICOM / f"sts/STS_00{n}/MR_T1" for n in (1, 2)))
    assert by_folder.returncode == 0, by_folder.stderr
    assert files(tmp_path / "web") == files(tmp_path / "dimse") == files(tmp_path / "folder")
    (series,) = scan(DICOM / "sts/STS_001/MR_T1/image").series
    expected = read_series(series)
    images = [
        read_image(path, spatial_dims=3, channels=1, case_id="x")
        for path in (tmp_path / "web/images").iterdir()
    ]
    (image,) = [image for image in images if image.geometry.shape == expected.geometry.shape]
    assert (image.voxels == expected.voxels).all()


PET_CT = SARCOMA.replace(
    'name = "t1"\nmodality = "MR"',
    'name = "ct"\nmodality = "CT"\n[[task.channels]]\nname = "pet"\nmodality = "PET"',
)


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"the public data sets are not in {DICOM}")
def test_ct_and_pet_of_a_study_are_one_case_on_the_grid_of_the_first(tmp_path: Path) -> None:
    site = make_importing_site(tmp_path, data=tmp_path / "out")
    (tmp_path / "experiment.toml").write_text(PET_CT)
    done = run(site, tmp_path / "out", DICOM / "sts/STS_001")
    assert done.returncode == 0, done.stderr
    cohort = read_cohort(tmp_path / "out", read_experiment(tmp_path / "experiment.toml").task)
    assert check_cohort(cohort, read_experiment(tmp_path / "experiment.toml").task).is_sound
    (ct,) = scan(DICOM / "sts/STS_001/CT/image").series
    (case,) = cohort.cases
    images = [read_image(path, spatial_dims=3, channels=1, case_id="x") for path in case.images]
    expected = read_series(ct)
    assert (images[0].voxels == expected.voxels).all()
    assert images[1].geometry.shape == expected.geometry.shape
    assert case.attributes["modality"] == "CT"


LIVER = (
    SARCOMA.replace("tumour = 1", "liver = 1")
    .replace('segments = { tumour = ["GTV*"] }\n', "")
    .replace("MR", "CT")
)


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"the public data sets are not in {DICOM}")
def test_a_dicom_seg_becomes_the_label_that_was_published_with_it(tmp_path: Path) -> None:
    site = make_importing_site(tmp_path)
    (tmp_path / "experiment.toml").write_text(LIVER)
    done = run(
        site,
        tmp_path / "out",
        scans_with(tmp_path / "scans", DICOM / "seg/ct-3slice", DICOM / "seg/liver.dcm"),
    )
    assert done.returncode == 0, done.stderr
    (label,) = (tmp_path / "out/labels").iterdir()
    ours = read_label(label, spatial_dims=3, case_id="x").voxels
    published = read_label(DICOM / "seg/liver_seg.nrrd", spatial_dims=3, case_id="x").voxels
    assert ((ours > 0) == (published > 0)).all()
    assert ours.any()


def scans_with(folder: Path, *sources: Path) -> Path:
    """A folder with the files, and those of folders."""
    folder.mkdir()
    for path in (path for source in sources for path in (source.iterdir() if source.is_dir() else [source])):
        shutil.copy(path, folder)
    return folder


def test_a_pacs_that_is_away_is_a_sentence_and_keeps_what_was_there(tmp_path: Path) -> None:
    with running_pacs(tmp_path / "pacs") as pacs:
        for path in make_study(tmp_path / "scans", 1).iterdir():
            pacs.put(path)
        site = make_importing_site(tmp_path, pacs=PacsSettings(dimse=pacs.dimse_settings()))
        assert run(site, tmp_path / "out", "pacs:patient=P1").returncode == 0
        before = files(tmp_path / "out")
    away = run(site, tmp_path / "out", "pacs:patient=P1")
    assert away.returncode == 1
    assert re.fullmatch(
        r"(.*\n)?error: PACS at 127.0.0.1:\d+: nothing answers there\. Compare .*\n", away.stderr
    )
    assert "Traceback" not in away.stderr
    assert {name: data for name, data in files(tmp_path / "out").items() if name != "import.html"} == {
        name: data for name, data in before.items() if name != "import.html"
    }


def test_an_import_killed_at_any_moment_and_repeated_ends_the_same(tmp_path: Path) -> None:
    site = make_importing_site(tmp_path)
    for number in range(1, 9):
        make_study(tmp_path / f"scans/{number}", number, n_slices=12)
    assert run(site, tmp_path / "whole", tmp_path / "scans").returncode == 0
    out = tmp_path / "killed"
    for n_cases in (1, 4):
        process = subprocess.Popen(command(site, out, tmp_path / "scans"), stderr=subprocess.DEVNULL)
        wait_until(lambda: len(list(out.glob("cases/*.json"))) >= n_cases, look_s=0.001)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(site, out, tmp_path / "scans").returncode == 0
    assert files(out) == files(tmp_path / "whole")


def test_ctrl_c_ends_an_import_without_a_trace(tmp_path: Path) -> None:
    site = make_importing_site(tmp_path)
    for number in range(1, 9):
        make_study(tmp_path / f"scans/{number}", number, n_slices=12)
    out = tmp_path / "out"
    process = subprocess.Popen(command(site, out, tmp_path / "scans"), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(out.glob("cases/*.json"))) >= 1, look_s=0.001)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in told
    assert not (out / ".part").exists()


@pytest.mark.slow
def test_two_thousand_files_are_imported_in_bounded_memory_with_a_bar(tmp_path: Path) -> None:
    site = make_importing_site(tmp_path, data=tmp_path / "out")
    for number in range(1, 41):
        make_study(tmp_path / f"scans/{number}", number, n_slices=50)
    words = command(site, tmp_path / "out", tmp_path / "scans")
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "40 cases imported" in done.stdout
    assert "2040/2040" in done.stderr
    assert "40/40" in done.stderr
    assert int(done.stdout.split()[-1]) / 1024 < MEMORY_MIB
    (finding,) = check_data(site, [read_experiment(tmp_path / "experiment.toml")])
    assert finding.state == "ok"
