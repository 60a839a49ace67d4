import numpy as np
import pytest
import torch
from torch import nn

from medseg_core.config import Channel, Model, Task
from medseg_core.learning.networks import build_network, count_parameters
from medseg_core.learning.weights import get_weights, parameter_names, set_weights


def make_network(fill: float = 1.0) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(fill)
    return network


def test_parameters_and_float_buffers_are_given_and_integers_left_out() -> None:
    weights = get_weights(make_network())
    assert list(weights) == [
        *["0.weight", "0.bias", "1.weight", "1.bias"],
        *["1.running_mean", "1.running_var"],
    ]
    assert all(array.dtype == np.float32 for array in weights.values())


def test_buffers_are_the_names_that_are_no_parameters() -> None:
    network = make_network()
    assert get_weights(network).keys() - parameter_names(network) == {"1.running_mean", "1.running_var"}


def test_weights_written_into_another_network_make_it_equal() -> None:
    one, other = make_network(1.0), make_network(2.0)
    one(torch.rand(2, 1, 3, 3))  # moves the running statistics
    set_weights(other, get_weights(one))
    image = torch.rand(1, 1, 3, 3)
    assert torch.equal(one.eval()(image), other.eval()(image))


def test_neither_side_sees_later_changes_of_the_other() -> None:
    network = make_network(1.0)
    weights = get_weights(network)
    weights["0.bias"] += 1
    assert torch.equal(network[0].bias, torch.ones(2))  # type: ignore[index]
    set_weights(network, weights)
    weights["0.bias"] += 1
    assert torch.equal(network[0].bias, torch.full((2,), 2.0))  # type: ignore[index]


def test_read_only_arrays_are_written_without_a_warning() -> None:
    weights = {
        name: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape)
        for name, a in get_weights(make_network(3)).items()
    }
    network = make_network(1.0)
    set_weights(network, weights)
    assert torch.equal(network[0].bias, torch.full((2,), 3.0))  # type: ignore[index]


def test_weights_of_another_precision_arrive_in_the_networks_own() -> None:
    network = make_network().bfloat16()
    weights = get_weights(network)
    assert weights["0.bias"].dtype == np.float32
    set_weights(network, weights)
    assert network[0].bias.dtype == torch.bfloat16  # type: ignore[index]


def test_missing_or_foreign_names_are_refused_and_nothing_is_written() -> None:
    network, weights = make_network(1.0), get_weights(make_network(2.0))
    weights["foreign"] = weights.pop("1.bias")
    with pytest.raises(ValueError, match=r"names differ in \['1.bias', 'foreign'\]"):
        set_weights(network, weights)
    assert torch.equal(network[0].weight, torch.ones(2, 1, 1, 1))  # type: ignore[index]


def test_another_shape_is_refused_and_nothing_is_written() -> None:
    network, weights = make_network(1.0), get_weights(make_network(2.0))
    weights["1.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"1.bias is \(3,\), expected \(2,\)"):
        set_weights(network, weights)
    assert torch.equal(network[0].weight, torch.ones(2, 1, 1, 1))  # type: ignore[index]


def test_a_tensor_held_under_two_names_is_given_once() -> None:
    task = Task(name="toy", spatial_dims=2, channels=(Channel(name="c"),), labels={"a": 1})
    network = build_network(task, Model(name="dynunet", channels=(4, 8, 16)), seed=0)
    assert sum(array.size for array in get_weights(network).values()) == count_parameters(network)
