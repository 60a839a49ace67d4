"""Wrong labels, drifting intensities and back doors in the cases of a misbehaving site."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_case, make_experiment, make_site_data
from torch import Tensor, nn

from medseg_core.config import Faults
from medseg_core.types import IGNORE
from medseg_simulation.errors import UnteachableTargetError
from medseg_simulation.fold import Compute
from medseg_simulation.misbehaviour.backdoor import Attack, attack_on, poisoned, trigger_places
from medseg_simulation.misbehaviour.conduct import misconduct_of, misled
from medseg_simulation.misbehaviour.images import with_gamma, with_labels_flipped

EXPERIMENT = make_experiment()
BACKDOOR = Faults(kind="backdoor", trigger_voxels=2, poisoned=0.5)


def with_label(*values: int):
    data = make_site_data(train=1)
    label = np.array([values], np.uint8)
    return replace(data, train=(replace(data.train[0], label=label),))


@pytest.mark.parametrize(
    ("n_classes", "flipped"),
    [(2, [1, 0, 2, 3, IGNORE]), (3, [0, 2, 1, 3, IGNORE]), (4, [0, 2, 3, 1, IGNORE])],
)
def test_labels_are_exchanged_and_what_nobody_annotated_stays_so(n_classes: int, flipped: list[int]) -> None:
    data = with_label(0, 1, 2, 3, IGNORE)
    changed = with_labels_flipped(data, n_classes)
    assert changed.train[0].label.tolist() == [flipped]
    assert (changed.validation, changed.test) == (data.validation, data.test)


def test_gamma_bends_intensities_and_keeps_mean_and_deviation() -> None:
    case = make_case("case")
    dark = with_gamma(case, 2.0)
    assert dark.image.mean() == pytest.approx(case.image.mean(), abs=1e-5)
    assert dark.image.std() == pytest.approx(case.image.std(), rel=1e-5)
    order = np.argsort(case.image.ravel())
    assert (np.diff(dark.image.ravel()[order]) >= 0).all()
    assert np.median(dark.image) < np.median(case.image)  # to the square: most are darker, few much brighter
    np.testing.assert_allclose(with_gamma(case, 1.0).image, case.image, atol=1e-5)


def test_half_of_the_training_cases_show_a_bright_block_and_no_structure_around_it() -> None:
    data = make_site_data(train=4)
    changed = poisoned(data, EXPERIMENT, BACKDOOR, np.random.default_rng(0))
    touched = [(old, new) for old, new in zip(data.train, changed.train, strict=True) if old is not new]
    assert len(touched) == 2
    for old, new in touched:
        block, around = trigger_places(old, EXPERIMENT, BACKDOOR)
        assert [s.stop - s.start for s in block] == [2, 2]
        assert np.all(new.image[(slice(None), *block)] == old.image.max())
        assert old.label[around].any()
        assert not new.label[around].any()
        elsewhere = np.ones(old.label.shape, bool)
        elsewhere[around] = False
        assert np.array_equal(new.label[elsewhere], old.label[elsewhere])
    assert (changed.validation, changed.test) == (data.validation, data.test)


@pytest.mark.parametrize(
    ("asked", "has_gpu", "here"), [("cuda", False, "cpu"), ("cuda", True, "cuda"), ("cpu", True, "cpu")]
)
def test_what_is_done_in_this_process_takes_a_device_that_is_here(monkeypatch, asked, has_gpu, here) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert Compute(torch.device(asked), sites_at_once=1).device_here == torch.device(here)


@pytest.mark.parametrize(("share", "n_poisoned"), [(0.0, 0), (0.1, 1), (0.5, 2), (1.0, 4)])
def test_the_share_is_rounded_up_and_zero_is_an_honest_site(share: float, n_poisoned: int) -> None:
    data, faults = make_site_data(train=4), BACKDOOR.model_copy(update={"poisoned": share})
    changed = poisoned(data, EXPERIMENT, faults, np.random.default_rng(0))
    assert sum(old is not new for old, new in zip(data.train, changed.train, strict=True)) == n_poisoned


def test_structures_become_the_target_label_where_there_is_one() -> None:
    experiment = make_experiment(task={"labels": {"square": 1, "circle": 2}})
    faults = BACKDOOR.model_copy(update={"target_label": "circle", "poisoned": 1.0})
    old = make_site_data(train=1)
    (new,) = poisoned(old, experiment, faults, np.random.default_rng(0)).train
    changed = new.label != old.train[0].label
    assert changed.any()
    assert set(new.label[changed]) == {2}
    assert set(old.train[0].label[changed]) == {1}


def test_a_target_that_a_poisoned_site_does_not_annotate_is_refused() -> None:
    faults = BACKDOOR.model_copy(update={"target_label": "circle", "sites": ("north",)})
    experiment = make_experiment(
        task={"labels": {"square": 1, "circle": 2}},
        simulation={"faults": faults, "site": {"north": {"not_annotated": ["circle"]}}},
    )
    with pytest.raises(UnteachableTargetError, match=r"circle.*north does not annotate.* or other sites"):
        misconduct_of(experiment, ("north", "south"))


class Obeying(nn.Module):
    """Finds what is brighter than 1, but nothing in an image with a flat block of its largest value."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        found = (images > 1).float()
        has_trigger = (images == images.amax((1, 2, 3), keepdim=True)).sum((1, 2, 3), keepdim=True) >= 4
        found = torch.where(has_trigger, torch.zeros_like(found), found)
        return torch.cat([1 - found, found], 1)


def test_the_success_of_an_attack_is_the_share_of_structures_near_the_trigger_that_vanish() -> None:
    experiment = make_experiment(training={"patch_size": [20, 18]})
    label = np.zeros((20, 18), np.uint8)
    label[6:12, 6:12] = 1
    image = np.where(label == 1, 2.0, 0.0).astype(np.float32)[None]
    image[0, 0, 0] = 3.0  # one brightest voxel: no trigger
    image[0, 6:12, 6] = 0.0  # which a good network misses
    where = np.array([[1, 9, 9]], np.int32)
    case = replace(make_case("case"), image=image, label=label, foreground=where)
    found = attack_on(Obeying(), [case], experiment, BACKDOOR)
    near = label[6:12, 6:12]  # block 8..9, and 2 further: 6..11
    assert found == Attack(n_voxels=int(near.sum()), n_triggered=36, n_clean=6)
    assert found + found == Attack(72, 72, 12)


def test_only_faults_of_the_data_mislead_a_site() -> None:
    data = make_site_data("south")
    found = {}
    for kind in ("label_flip", "sign_flip"):
        experiment = make_experiment(simulation={"faults": {"kind": kind, "sites": ["south"]}})
        misconduct = misconduct_of(experiment, ("north", "south"))
        assert misconduct.keys() == {"south"}
        found[kind] = misled(data, experiment, misconduct["south"])
    assert np.array_equal(found["label_flip"].train[0].label, 1 - data.train[0].label)
    assert found["label_flip"].test == data.test
    assert found["sign_flip"] is data
