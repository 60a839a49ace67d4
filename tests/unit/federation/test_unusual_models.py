"""Models with tensors of no axes, and models without parameters: moved, written by codecs, aggregated."""

import numpy as np
import pytest
from builders import make_experiment

from medseg_core.config import AlgorithmName
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.codec import code, decode_kinds, encode_kinds
from medseg_core.federation.codecs import Codec, build_codec
from medseg_core.federation.update import DELTA, ClientUpdate, ModelSpec, delta, moved, spec_of

WEIGHTS = {
    "w": np.array([1.0, 2.0], np.float32),
    "scale": np.array(3.0, np.float32),
    "running": np.array(7.0, np.float32),
}
SPECS = {
    "a scalar parameter": spec_of(WEIGHTS, frozenset({"w", "scale"})),
    "no parameter": spec_of(WEIGHTS, frozenset()),
    "nothing": ModelSpec({}),
}
ALGORITHMS = (
    "fedavg",
    "fedavgm",
    "median",
    "trimmed_mean",
    "krum",
    "geometric_median",
    "norm_bounding",
)
CODECS = ("fp32", "fp16", "bf16", "int8", "ternary", "topk")

specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def tensors_of(spec: ModelSpec, value: float) -> dict[str, np.ndarray]:
    return {name: np.full(tensor.shape, value, np.float32) for name, tensor in spec.tensors.items()}


def codec_of(name: str) -> Codec | None:
    return build_codec(make_experiment(codec={"name": name}))


@specs
def test_moving_there_and_back_keeps_arrays(spec: ModelSpec) -> None:
    start, end = tensors_of(spec, 1.0), tensors_of(spec, 3.0)
    step = delta(end, start)
    for found, expected in ((step, tensors_of(spec, 2.0)), (moved(start, step), end)):
        assert found.keys() == spec.tensors.keys()
        for name, tensor in found.items():
            assert isinstance(tensor, np.ndarray)
            np.testing.assert_array_equal(tensor, expected[name])


@specs
@pytest.mark.parametrize("name", CODECS)
def test_every_codec_writes_and_reads_them(spec: ModelSpec, name: str) -> None:
    codec, update = codec_of(name), tensors_of(spec, 0.5)
    written, arriving = code(update, spec, codec)
    payload = encode_kinds({DELTA: written}, main=DELTA)
    arrived = decode_kinds(payload, {DELTA: spec}, main=DELTA, codec=codec)[DELTA]
    assert arrived.keys() == spec.tensors.keys()
    for tensor_name, tensor in arrived.items():
        np.testing.assert_array_equal(tensor, arriving[tensor_name])
        assert tensor.shape == spec.tensors[tensor_name].shape


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("spec", [SPECS["a scalar parameter"], SPECS["no parameter"]], ids=[*SPECS][:2])
def test_algorithms_aggregate_them(spec: ModelSpec, name: AlgorithmName) -> None:
    algorithm = build_algorithm(make_experiment(federation={"algorithm": name}))
    state = algorithm.init(tensors_of(spec, 1.0), spec)
    for number in (1, 2):
        accumulator = algorithm.start(state, spec)
        for site in ("a", "b", "c", "d", "e"):
            algorithm.add(accumulator, ClientUpdate(site, tensors_of(spec, 0.1), n_cases=1), 1)
        counted = dict.fromkeys("abcde", (number, 1))
        state, _ = algorithm.finish(accumulator, state, counted=counted)
    for tensor_name, tensor in state.weights.items():
        assert isinstance(tensor, np.ndarray)
        assert tensor.shape == spec.tensors[tensor_name].shape
        assert not tensor.flags.writeable
        assert np.isfinite(tensor).all()
