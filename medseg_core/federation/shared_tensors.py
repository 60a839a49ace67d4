"""Which tensors of an experiment's network travel: all but those that its algorithm leaves at the sites."""

import torch
from torch import nn

from medseg_core.config import Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.update import ModelSpec, Role, TensorSpec
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import float_tensors, parameter_names
from medseg_core.seeding import derive_seed


def initial_network(experiment: Experiment) -> nn.Module:
    """The network that a run starts from, on the CPU; the same wherever it is built."""
    seed = derive_seed(experiment.federation.seed, purpose="initial_weights")
    return build_network(experiment.task, experiment.model, seed=seed)


def shared_spec(experiment: Experiment, network: nn.Module) -> ModelSpec:
    """Names and shapes of the tensors that travel."""
    tensors, local = dict(float_tensors(network)), build_algorithm(experiment).local_names(network)
    assert local <= tensors.keys()
    parameters = parameter_names(network)
    roles: dict[str, Role] = {
        name: "parameter" if name in parameters else "buffer" for name in sorted(tensors)
    }
    return ModelSpec(
        {name: TensorSpec(tuple(tensors[name].shape), roles[name]) for name in roles if name not in local}
    )


def network_without_memory(experiment: Experiment) -> nn.Module:
    """The network's structure: its tensors have shapes and no numbers. Raises as `build_network` does."""
    with torch.device("meta"):
        return build_network(experiment.task, experiment.model, seed=0)


def model_spec(experiment: Experiment) -> ModelSpec:
    """Names and shapes of the tensors that travel in an experiment."""
    return shared_spec(experiment, network_without_memory(experiment))


def count_numbers(experiment: Experiment) -> tuple[int, int]:
    """Parameters and floating-point buffers that travel, and those that stay at the site; no memory is used for them.

    Raises as `build_network` does.
    """
    network = network_without_memory(experiment)
    local = build_algorithm(experiment).local_names(network)
    buffers = ((name, b) for name, b in network.named_buffers() if b.is_floating_point())
    sizes = {name: tensor.numel() for name, tensor in (*network.named_parameters(), *buffers)}
    staying = sum(sizes[name] for name in local)
    return sum(sizes.values()) - staying, staying
