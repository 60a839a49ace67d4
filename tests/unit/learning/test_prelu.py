"""Our PReLU beside torch's: the same numbers, whatever the layout of what comes back."""

import pytest
import torch
from builders import make_experiment
from torch import Tensor, nn

from medseg_core.learning import networks
from medseg_core.learning.networks import build_network
from medseg_core.learning.prelu import PReLU, use_quick_gradients


def gradients(activation: nn.Module, values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out; the gradient of what went in; that of the slope."""
    entering = values.clone().requires_grad_()
    left = activation(entering)
    left.backward(gradient)
    assert entering.grad is not None
    assert isinstance(activation.weight.grad, Tensor)
    return left.detach(), entering.grad, activation.weight.grad


@pytest.mark.parametrize("shape", [(2, 16, 8, 10), (2, 3, 7, 9, 5)])
@pytest.mark.parametrize("layout", ["as the values", "channels last", "part of a larger one"])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], layout: str):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    values[0, 0, 0] = 0.0  # where the gradient is the slope's by agreement
    gradient = torch.randn((shape[0], 2 * shape[1], *shape[2:]), generator=generator)[:, : shape[1]]
    if layout == "as the values":
        gradient = gradient.contiguous()
    if layout == "channels last":
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        gradient = gradient.contiguous(memory_format=last)
    theirs, ours = (gradients(kind(init=0.3), values, gradient) for kind in (nn.PReLU, PReLU))
    assert torch.equal(theirs[0], ours[0])
    assert torch.equal(theirs[1], ours[1])
    torch.testing.assert_close(theirs[2], ours[2], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_network_that_diverged_shows_it_in_the_gradient(number: float):
    values = torch.full((1, 1, 4, 4), number)
    assert not gradients(PReLU(), -values, torch.ones(1, 1, 4, 4))[2].isfinite()


def test_a_slope_for_each_channel_and_mixed_precision_are_torchs_own():
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    many = gradients(PReLU(3), values, torch.ones_like(values))
    assert torch.equal(many[2], gradients(nn.PReLU(3), values, torch.ones_like(values))[2])
    with torch.autocast("cpu", torch.bfloat16):
        for each in (values, values.to(torch.bfloat16)):
            theirs, ours = (gradients(kind(), each, torch.ones_like(each)) for kind in (nn.PReLU, PReLU))
            assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))


def test_a_network_keeps_its_names_slopes_and_gradients(monkeypatch: pytest.MonkeyPatch):
    experiment = make_experiment(model={"name": "unet", "channels": (4, 8), "residual_units": 1})
    network = build_network(experiment.task, experiment.model, seed=0)
    quick = [name for name, module in network.named_modules() if isinstance(module, PReLU)]
    assert quick
    assert not [module for module in network.modules() if type(module) is nn.PReLU]
    assert {f"{name}.weight" for name in quick} <= set(network.state_dict())

    monkeypatch.setattr(networks, "use_quick_gradients", lambda network: None)
    plain = build_network(experiment.task, experiment.model, seed=0)
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for each in (network, plain):
        each(images).square().sum().backward()
    for (name, ours), (same, theirs) in zip(
        network.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == same
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_nothing_else_of_a_network_is_replaced():
    network = nn.Sequential(nn.PReLU(init=0.7), nn.ReLU(), nn.Sequential(nn.PReLU(4)))
    slope = network[0].weight
    use_quick_gradients(network)
    assert [type(module) for module in network.modules()] == [
        nn.Sequential,
        PReLU,
        nn.ReLU,
        nn.Sequential,
        PReLU,
    ]
    assert network[0].weight is slope
