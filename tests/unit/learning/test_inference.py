import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medseg_core.config import Experiment
from medseg_core.learning.inference import (
    InferenceSettings,
    inference_settings,
    pad_to,
    pad_to_multiple,
    predict_each,
    predict_probabilities,
)

CPU = torch.device("cpu")


class Counted(nn.Module):
    """A layer that remembers the size of each image that it was given, and how many came at once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.sizes, self.batches = layer, list[tuple[int, ...]](), list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes += [tuple(images.shape[2:])] * len(images)
        self.batches.append(len(images))
        return self.layer(images)  # type: ignore[no-any-return]


def make_network(spatial_dims: int, *, kernel_size: int = 1) -> Counted:
    """One convolution to 3 classes; with a kernel of 1 every voxel is on its own."""
    torch.manual_seed(0)
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return Counted(kind(1, 3, kernel_size, padding=kernel_size // 2))


def make_image(*size: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(1, *size)).astype(np.float32)


def whole(network: Counted, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return torch.softmax(network.layer(torch.tensor(image)[None]), 1)[0].numpy()


@given(size=st.lists(st.integers(1, 30), min_size=2, max_size=3), mirror=st.booleans())
@settings(max_examples=25, deadline=None)
def test_images_of_any_size_come_back_in_their_size_with_the_right_values(
    size: list[int], mirror: bool
) -> None:
    image, network = make_image(*size), make_network(len(size))
    cut = InferenceSettings((8,) * len(size), multiple=4, mirror=mirror)
    probabilities = predict_probabilities(network, image, cut, CPU)
    assert probabilities.shape == (3, *size)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, whole(network, image), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((5, 8), (8, 8)),  # smaller than the patch: filled up
        ((8, 8), (8, 8)),
        ((9, 8), (12, 8)),  # larger along one axis: up to the next multiple
        ((16, 3), (16, 8)),  # exactly two patches
    ],
)
def test_an_image_of_up_to_two_patches_is_seen_in_one_window(
    size: tuple[int, ...], window: tuple[int, ...]
) -> None:
    network = make_network(2)
    predict_probabilities(network, make_image(*size), InferenceSettings((8, 8), multiple=4), CPU)
    assert network.sizes == [window]


def test_an_image_whose_one_window_would_exceed_two_patches_is_cut() -> None:
    network = make_network(2)
    predict_probabilities(network, make_image(9, 12), InferenceSettings((8, 8), multiple=4), CPU)
    assert set(network.sizes) == {(8, 8)}  # (12, 12) is 2.25 patches


def test_a_larger_image_is_seen_in_windows_of_the_patch_size() -> None:
    network = make_network(3)
    predict_probabilities(
        network, make_image(8, 8, 24), InferenceSettings((8, 8, 8), multiple=4, overlap=0.5), CPU
    )
    assert network.sizes == [(8, 8, 8)] * 5  # starts 0, 4, 8, 12, 16


@pytest.mark.parametrize("size", [(24, 20, 9), (17, 8, 33)])
def test_several_windows_give_what_monai_gives_for_one_window_at_once(size: tuple[int, ...]) -> None:
    image, network = make_image(*size), make_network(3, kernel_size=3)
    probabilities = predict_probabilities(network, image, InferenceSettings((8, 8, 8), multiple=4), CPU)
    with torch.no_grad():
        monai = sliding_window_inference(
            torch.tensor(image)[None],
            (8, 8, 8),
            1,
            lambda windows: network.layer(windows).softmax(1),
            overlap=0.5,
            mode="gaussian",
        )
    np.testing.assert_allclose(probabilities, monai[0].numpy(), atol=1e-5)  # type: ignore[index,union-attr]


def test_images_that_fit_one_shape_of_window_share_forward_passes() -> None:
    network = make_network(2, kernel_size=3)
    sizes = [(8, 8), (9, 8), (6, 7), (20, 24), (8, 5), (8, 8), (7, 7), (12, 6)]
    images = [make_image(*size) for size in sizes]
    cut = InferenceSettings((8, 8), multiple=4)
    found = dict(predict_each(network, images, cut, CPU))
    assert network.batches[:3] == [4, 1, 2]  # (8, 8) for five of them, four at a time; (12, 8) for two
    for place, image in enumerate(images):
        np.testing.assert_allclose(found[place], predict_probabilities(network, image, cut, CPU), atol=1e-6)


def test_windows_agree_with_the_whole_image_where_the_network_sees_only_near_voxels() -> None:
    image, network = make_image(40, 40), make_network(2, kernel_size=3)
    probabilities = predict_probabilities(network, image, InferenceSettings((16, 16), multiple=4), CPU)
    difference = np.abs(probabilities - whole(network, image))
    assert difference.mean() < 0.002  # the windows' own borders, of little weight
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (20, 24)])
def test_mirroring_makes_the_result_turn_with_the_image(size: tuple[int, ...]) -> None:
    image, network = make_image(*size), make_network(2, kernel_size=3)
    cut = InferenceSettings((8, 8), multiple=4, mirror=True)
    flipped = predict_probabilities(network, image[:, ::-1].copy(), cut, CPU)[:, ::-1]
    np.testing.assert_allclose(predict_probabilities(network, image, cut, CPU), flipped, atol=1e-6)
    plain = InferenceSettings((8, 8), multiple=4)
    unmirrored = predict_probabilities(network, image[:, ::-1].copy(), plain, CPU)[:, ::-1]
    assert np.abs(predict_probabilities(network, image, plain, CPU) - unmirrored).max() > 0.01


@pytest.mark.parametrize(("spatial_dims", "passes"), [(2, 4), (3, 8)])
def test_mirroring_takes_one_pass_for_each_set_of_axes(spatial_dims: int, passes: int) -> None:
    network = make_network(spatial_dims)
    cut = InferenceSettings((8,) * spatial_dims, multiple=4, mirror=True)
    predict_probabilities(network, make_image(*[8] * spatial_dims), cut, CPU)
    assert network.batches == passes * [1 if spatial_dims == 2 else 2]  # a lone volume goes with a copy


@pytest.mark.parametrize("size", [(8, 8), (20, 24)])
def test_dropout_is_off_and_the_mode_is_put_back(size: tuple[int, ...]) -> None:
    network = nn.Sequential(make_network(2), nn.Dropout(0.5))
    cut = InferenceSettings((8, 8), multiple=4)
    for mode in (True, False):
        network.train(mode)
        one, other = (predict_probabilities(network, make_image(*size), cut, CPU) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert network.training is network[1].training is mode


@pytest.mark.parametrize("size", [(8, 8), (20, 24)])
def test_a_read_only_image_stays_as_it_is(size: tuple[int, ...]) -> None:
    image = make_image(*size)
    image.flags.writeable = False
    before = image.copy()
    predict_probabilities(make_network(2), image, InferenceSettings((8, 8), multiple=4), CPU)
    np.testing.assert_array_equal(image, before)


def test_padding_puts_the_image_in_the_middle_of_zeros() -> None:
    image = np.ones((1, 2, 3), np.float32)
    padded, inside = pad_to(image, (5, 3))
    assert padded[0, :, 0].tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_array_equal(padded[inside], image)


def test_padding_to_a_multiple_adds_less_than_one() -> None:
    padded, _ = pad_to_multiple(np.ones((2, 8, 9), np.float32), 4)
    assert padded.shape == (2, 8, 12)


def test_settings_come_from_the_experiment() -> None:
    experiment = Experiment.model_validate(
        {
            "task": {"name": "toy", "spatial_dims": 2, "channels": ({"name": "c"},), "labels": {"a": 1}},
            "model": {"channels": (4, 8, 16)},
            "training": {"patch_size": (16, 24)},
            "evaluation": {"overlap": 0.25, "mirror": True},
        }
    )
    assert inference_settings(experiment) == InferenceSettings(
        (16, 24), multiple=4, overlap=0.25, mirror=True
    )
