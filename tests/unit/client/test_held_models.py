"""Models at a site under a codec: reached by a step, held by name, asked for whole where they are not here."""

from pathlib import Path

import numpy as np
import pytest
from builders import initial_weights, make_experiment, make_request, opened

from medseg_client.held_models import HeldModels
from medseg_core.errors import UpdateError, WireError
from medseg_core.federation.codec import code, encode_kinds, encode_tensors
from medseg_core.federation.codecs import build_codec
from medseg_core.federation.shared_tensors import initial_network, model_spec
from medseg_core.federation.update import MODEL, Tensors, moved
from medseg_core.learning.identity import global_sha256
from medseg_core.learning.weights import get_weights

EXPERIMENT = make_experiment(federation={"rounds": 9}, codec={"name": "int8"})
SPEC = model_spec(EXPERIMENT)
CODEC = build_codec(EXPERIMENT)
FIRST = initial_weights(EXPERIMENT, seed=1)
NOTHING = encode_tensors({})


def step_from(model: Tensors, seed: int = 0) -> tuple[bytes, Tensors]:
    """A coded step as it travels, and the model that it leads to."""
    rng = np.random.default_rng(seed)
    wanted = {name: rng.normal(size=tensor.shape).astype(np.float32) for name, tensor in model.items()}
    coded, arriving = code(wanted, SPEC, CODEC)
    return encode_kinds({MODEL: coded}, main=MODEL), moved(model, arriving)


def receive(
    held: HeldModels, payload: bytes, number: int = 2, *, kind: str = "train", **names: Tensors
) -> Tensors:
    """What comes of a request whose header names models: `model`, `base`, `best_model`."""
    named = {name: global_sha256(model) for name, model in names.items()}
    split = {"split": "validation"} if kind == "evaluate" else {}
    request = opened(make_request(EXPERIMENT, kind, weights=payload, round=number, **named, **split))
    return held.receive(request.header, bytes(request.payload), EXPERIMENT, SPEC)[MODEL]


def are_equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture
def held(tmp_path: Path) -> HeldModels:
    """A site that holds FIRST."""
    models = HeldModels(tmp_path)
    receive(models, encode_tensors(FIRST), model=FIRST)
    return models


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_step_leads_to_the_very_bits_of_the_model(held: HeldModels, kind: str) -> None:
    payload, second = step_from(FIRST)

    assert are_equal(receive(held, payload, kind=kind, base=FIRST, model=second), second)


def test_a_model_that_is_here_needs_no_payload(held: HeldModels) -> None:
    assert are_equal(receive(held, NOTHING, base=FIRST, model=FIRST), FIRST)


def test_a_step_to_a_model_that_is_here_already_is_not_taken_twice(held: HeldModels) -> None:
    payload, second = step_from(FIRST)
    for _ in range(2):  # the second time its base is no longer here
        assert are_equal(receive(held, payload, base=FIRST, model=second), second)


def test_every_site_can_build_the_model_that_a_run_starts_from(tmp_path: Path) -> None:
    start = get_weights(initial_network(EXPERIMENT))

    assert are_equal(receive(HeldModels(tmp_path), NOTHING, number=1, base=start, model=start), start)


def test_the_best_model_is_held_besides_the_last(held: HeldModels, tmp_path: Path) -> None:
    steps = [step_from(FIRST)]
    steps.append(step_from(steps[0][1], seed=1))
    steps.append(step_from(steps[1][1], seed=2))
    bases = [FIRST, *(model for _, model in steps)]
    for (payload, model), base in zip(steps, bases, strict=False):
        receive(held, payload, base=base, model=model, best_model=FIRST)

    assert are_equal(receive(held, NOTHING, base=FIRST, model=FIRST), FIRST)
    assert [path.stem for path in tmp_path.rglob("*.safetensors")] == [global_sha256(FIRST)]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_step_from_elsewhere_is_refused_by_code(held: HeldModels, kind: str) -> None:
    other = initial_weights(EXPERIMENT, seed=2)
    payload, second = step_from(other)

    with pytest.raises(WireError, match="is not here") as caught:
        receive(held, payload, kind=kind, base=other, model=second)
    assert caught.value.code == "model_not_held"


def test_a_model_of_another_run_is_not_here(held: HeldModels) -> None:
    request = opened(
        make_request(
            EXPERIMENT,
            weights=NOTHING,
            round=2,
            run="other",
            **dict.fromkeys(("model", "base"), global_sha256(FIRST)),
        )
    )
    with pytest.raises(WireError, match="is not here"):
        held.receive(request.header, bytes(request.payload), EXPERIMENT, SPEC)


def test_a_step_that_leads_elsewhere_is_asked_for_whole(held: HeldModels) -> None:
    payload, second = step_from(FIRST)
    elsewhere, _ = step_from(FIRST, seed=1)

    with pytest.raises(WireError, match="another model") as caught:
        receive(held, elsewhere, base=FIRST, model=second)
    assert caught.value.code == "model_not_held"
    assert are_equal(receive(held, payload, base=FIRST, model=second), second)


def test_a_damaged_model_is_as_one_that_is_not_here_and_mended_by_a_whole_one(
    held: HeldModels, tmp_path: Path
) -> None:
    (path,) = tmp_path.rglob("*.safetensors")
    for damaged in (path.read_bytes()[:-9], path.read_bytes()[:-1] + b"\x07"):
        path.write_bytes(damaged)
        with pytest.raises(WireError) as caught:
            receive(held, NOTHING, base=FIRST, model=FIRST)
        assert caught.value.code == "model_not_held"
        receive(held, encode_tensors(FIRST), model=FIRST)
        assert are_equal(receive(held, NOTHING, base=FIRST, model=FIRST), FIRST)


def test_a_whole_model_under_another_name_is_refused(held: HeldModels) -> None:
    _, second = step_from(FIRST)

    with pytest.raises(WireError, match="another model") as caught:
        receive(held, encode_tensors(FIRST), model=second)
    assert caught.value.code == "malformed"


def test_a_payload_that_is_no_step_is_refused(held: HeldModels) -> None:
    _, second = step_from(FIRST)

    for payload in (encode_tensors(FIRST), NOTHING, b"nothing of the kind"):
        with pytest.raises(UpdateError):
            receive(held, payload, base=FIRST, model=second)
    with pytest.raises(UpdateError):
        receive(held, encode_tensors(FIRST), base=FIRST, model=FIRST)
