"""Which tensors of an experiment's network travel: all but those that its algorithm leaves at the sites."""

import torch
from torch import nn

from medseg_core.config import Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.update import ModelSpec, spec_of
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights, parameter_names
from medseg_core.seeding import derive_seed


def initial_network(experiment: Experiment) -> nn.Module:
    """The network that a run starts from, on the CPU; the same wherever it is built."""
    seed = derive_seed(experiment.federation.seed, purpose="initial_weights")
    return build_network(experiment.task, experiment.model, seed=seed)


def shared_spec(experiment: Experiment, network: nn.Module) -> ModelSpec:
    """Names and shapes of the tensors that travel."""
    weights, local = get_weights(network), build_algorithm(experiment).local_names(network)
    assert local <= weights.keys()
    return spec_of({n: t for n, t in weights.items() if n not in local}, parameter_names(network))


def model_spec(experiment: Experiment) -> ModelSpec:
    """Names and shapes of the tensors that travel in an experiment."""
    return shared_spec(experiment, build_network(experiment.task, experiment.model, seed=0))


def count_numbers(experiment: Experiment) -> tuple[int, int]:
    """Parameters and floating-point buffers that travel, and those that stay at the site; no memory is used for them.

    Raises as `build_network` does.
    """
    with torch.device("meta"):
        network = build_network(experiment.task, experiment.model, seed=0)
    local = build_algorithm(experiment).local_names(network)
    buffers = ((name, b) for name, b in network.named_buffers() if b.is_floating_point())
    sizes = {name: tensor.numel() for name, tensor in (*network.named_parameters(), *buffers)}
    staying = sum(sizes[name] for name in local)
    return sum(sizes.values()) - staying, staying
