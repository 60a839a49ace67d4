"""The MONAI bundle's documents: MONAI's own parser builds the same network and the same intensities from them."""

import json

import numpy as np
import pytest
import torch
from builders import make_experiment
from monai.bundle import ConfigParser, verify_net_in_out
from trained_model import make_summary, write_trained

from medseg_core.cohort.preprocess import normalise
from medseg_core.config import Channel
from medseg_core.learning.model_package import read_model
from medseg_core.learning.monai_bundle import differences, inference_config, metadata

NETWORKS = [
    ({"name": "unet"}, 2),
    ({"name": "unet", "normalisation": "group", "dropout": 0.1}, 3),
    ({"name": "dynunet", "channels": [4, 8, 8], "dropout": 0.2}, 3),
    ({"name": "attention_unet", "normalisation": "batch"}, 2),
    ({"name": "segresnet", "normalisation": "batch"}, 2),
    ({"name": "cnn3d"}, 3),
    ({"name": "cnn3d", "normalisation": "group", "dropout": 0.1}, 3),
    ({"name": "cnn3d", "normalisation": "batch"}, 3),
]


def sections(model, dims):
    return {
        "model": model,
        "task": {"spatial_dims": dims},
        "training": {"patch_size": [16] * dims},
    }


def parser_of(folder, **override) -> ConfigParser:
    config = json.loads((folder / "configs/inference.json").read_text())
    return ConfigParser(config | {"bundle_root": str(folder), "device": "cpu"} | override)


@pytest.mark.parametrize(("model", "dims"), NETWORKS, ids=str)
def test_monai_builds_the_same_network_and_loads_its_weights(tmp_path, model, dims):
    write_trained(tmp_path, seed=5, **sections(model, dims))
    parser = parser_of(tmp_path)

    parser.get_parsed_content("run::0")  # loads the weights

    images = torch.rand(2, 1, *[16] * dims, generator=torch.Generator().manual_seed(0))
    network = read_model(tmp_path).network
    for parameter in network.parameters():  # laid out as MONAI lays them out: other sums round otherwise
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        ours = torch.softmax(network(images), dim=1)
        theirs = parser.get_parsed_content("network")(images)
    assert torch.equal(ours, theirs)


def test_weights_of_another_network_are_refused(tmp_path):
    write_trained(tmp_path)
    other = inference_config(make_experiment(model={"channels": [4, 4]}))

    with pytest.raises(RuntimeError) as caught:
        parser_of(tmp_path, network_def=other["network_def"]).get_parsed_content("run::0")

    assert "size mismatch" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "channel",
    [
        {},
        {"normalisation": "range"},
        {"normalisation": "window", "window": (20.0, 60.0)},
        {"clahe": True},
        {"clahe": True, "normalisation": "window", "window": (20.0, 60.0)},
    ],
    ids=str,
)
def test_monai_normalises_intensities_alike(channel):
    config = inference_config(make_experiment(task={"channels": [{"name": "grey", **channel}]}))
    voxels = np.random.default_rng(0).gamma(2, 20, (40, 32)).astype(np.float32)
    parser = ConfigParser({"imports": config["imports"], "normalisation": config["normalisation"]})

    (change,) = parser.get_parsed_content("normalisation")

    ours = normalise(voxels, Channel.model_validate({"name": "grey", **channel}))
    np.testing.assert_allclose(change(torch.tensor(voxels)[None])[0], ours, atol=1e-5)


def test_each_channel_is_normalised_its_own_way():
    channels = [
        {"name": "CT", "normalisation": "window", "window": (0.0, 10.0)},
        {"name": "PET"},
    ]
    config = inference_config(make_experiment(task={"channels": channels}))
    kept = {key: config[key] for key in ("imports", "normalisation")}
    parser = ConfigParser(kept | {"last": config["preprocessing"]["transforms"][-1]})
    image = torch.stack([torch.full((4, 4), 10.0), torch.arange(16.0).reshape(4, 4)])

    changed = parser.get_parsed_content("last")({"image": image})["image"]

    assert (changed[0] == 1).all()
    assert changed[1].mean().abs() < 1e-6


def steps(**task):
    transforms = inference_config(make_experiment(task=task))["preprocessing"]["transforms"]
    return [transform["_target_"] for transform in transforms]


def test_a_step_stands_there_where_the_task_asks_for_it():
    assert steps() == ["LoadImaged", "Lambdad"]
    assert steps(foreground_crop=True, spacing_mm=[1.0, 2.0]) == [
        "LoadImaged",
        "CropForegroundd",
        "Spacingd",
        "Lambdad",
    ]
    assert steps(longest_side_px=64) == ["LoadImaged", "Resized", "Lambdad"]
    oriented = inference_config(make_experiment(**sections({}, 3)))["preprocessing"]["transforms"][1]
    assert (oriented["_target_"], oriented["axcodes"]) == ("Orientationd", "LPS")


def test_label_maps_get_the_values_of_label_files():
    labels = {"vessel": 255, "disc": [7, 8]}
    experiment = make_experiment(task={"labels": labels})

    mapping = inference_config(experiment)["postprocessing"]["transforms"][2]

    assert (mapping["orig_labels"], mapping["target_labels"]) == ([0, 1, 2], [0, 255, 7])


def test_monai_verifies_what_the_network_takes_and_gives(tmp_path):
    write_trained(tmp_path)
    configs = tmp_path / "configs"

    verify_net_in_out(
        net_id="network_def",
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        device="cpu",
    )


# What the schema that metadata.json names requires, and of which type.
REQUIRED = {
    "schema": str,
    "version": str,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
TENSOR = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
}


def test_metadata_has_what_monai_requires():
    experiment = make_experiment()

    document = metadata(experiment, make_summary(experiment))

    assert {key: type(document[key]) for key in REQUIRED} == REQUIRED
    form = document["network_data_format"]
    for tensor in (form["inputs"]["image"], form["outputs"]["pred"]):
        assert {key: type(tensor[key]) for key in TENSOR} == TENSOR
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    assert document["eval_metrics"] == {"mean_dice": 0.8}
    assert form["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "square"}


def test_three_dimensions_need_nibabel_and_clahe_needs_scikit_image():
    grey = make_experiment(task={"channels": [{"name": "grey", "clahe": True}]})
    volume = make_experiment(**sections({}, 3))

    needed = metadata(grey, make_summary(grey))["required_packages_version"]
    needed_3d = metadata(volume, make_summary(volume))["required_packages_version"]

    assert set(needed) == {"fire", "safetensors", "pillow", "scikit-image"}
    assert set(needed_3d) == {"fire", "safetensors", "nibabel"}


def test_differences_name_what_the_experiment_makes_differ():
    plain = differences(make_experiment())
    scaled = differences(make_experiment(task={"longest_side_px": 64}, evaluation={"mirror": True}))

    assert len(plain) == 2
    assert len(scaled) == 4


def test_the_documents_name_nothing_of_ours():
    for model, dims in NETWORKS:
        assert "medseg" not in json.dumps(inference_config(make_experiment(**sections(model, dims))))
