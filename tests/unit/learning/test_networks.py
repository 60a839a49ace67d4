import subprocess
import sys
from typing import Any

import pytest
import torch
from builders import make_experiment
from torch import nn

from medseg_core.config import Channel, Model, Task, parse_experiment
from medseg_core.errors import ExperimentFileError, NetworkShapeError, NormalisationError
from medseg_core.learning.networks import build_network, count_parameters

NORM_LAYERS = {
    "instance": (nn.InstanceNorm2d, nn.InstanceNorm3d),
    "group": (nn.GroupNorm,),
    "batch": (nn.BatchNorm2d, nn.BatchNorm3d),
}


def make_task(*, spatial_dims: int = 3, n_channels: int = 1, n_labels: int = 2) -> Task:
    return Task.model_validate(
        {
            "name": "toy",
            "spatial_dims": spatial_dims,
            "channels": tuple(Channel(name=f"c{n}") for n in range(n_channels)),
            "labels": {f"l{n}": n + 1 for n in range(n_labels)},
        }
    )


def make_model(name: str = "unet", **settings: Any) -> Model:
    return Model.model_validate({"name": name, "channels": (4, 8, 16), **settings})


def norm_layers(network: nn.Module) -> set[type[nn.Module]]:
    known = tuple(layer for layers in NORM_LAYERS.values() for layer in layers)
    return {type(m) for m in network.modules() if isinstance(m, known)}


@pytest.mark.parametrize("normalisation", ["instance", "group", "batch"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
def test_every_network_comes_in_2d_and_3d_with_every_normalisation(
    name: str, spatial_dims: int, normalisation: str
) -> None:
    task = make_task(spatial_dims=spatial_dims, n_channels=2, n_labels=3)
    network = build_network(task, make_model(name, normalisation=normalisation), seed=0)
    logits = network(torch.zeros(2, 2, *[8] * spatial_dims))
    assert logits.shape == (2, 4, *[8] * spatial_dims)
    assert norm_layers(network) == {
        NORM_LAYERS[normalisation][0 if normalisation == "group" else spatial_dims - 2]
    }


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_attention_unet_comes_in_2d_and_3d(spatial_dims: int) -> None:
    model = make_model("attention_unet", normalisation="batch")
    network = build_network(make_task(spatial_dims=spatial_dims), model, seed=0)
    assert network(torch.zeros(1, 1, *[8] * spatial_dims)).shape == (1, 3, *[8] * spatial_dims)


@pytest.mark.parametrize("normalisation", ["instance", "group"])
def test_attention_unet_without_batch_normalisation_is_refused_with_a_remedy(normalisation: str) -> None:
    with pytest.raises(
        NormalisationError, match=r'attention_unet has batch normalisation only\. Set .* "batch"'
    ):
        build_network(make_task(), make_model("attention_unet", normalisation=normalisation), seed=0)


def test_dynunet_of_two_levels_is_refused_with_a_remedy() -> None:
    with pytest.raises(NetworkShapeError, match=r"at least 3 entries, got 2\. Add levels, or use unet"):
        build_network(make_task(), make_model("dynunet", channels=(8, 16)), seed=0)


def test_segresnet_whose_channels_do_not_double_is_refused_with_the_right_ones() -> None:
    with pytest.raises(NetworkShapeError, match=r"got \[8, 16, 24\]. Use \[8, 16, 32\]"):
        build_network(make_task(), make_model("segresnet", channels=(8, 16, 24)), seed=0)


def test_segresnet_without_residual_units_is_refused() -> None:
    with pytest.raises(NetworkShapeError, match="at least 1, got 0"):
        build_network(make_task(), make_model("segresnet", residual_units=0), seed=0)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "cnn3d"])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one = build_network(make_task(), make_model(name), seed=7).state_dict()
    torch.manual_seed(2)
    torch.rand(3)
    same = build_network(make_task(), make_model(name), seed=7).state_dict()
    other = build_network(make_task(), make_model(name), seed=8).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_building_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    build_network(make_task(), make_model(), seed=7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "cnn3d"])
def test_any_multiple_of_the_patch_multiple_keeps_its_size(name: str) -> None:
    model = make_model(name)
    n = model.patch_multiple
    size = (n, 2 * n, 3 * n)
    network = build_network(make_task(), model, seed=0)
    assert network(torch.zeros(1, 1, *size)).shape[2:] == size


def test_patch_multiple_counts_the_halvings() -> None:
    assert make_model("unet", channels=(4, 8, 16, 32)).patch_multiple == 8
    assert make_model("segresnet", channels=(4, 8)).patch_multiple == 2
    assert make_model("cnn3d").patch_multiple == 1


@pytest.mark.parametrize(
    ("patch", "nearest"), [((17, 16), "[16, 16]"), ((2, 2), "[4, 4]"), ((1, 8), "[2, 8]")]
)
def test_an_experiment_whose_patch_does_not_survive_the_strides_is_refused(
    patch: tuple[int, int], nearest: str
) -> None:
    document = make_experiment().model_dump(mode="json", exclude_none=True)
    document["training"]["patch_size"] = list(patch)
    with pytest.raises(ExperimentFileError, match=r"every entry must be a multiple of 2.*at least 4") as told:
        parse_experiment(document, source="x.toml")
    assert f"Use {nearest}, or fewer [model] channels" in str(told.value)


def test_parameters_of_a_plain_cnn_are_those_counted_by_hand() -> None:
    model = make_model("cnn3d", channels=(4, 6))
    network = build_network(make_task(n_channels=2), model, seed=0)
    first, second, head = 2 * 4 * 27 + 2 * 4, 4 * 6 * 27 + 2 * 6, 6 * 3 + 3
    assert count_parameters(network) == first + second + head


def test_frozen_parameters_are_not_counted() -> None:
    network = nn.Linear(3, 2)
    network.bias.requires_grad_(False)
    assert count_parameters(network) == 6


def test_the_default_unet_has_less_than_one_and_a_half_million_parameters() -> None:
    assert count_parameters(build_network(make_task(), Model(), seed=0)) == 1_187_766


@pytest.mark.parametrize("normalisation", ["instance", "group", "batch"])
def test_a_plain_cnn_has_the_normalisation_asked_for(normalisation: str) -> None:
    network = build_network(make_task(), make_model("cnn3d", normalisation=normalisation), seed=0)
    assert norm_layers(network) == {NORM_LAYERS[normalisation][-1]}


def test_a_plain_cnn_sees_as_far_as_its_dilations_reach() -> None:
    network = build_network(
        make_task(), make_model("cnn3d", channels=(4, 4), normalisation="batch"), seed=0
    ).eval()
    image = torch.rand(1, 1, 15, 15, 15, requires_grad=True)
    network(image)[0, :, 7, 7, 7].sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0].nonzero()
    assert seen.min(0).values.tolist() == [4, 4, 4]  # 2^(2 + 1) - 1 = 7 voxels, 3 to each side
    assert seen.max(0).values.tolist() == [10, 10, 10]


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "cnn3d"])
def test_dropout_acts_in_training_only(name: str) -> None:
    network = build_network(make_task(), make_model(name, dropout=0.5), seed=0)
    image = torch.rand(1, 1, 8, 8, 8)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "cnn3d"])
def test_dropout_never_drops_a_logit(name: str) -> None:
    network = build_network(make_task(), make_model(name, dropout=0.5), seed=0)
    assert torch.count_nonzero(network(torch.rand(1, 1, 8, 8, 16)) == 0) == 0


def test_monai_is_not_loaded_before_a_network_is_built() -> None:
    modules = "medseg_core.learning.inference, medseg_core.learning.losses"
    code = f"import sys, {modules}; print('monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
