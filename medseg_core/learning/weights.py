"""A network's weights as NumPy arrays: what a site receives and what its update is made of."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]
Kinds = Mapping[
    str, Mapping[str, npt.NDArray[np.float32]]
]  # tensors by what they are: `delta`, `control`, ...


def get_weights(network: nn.Module) -> Weights:
    """Copies of all parameters and floating-point buffers, float32, in the network's order.

    Integer buffers (`num_batches_tracked`) are left out: their average means nothing, and nothing reads them.
    A tensor that the network holds under two names is given once, under the first.
    """
    return {name: to_array(tensor) for name, tensor in float_tensors(network)}


def set_weights(network: nn.Module, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write `weights` into the network, on its device and in its precision; the arrays are not kept.

    Raises:
        ValueError: names or shapes are not those of `get_weights(network)`; nothing is written then.
    """
    tensors = dict(float_tensors(network))
    if tensors.keys() != weights.keys():
        raise ValueError(
            f"weights of another network: names differ in {sorted(tensors.keys() ^ weights.keys())[:5]}"
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != weights[name].shape:
            raise ValueError(
                f"weights of another network: {name} is {weights[name].shape}, expected {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.tensor(weights[name]))  # a copy: received arrays may be read-only


def tensor_names(network: nn.Module) -> frozenset[str]:
    """Names in `get_weights`, of a network without memory for its tensors, too."""
    return frozenset(name for name, _ in float_tensors(network))


def parameter_names(network: nn.Module) -> frozenset[str]:
    """Names in `get_weights` that are parameters; the other names are buffers."""
    return frozenset(name for name, _ in network.named_parameters())


def join_kinds(kinds: Kinds) -> Weights:
    """Tensors of several kinds under names of one level, `kind/name`."""
    return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


def split_kinds(joined: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, Weights]:
    """What `join_kinds` joined."""
    kinds: dict[str, Weights] = {}
    for name, tensor in joined.items():
        kind, _, own_name = name.partition("/")
        kinds.setdefault(kind, {})[own_name] = tensor
    return kinds


def float_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, then floating-point buffers, each once."""
    yield from network.named_parameters()
    yield from ((name, buffer) for name, buffer in network.named_buffers() if buffer.is_floating_point())


def to_array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """A float32 copy that shares no memory with the network, in C order."""
    copied = tensor.detach().to("cpu", torch.float32, copy=True)
    array: npt.NDArray[np.float32] = copied.contiguous().numpy()
    return array
