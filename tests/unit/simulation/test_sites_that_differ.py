"""Virtual hospitals with labels and scanners of their own: what each trains on, what is scored, what stays the same."""

from pathlib import Path

import numpy as np
import pytest
from builders import make_experiment
from click.testing import Result
from typer.testing import CliRunner

from medseg_core.config import Experiment, ScannerEffects, experiment_toml, parse_experiment
from medseg_core.errors import ExperimentFileError
from medseg_core.types import Geometry, Volume
from medseg_simulation.cli import app
from medseg_simulation.errors import PartitionError
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.scanner_effects import SiteScanner, scanner_at
from medseg_simulation.virtual_sites import VirtualSites, open_sites

ORGAN_ALONE = {"hospital-1": {"not_annotated": ["lesion"]}}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals with four patients each."""
    settings = PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0)
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), settings)


def experiment_of(**simulation: object) -> Experiment:
    return make_experiment(task={"labels": {"organ": 1, "lesion": 2}}, simulation=simulation)


def opened(phantoms: Path, cache: Path, **simulation: object) -> VirtualSites:
    return open_sites(phantoms, experiment_of(**simulation), cache=cache)


# ---- labels -------------------------------------------------------------------------------------------------


def test_a_site_trains_without_the_label_that_it_does_not_annotate(phantoms: Path, tmp_path: Path) -> None:
    plain = opened(phantoms, tmp_path)
    sites = opened(phantoms, tmp_path, site=ORGAN_ALONE)

    for before, now in zip(plain.cases["hospital-1"], sites.cases["hospital-1"], strict=True):
        np.testing.assert_array_equal(now.label, np.where(before.label == 2, 0, before.label))
        np.testing.assert_array_equal(now.image, before.image)
        assert now.not_annotated == (2,)
    assert any((case.label == 2).any() for case in plain.cases["hospital-1"])
    assert {case.not_annotated for case in sites.cases["hospital-2"]} == {()}
    assert any((case.label == 2).any() for case in sites.cases["hospital-2"])


def test_test_cases_are_scored_on_every_label_where_that_is_asked_for(phantoms: Path, tmp_path: Path) -> None:
    experiment = experiment_of(site=ORGAN_ALONE, score_all_labels=True)
    site = open_sites(phantoms, experiment, cache=tmp_path).split(experiment, None)["hospital-1"]
    as_known = opened(phantoms, tmp_path, site=ORGAN_ALONE).split(experiment, None)["hospital-1"]

    assert {case.not_annotated for case in (*site.train, *site.validation)} == {(2,)}
    assert {case.not_annotated for case in site.test} == {()}
    assert {case.not_annotated for case in as_known.test} == {(2,)}
    assert [c.case for c in site.test] == [c.case for c in as_known.test]


def test_labels_are_of_artificial_sites_too(phantoms: Path, tmp_path: Path) -> None:
    sites = opened(
        phantoms, tmp_path, partition="iid", sites=2, site={"site-2": {"not_annotated": ["organ"]}}
    )

    assert {site: {case.not_annotated for case in cases} for site, cases in sites.cases.items()} == {
        "site-1": {()},
        "site-2": {(1,)},
    }


def test_a_label_that_no_site_annotates_is_refused(phantoms: Path, tmp_path: Path) -> None:
    nowhere = {f"hospital-{number}": {"not_annotated": ["lesion"]} for number in (1, 2)}
    with pytest.raises(PartitionError, match=r"label lesion is annotated at none of the sites\. Take it out"):
        opened(phantoms, tmp_path, site=nowhere)


def test_a_section_of_no_site_is_refused_with_the_names_of_those_that_are(
    phantoms: Path, tmp_path: Path
) -> None:
    with pytest.raises(PartitionError, match=r"\[simulation.site.north\]. Known are hospital-1, hospital-2"):
        opened(phantoms, tmp_path, site={"north": {"not_annotated": ["lesion"]}})


def test_an_experiment_whose_site_contradicts_the_task_is_refused() -> None:
    document = experiment_of().model_dump(mode="json", exclude_none=True)
    document["simulation"]["site"] = {"north": {"not_annotated": ["liver"]}}
    with pytest.raises(ExperimentFileError, match=r"\[simulation.site.north\] .*no label 'liver'"):
        parse_experiment(document, source="x")


def test_scoring_every_label_is_refused_where_a_site_gives_the_value_of_one_to_another() -> None:
    site = {"hospital-1": {"labels": {"organ": 2}, "not_annotated": ["lesion"]}}
    assert experiment_of(site=site).simulation.site
    document = experiment_of(site=site).model_dump(mode="json", exclude_none=True)
    document["simulation"]["score_all_labels"] = True
    with pytest.raises(ExperimentFileError) as refused:
        parse_experiment(document, source="x")
    assert "[simulation.site.hospital-1] does not annotate" in str(refused.value)
    assert "value 2 would be both organ and lesion" in str(refused.value)
    assert "or leave score_all_labels out" in str(refused.value)


def test_a_check_knows_the_values_of_each_site(phantoms: Path, tmp_path: Path) -> None:
    """The experiment calls the organ 5: only a site that says otherwise has sound files."""
    values = {"labels": {"organ": 1}}

    def exit_code(**site: object) -> int:
        experiment = make_experiment(task={"labels": {"organ": 5, "lesion": 2}}, simulation={"site": site})
        path = tmp_path / "experiment.toml"
        path.write_text(experiment_toml(experiment))
        return CliRunner().invoke(app, ["check", str(phantoms), "--experiment", str(path)]).exit_code

    assert exit_code() == 1
    assert exit_code(**{"hospital-1": values}) == 1
    assert exit_code(**{"hospital-1": values, "hospital-2": values}) == 0


@pytest.mark.parametrize(
    ("partition", "names"),
    [
        ("attribute:scanner", ("Aster-15", "Borea-30")),
        ("iid", ("site-1", "site-2")),
        ("quantity", ("site-1", "site-2")),
    ],
)
def test_a_check_knows_the_sites_of_the_partition(
    phantoms: Path, tmp_path: Path, partition: str, names: tuple[str, ...]
) -> None:
    """Only the cases of the second site hold 1 for the organ, which the experiment calls 5."""
    sites = opened(phantoms, tmp_path / "plain", partition=partition, sites=2).cases
    assert sorted(sites) == sorted(names)

    def checked(**site: object) -> Result:
        simulation = {"partition": partition, "sites": 2, "site": site}
        experiment = make_experiment(task={"labels": {"organ": 5, "lesion": 2}}, simulation=simulation)
        path = tmp_path / "experiment.toml"
        path.write_text(experiment_toml(experiment))
        return CliRunner().invoke(app, ["check", str(phantoms), "--experiment", str(path)])

    text = checked(**{names[1]: {"labels": {"organ": 1}}}).output
    assert all(case.case.case_id in text for case in sites[names[0]])
    assert not any(case.case.case_id in text for case in sites[names[1]])
    assert "Known are" in str(checked(north={"labels": {"organ": 1}}).exception)


def test_a_check_says_that_under_dirichlet_files_are_held_to_the_task(phantoms: Path, tmp_path: Path) -> None:
    site = {"site-1": {"labels": {"organ": 5}}}
    experiment = experiment_of(partition="dirichlet", site=site)
    path = tmp_path / "experiment.toml"
    path.write_text(experiment_toml(experiment))
    found = CliRunner().invoke(app, ["check", str(phantoms), "--experiment", str(path)])
    assert found.exit_code == 0
    assert "partition dirichlet: every case is held to [task] alone" in " ".join(found.output.split())


# ---- scanners -----------------------------------------------------------------------------------------------

SHAPE = (24, 20, 12)
VOLUME = Volume(
    np.random.default_rng(0).gamma(2.0, 100.0, (2, *SHAPE)).astype(np.float32),
    Geometry(SHAPE, (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist())),
)
FULL = ScannerEffects(strength=1.0)


def scanner(site: str = "north", settings: ScannerEffects = FULL, seed: int = 0) -> SiteScanner:
    found = scanner_at(site, settings, seed=seed)
    assert found is not None
    return found


def keys_in(cache: Path) -> list[str]:
    """The keys of the cases in a cache."""
    return sorted(case.parent.name for case in cache.glob("*/case.json"))


def test_strength_0_is_bit_for_bit_as_if_the_section_were_not_there(phantoms: Path, tmp_path: Path) -> None:
    plain = opened(phantoms, tmp_path)
    keys = keys_in(tmp_path)
    dialled = opened(phantoms, tmp_path, scanner={"strength": 0.0})

    assert keys_in(tmp_path) == keys
    for site, cases in plain.cases.items():
        for before, now in zip(cases, dialled.cases[site], strict=True):
            assert now.image.tobytes() == before.image.tobytes()


def test_a_dialled_data_set_has_other_images_the_same_labels_and_keys_of_its_own(
    phantoms: Path, tmp_path: Path
) -> None:
    plain = opened(phantoms, tmp_path)
    dialled, again = (opened(phantoms, tmp_path, scanner={"strength": 0.5}) for _ in range(2))

    assert len(keys_in(tmp_path)) == 16
    for site, cases in plain.cases.items():
        for before, now, once_more in zip(cases, dialled.cases[site], again.cases[site], strict=True):
            assert now.image.tobytes() == once_more.image.tobytes() != before.image.tobytes()
            np.testing.assert_array_equal(now.label, before.label)


def test_sites_and_seeds_have_scanners_of_their_own_and_keep_them() -> None:
    assert scanner("north") == scanner("north")
    assert len({scanner(site, seed=seed).gamma for site in ("north", "south") for seed in (0, 1)}) == 4
    shown = [scanner(site).rescan(VOLUME, "case").voxels for site in ("north", "south")]
    assert not np.allclose(*shown, rtol=0.05)


def test_noise_and_field_are_of_the_case_and_the_same_each_time() -> None:
    first, again, other = (scanner().rescan(VOLUME, name).voxels for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_scanner_keeps_grid_type_and_the_image_it_was_given() -> None:
    before = VOLUME.voxels.copy()
    shown = scanner().rescan(VOLUME, "case")
    assert shown.geometry == VOLUME.geometry
    assert shown.voxels.dtype == np.float32
    assert np.isfinite(shown.voxels).all()
    np.testing.assert_array_equal(VOLUME.voxels, before)


def test_the_stronger_the_dial_the_farther_from_the_file() -> None:
    def distance(strength: float) -> float:
        shown = scanner(settings=ScannerEffects(strength=strength)).rescan(VOLUME, "case").voxels
        return float(np.abs(shown - VOLUME.voxels).mean())

    assert distance(0.01) < distance(0.1) < distance(1.0)


@pytest.mark.parametrize(
    ("effect", "changed"),
    [
        ("gamma", "gamma"),
        ("bias_field", "shading"),
        ("resolution", "blur_voxels"),
        ("noise", "noise"),
        ("intensity_scale", "scale"),
    ],
)
def test_an_effect_alone_is_what_it_is_among_all(effect: str, changed: str) -> None:
    alone = scanner(settings=ScannerEffects.model_validate({"strength": 1.0, "effects": [effect]}))
    rest = SiteScanner(alone.seed)
    for name in ("gamma", "shading", "blur_voxels", "noise", "scale"):
        assert getattr(alone, name) == getattr(scanner() if name == changed else rest, name)


def test_effects_are_those_computed_by_hand() -> None:
    """Gamma 2 between the least value and the 99.5th percentile, then a scale of 3."""
    low, high = VOLUME.voxels[0].min(), np.percentile(VOLUME.voxels[0], 99.5)
    unit = (VOLUME.voxels[0] - low) / (high - low)
    shown = SiteScanner(0, gamma=2.0, scale=3.0).rescan(VOLUME, "case").voxels[0]
    np.testing.assert_allclose(shown, 3 * (unit**2 * (high - low) + low), rtol=1e-4)


def test_a_channel_without_contrast_stays() -> None:
    flat = Volume(np.zeros((1, *SHAPE), np.float32), VOLUME.geometry)
    assert not scanner().rescan(flat, "case").voxels.any()


def test_what_was_cut_away_stays_empty() -> None:
    cut = VOLUME.voxels.copy()
    cut[:, :5] = 0
    shown = scanner().rescan(Volume(cut, VOLUME.geometry), "case").voxels
    assert not shown[:, :5].any()
    assert shown[:, 5:].all()


def test_pictures_too_have_scanners() -> None:
    flat = Geometry((24, 20), None, (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    picture = Volume(VOLUME.voxels[:, :, :, 0].copy(), flat)
    assert scanner().rescan(picture, "case").voxels.shape == (2, 24, 20)
