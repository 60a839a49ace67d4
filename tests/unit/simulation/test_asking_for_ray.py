"""What `run` accepts about its backend, before Ray is started."""

import pytest
from builders import make_experiment

from medseg_core.backend_errors import BackendError, MissingRayError
from medseg_simulation.backend import RayCluster
from medseg_simulation.commands.run import RunOptions, ray_of


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Ray counts as installed, whether it is or not."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def asked(tmp_path, **options):
    experiment = make_experiment(training={"cpu_threads": 3})
    return ray_of(experiment, RunOptions(data=tmp_path, out=tmp_path / "out", **options))


def test_without_a_word_this_process_trains(tmp_path):
    assert asked(tmp_path) is None


def test_a_site_takes_as_many_cpus_as_it_has_threads(tmp_path):
    assert asked(tmp_path, backend="ray") == RayCluster(None, 3.0, None)


def test_fractions_address_and_sites_at_once_are_passed_on(tmp_path):
    options = {
        "ray_address": "10.0.0.5:6379",
        "cpus_per_site": 0.5,
        "gpus_per_site": 0.25,
        "sites_at_once": 7,
    }

    assert asked(tmp_path, backend="ray", **options) == RayCluster("10.0.0.5:6379", 0.5, 0.25, 7)


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0.0), ("cuda", 1.0), ("auto", None)])
def test_the_device_says_how_many_gpus(tmp_path, device, gpus):
    assert asked(tmp_path, backend="ray", device=device).gpus_per_site == gpus


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "ray", "profile": True}, "--profile: it watches this process. Leave --backend ray away"),
        ({"ray_address": "10.0.0.5:6379"}, "--ray-address: it is for Ray. Add --backend ray"),
        ({"gpus_per_site": 0.5}, "--gpus-per-site: it is for Ray. Add --backend ray"),
        ({"backend": "dask"}, "there is no 'dask'. Choose in-process or ray"),
        ({"backend": "ray", "cpus_per_site": 1.5}, "fractions below 1, and whole numbers"),
        ({"backend": "ray", "device": "cuda:1"}, "Choose auto, cpu or cuda"),
        ({"backend": "ray", "device": "cpu", "gpus_per_site": 1.0}, "--device cpu has no GPU"),
        ({"backend": "ray", "device": "cuda", "gpus_per_site": 0.0}, "--device cuda needs some"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, words):
    with pytest.raises(BackendError, match=words):
        asked(tmp_path, **options)


def test_without_the_extra_a_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(MissingRayError, match=r"pip install .*\[simulation,ray\]"):
        asked(tmp_path, backend="ray")
