"""What a site sends: how far its weights moved, and the checks that it passes before anything uses it."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg_core.errors import UpdateError
from medseg_core.federation.parts import on_parts

Tensors = Mapping[str, npt.NDArray[np.float32]]
Role = Literal["parameter", "buffer"]
MODEL, DELTA = "model", "delta"  # kinds of tensors: what goes to a site, and what comes from it
Reason = Literal[
    "missing_tensor",
    "extra_tensor",
    "wrong_shape",
    "wrong_dtype",
    "not_finite",
    "norm_exceeded",
    "overflow",
    "bad_count",
    "repeated_site",
    "missing_figure",
    "corrupt_payload",
]
_BLOCK = 1 << 18  # elements: with fewer, threads spend their time on taking turns in the interpreter


@dataclass(frozen=True)
class TensorSpec:
    """Shape of one float32 tensor, and whether it is trained (parameter) or observed (buffer)."""

    shape: tuple[int, ...]
    role: Role


@dataclass(frozen=True)
class ModelSpec:
    """The tensors that a model consists of, by name in sorted order; all are float32."""

    tensors: Mapping[str, TensorSpec]

    @property
    def n_bytes(self) -> int:
        """Size of all tensors."""
        return 4 * sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def n_parameters(self) -> int:
        """Trained numbers of the model."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values() if tensor.role == "parameter")

    def to_json(self) -> str:
        """Canonical JSON: equal specifications give equal text."""
        document = {name: {"shape": t.shape, "role": t.role} for name, t in sorted(self.tensors.items())}
        return json.dumps({"dtype": "float32", "tensors": document}, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Identity of the specification: SHA-256 of its canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class ClientUpdate:
    """One site's checked update: `delta` is local minus global weights, from training on `n_cases` cases.

    `others` are further tensors that the algorithm asked for, by kind; `loss` is None where a site keeps it.
    """

    site: str
    delta: Tensors
    n_cases: int
    n_steps: int = 0
    loss: float | None = None
    others: Mapping[str, Tensors] = field(default_factory=dict)


def spec_of(weights: Mapping[str, npt.NDArray[Any]], parameters: frozenset[str]) -> ModelSpec:
    """The specification of weights; names outside `parameters` are buffers."""
    return ModelSpec(
        {
            name: TensorSpec(weights[name].shape, "parameter" if name in parameters else "buffer")
            for name in sorted(weights)
        }
    )


def spec_for(kind: str, spec: ModelSpec) -> ModelSpec:
    """The tensors of a kind: model and delta are of the whole network, all else of its parameters."""
    if kind in (MODEL, DELTA):
        return spec
    return ModelSpec({name: tensor for name, tensor in spec.tensors.items() if tensor.role == "parameter"})


def delta(local: Tensors, start: Tensors) -> dict[str, npt.NDArray[np.float32]]:
    """Local minus starting weights, float32, for the same names."""
    assert local.keys() == start.keys()
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged network: check_update tells
        return {name: np.asarray(local[name] - start[name]) for name in local}  # without axes: a number else


def moved(start: Tensors, step: Tensors) -> dict[str, npt.NDArray[np.float32]]:
    """Weights plus a step, float32: the same bits at a coordinator and at its sites."""
    with np.errstate(invalid="ignore", over="ignore"):  # a hostile step: the model's name tells
        return {name: np.asarray(start[name] + step[name]) for name in start}


def check_names_and_shapes(tensors: Mapping[str, npt.NDArray[Any]], spec: ModelSpec) -> None:
    """The tensors are those of the model: each there, none besides, float32, in shape. Raises UpdateError."""
    if missing := sorted(spec.tensors.keys() - tensors.keys()):
        raise refused("missing_tensor", f"{len(missing)} missing, the first is {missing[0]!r}")
    if extra := sorted(tensors.keys() - spec.tensors.keys()):
        raise refused("extra_tensor", f"{len(extra)} not of this model, the first is {extra[0]!r:.80}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise refused("wrong_dtype", f"tensor {name!r} is {tensor.dtype}, expected float32")
        if tensor.shape != spec.tensors[name].shape:
            raise refused(
                "wrong_shape", f"tensor {name!r} is {tensor.shape}, expected {spec.tensors[name].shape}"
            )


def check_update(
    tensors: Mapping[str, npt.NDArray[Any]], spec: ModelSpec, *, max_norm: float | None
) -> float:
    """The update may be added to a model of this specification; returns its L2 norm over all tensors.

    Raises UpdateError (missing_tensor, extra_tensor, wrong_dtype, wrong_shape, not_finite, norm_exceeded).
    """
    check_names_and_shapes(tensors, spec)
    squares = sums_of_squares(tensors)
    for name, square in sorted(squares.items()):
        if not math.isfinite(square):
            raise refused("not_finite", f"tensor {name!r} holds NaN or infinity")
    norm = math.sqrt(math.fsum(squares.values()))
    if max_norm is not None and norm > max_norm:
        raise refused("norm_exceeded", f"L2 norm {norm:.6g}, [federation] max_update_norm is {max_norm:.6g}")
    return norm


def refused(reason: Reason, detail: str) -> UpdateError:
    """The error for one of the fixed reasons."""
    return UpdateError(reason, detail)


def sums_of_squares(tensors: Tensors) -> dict[str, float]:
    """Of each tensor. Finite if and only if it is: squares of float32 numbers cannot overflow float64."""
    flat = {name: [tensor.reshape(-1)] for name, tensor in tensors.items()}
    of_blocks = on_parts(_squares_of_blocks, flat)
    return {name: sum(itertools.chain.from_iterable(its)) for name, its in of_blocks.items()}


def _squares_of_blocks(values: npt.NDArray[np.float32]) -> list[float]:
    squares, found = np.empty(min(_BLOCK, values.size), np.float64), []
    with np.errstate(invalid="ignore"):
        for at in range(0, values.size, _BLOCK):
            block = squares[: min(_BLOCK, values.size - at)]
            np.copyto(block, values[at : at + _BLOCK])
            found.append(float(np.square(block, out=block).sum()))
    return found
