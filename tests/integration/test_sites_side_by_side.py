"""Virtual sites in threads of one process: faster, and the same result as one after the other."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_experiment, make_request, make_site_data, newest_sha256

from medseg_client.trainer import Trainer
from medseg_core.config import Experiment
from medseg_core.errors import RoundOverError, WireError
from medseg_core.wire.codes import RefusalCode
from medseg_server.rounds import train
from medseg_server.run_store import RunStore
from medseg_server.transport import Delivery
from medseg_simulation.fold import Compute, FoldWatch, _open, plan_models, run_fold
from medseg_simulation.transport import VirtualSitesTransport

CPU = torch.device("cpu")
LONG_S = 30.0  # nobody waits so long in a test that passes
SITES = {"east": 3, "north": 5, "south": 2}


class Scripted(Trainer):
    """A site that answers with a function."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer

    def handle(self, request_bytes: bytes, *, is_over: Callable[[], bool] = lambda: False) -> bytes:
        return self.answer(request_bytes)


def make_transport(
    sites: Mapping[str, Callable[[bytes], bytes]],
    *,
    at_once: int,
    faults: list[Exception] | None = None,
    stop: threading.Event | None = None,
) -> VirtualSitesTransport:
    """Sites that answer with a function each."""
    trainers = {name: Scripted(answer) for name, answer in sites.items()}
    stop = stop or threading.Event()
    return VirtualSitesTransport(
        trainers, [] if faults is None else faults, stop=stop, is_over=stop.is_set, at_once=at_once
    )


def ignore(model: str, record: Mapping[str, Any]) -> None:
    """Nobody watches."""


def global_model(folder: Path, experiment: Experiment, at_once: int) -> str:
    """Identity of the model that a federation of three sites ends with."""
    data = {site: make_site_data(site, train=cases) for site, cases in SITES.items()}
    (plan,) = plan_models(experiment, data)
    compute = Compute(CPU, sites_at_once=at_once)
    run = _open(plan, data, folder, compute, stop=threading.Event(), resume=False, on_round=ignore)
    train(run)
    return newest_sha256(run.store)


def fold_models(folder: Path, experiment: Experiment, at_once: int) -> dict[str, str]:
    """Identities of the models that a fold of three sites ends with."""
    data = {site: make_site_data(site, train=cases) for site, cases in SITES.items()}
    watch = FoldWatch(on_round=ignore, on_stage=lambda text: None)
    run_fold(experiment, data, folder, compute=Compute(CPU, at_once), resume=False, watch=watch)
    return {
        plan.name: newest_sha256(RunStore(folder / plan.folder)) for plan in plan_models(experiment, data)
    }


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sites_at_once_change_no_bit_of_the_model(tmp_path: Path, dropout: float) -> None:
    experiment = make_experiment(model={"dropout": dropout}, training={"augmentation": {"rotation": 1.0}})
    one_by_one = global_model(tmp_path / "1", experiment, 1)
    assert global_model(tmp_path / "3", experiment, 3) == one_by_one


def test_baselines_at_once_change_no_bit_of_a_model(tmp_path: Path) -> None:
    experiment = make_experiment(
        model={"dropout": 0.3}, simulation={"partition": "natural", "baselines": ["local", "pooled"]}
    )
    assert fold_models(tmp_path / "3", experiment, 3) == fold_models(tmp_path / "1", experiment, 1)


def test_so_many_baselines_train_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=LONG_S)

    def meet(model: str, record: Mapping[str, Any]) -> None:
        if model != "global" and record["round"] == 1 and "validation_dice" not in record:
            both.wait()

    experiment = make_experiment(simulation={"partition": "natural", "baselines": ["local"]})
    data = {site: make_site_data(site) for site in ("north", "south")}
    watch = FoldWatch(on_round=meet, on_stage=lambda text: None)
    run_fold(experiment, data, tmp_path, compute=Compute(CPU, 2), resume=False, watch=watch)


@pytest.mark.parametrize(("algorithm", "passes"), [("fedavg", 8), ("cyclic", 3)])
def test_baselines_train_as_many_passes_as_the_federation_and_without_a_codec(
    algorithm: str, passes: int
) -> None:
    experiment = make_experiment(
        federation={"algorithm": algorithm, "rounds": 8},
        evaluation={"every_rounds": 6},
        codec={"name": "int8"},
        simulation={"baselines": ["pooled", "local"]},
    )
    shared, *baselines = plan_models(experiment, {site: make_site_data(site) for site in SITES})

    assert shared.experiment == experiment
    assert len(baselines) == 4
    assert {plan.experiment.federation.rounds for plan in baselines} == {passes}
    assert {plan.experiment.codec.name for plan in baselines} == {"fp32"}
    assert {plan.experiment.evaluation.every_rounds for plan in baselines} == {6 if passes == 8 else 2}


def test_a_run_that_ends_early_does_not_stop_the_others(tmp_path: Path) -> None:
    experiment, stop = make_experiment(), threading.Event()
    data = {"north": make_site_data("north")}
    (plan,) = plan_models(experiment, data)
    run = _open(plan, data, tmp_path, Compute(CPU, 1), stop=stop, resume=False, on_round=ignore)
    left = run.transport.exchange({"north": make_request(experiment, "describe")}, LONG_S)
    assert next(left).absence == "bad_signature"  # another coordinator's request
    left.close()  # type: ignore[attr-defined]
    assert not stop.is_set()


def test_so_many_sites_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=LONG_S)

    def meet(request: bytes) -> bytes:
        both.wait()
        return request

    transport = make_transport({"north": meet, "south": meet}, at_once=2)
    deliveries = sorted(transport.exchange({"north": b"n", "south": b"s"}, LONG_S), key=lambda d: d.site)
    assert deliveries == [Delivery("north", b"n"), Delivery("south", b"s")]


def test_one_at_a_time_goes_in_the_order_of_the_trainers() -> None:
    asked: list[bytes] = []

    def note(request: bytes) -> bytes:
        asked.append(request)
        return request

    transport = make_transport({"south": note, "north": note, "west": note}, at_once=1)
    deliveries = list(transport.exchange({"north": b"n", "south": b"s"}, LONG_S))
    assert asked == [b"s", b"n"]
    assert [d.site for d in deliveries] == ["south", "north"]


def test_a_request_that_a_site_refuses_to_read_is_an_absence() -> None:
    def refuse(request: bytes) -> bytes:
        raise WireError(RefusalCode.BAD_SIGNATURE, "another key")

    transport = make_transport({"north": refuse}, at_once=1)
    assert list(transport.exchange({"north": b""}, LONG_S)) == [Delivery("north", None, "bad_signature")]


def test_a_fault_at_one_site_is_raised_and_stops_the_others() -> None:
    stop, faults = threading.Event(), list[Exception]()
    stopped = threading.Event()

    def fail(request: bytes) -> bytes:
        faults.append(ValueError("a torn file"))
        return b"refusal"

    def work_until_stop(request: bytes) -> bytes:
        assert stop.wait(LONG_S)
        stopped.set()
        return b"refusal"

    transport = make_transport(
        {"north": fail, "south": work_until_stop, "west": work_until_stop},
        at_once=2,
        faults=faults,
        stop=stop,
    )
    with pytest.raises(ValueError, match="a torn file"):
        list(transport.exchange({"north": b"", "south": b"", "west": b""}, LONG_S))
    assert stopped.is_set()


def test_leaving_a_round_stops_training_within_a_step(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"local_epochs": 100_000})
    data = {site: make_site_data(site) for site in SITES}
    (plan,) = plan_models(experiment, data)

    stop, compute = threading.Event(), Compute(CPU, sites_at_once=2)
    run = _open(plan, data, tmp_path, compute, stop=stop, resume=False, on_round=ignore)
    began = time.monotonic()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(RoundOverError, match="training was stopped"):
        train(run)
    assert time.monotonic() - began < LONG_S
    assert not list((tmp_path / "sites").rglob("train_*"))  # nothing was committed
