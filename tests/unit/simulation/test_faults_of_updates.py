"""What a misbehaving site does to its update, on a network of two numbers."""

import numpy as np
import pytest
import torch
from builders import make_experiment
from torch import nn

from medseg_core.config import FaultKind, Faults
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.fedrep import HeadFirst
from medseg_core.learning.local_rule import LocalRule
from medseg_simulation.misbehaviour.updates import Tampering, tamper_of

START, TRAINED = (3.0, 4.0), (4.0, 2.0)  # an update of (1, -2)


class Line(nn.Module):
    """Two parameters, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(START))
        self.register_buffer("seen", torch.tensor([7.0]))


class Noting(LocalRule):
    """An algorithm that sends what it finds at the end."""

    def end(self, network: nn.Module, rates: object, momentum: float) -> None:
        self.uploads = {"control": {"w": network.w.detach().numpy().copy()}}
        self.memory = {"kept": {"w": network.w.detach().numpy().copy()}}


def after(kind: FaultKind, seed: int = 0, **settings: float) -> tuple[Line, Tampering]:
    tamper = tamper_of(Faults(kind=kind, **settings), np.random.default_rng(seed))
    assert tamper is not None
    network, rule = Line(), Tampering(Noting(), tamper, ["w", "seen"])
    rule.begin(network)
    with torch.no_grad():
        network.w.copy_(torch.tensor(TRAINED))
        network.seen.fill_(8.0)
    rule.end(network, [0.1], 0.9)
    return network, rule


def test_the_algorithms_own_passes_go_on_under_a_fault() -> None:
    tamper = tamper_of(Faults(kind="sign_flip"), np.random.default_rng(0))
    assert tamper is not None
    rule = Tampering(inner := HeadFirst("head", 2), tamper, [])
    assert rule.extra_passes == 2
    rule.begin_pass(2)
    network = nn.ModuleDict({"head": nn.Linear(1, 1), "body": nn.Linear(1, 1)})
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    rule.adjust_gradients(network)
    assert network["head"].weight.grad is None
    assert network["body"].weight.grad is not None
    assert inner.extra_passes == 2


def test_a_turned_sign_goes_as_far_the_other_way() -> None:
    network, _ = after("sign_flip")
    assert network.w.tolist() == [2.0, 6.0]
    assert network.seen.item() == 8.0  # a buffer is no update


def test_a_scaled_update_is_ten_times_as_long() -> None:
    assert after("scale")[0].w.tolist() == [13.0, -16.0]
    assert after("scale", scale=2.0)[0].w.tolist() == [5.0, 0.0]


def test_noise_has_three_norms_of_the_update_and_comes_on_top_of_it() -> None:
    added = after("noise")[0].w.detach() - torch.tensor(TRAINED)
    assert added.norm().item() == pytest.approx(3 * 5**0.5, rel=1e-5)


def test_the_same_seed_draws_the_same_noise() -> None:
    first, again, other = (after("noise", seed)[0].w.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_nan_spoils_the_network() -> None:
    assert torch.isnan(after("nan")[0].w).all()


def test_a_free_rider_sends_back_what_came_but_for_a_little_noise() -> None:
    network, _ = after("free_rider")
    moved = (network.w.detach() - torch.tensor(START)).numpy()
    assert 0 < np.linalg.norm(moved) < 5e-4 * np.linalg.norm(START)
    assert network.seen.item() == 7.0


def test_what_the_algorithm_sends_and_keeps_is_of_the_changed_network() -> None:
    network, rule = after("sign_flip")
    assert rule.uploads["control"]["w"].tolist() == rule.memory["kept"]["w"].tolist() == network.w.tolist()


@pytest.mark.parametrize("kind", ["label_flip", "backdoor", "drop_out", "straggler", "drift"])
def test_faults_of_another_sort_leave_the_update_alone(kind: FaultKind) -> None:
    assert tamper_of(Faults(kind=kind), np.random.default_rng(0)) is None


@pytest.mark.parametrize(("algorithm", "adds"), [("moon", True), ("fedprox", False)])
def test_whether_a_tampering_site_adds_to_the_loss_is_for_its_algorithm_to_say(
    algorithm: str, adds: bool
) -> None:
    experiment = make_experiment(federation={"algorithm": algorithm}, training={"optimiser": "sgd"})
    inner = build_algorithm(experiment).local_rule({}, {})
    assert inner.adds_to_loss is adds
    assert Tampering(inner, tamper=lambda network, start: None, sent=[]).adds_to_loss is adds
