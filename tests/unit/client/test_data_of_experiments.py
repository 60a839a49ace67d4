"""Which cases the trainer's process has for which experiment, and how many experiments it holds them of."""

from builders import make_experiment, make_site_data

from medseg_client.site_data import OPENED_MOST, SiteData, keep_opened
from medseg_core.config import Experiment


def seeded(seed: int) -> Experiment:
    return make_experiment(federation={"seed": seed})


def test_experiments_that_nobody_keeps_get_their_own_data() -> None:
    data_of = keep_opened(lambda experiment: make_site_data(f"seed-{experiment.federation.seed}"))
    for seed in range(20):  # each is freed before the next is made, which then lies at the same address
        assert data_of(seeded(seed)).train[0].case.site == f"seed-{seed}"


def test_the_same_experiment_is_opened_once_and_those_asked_for_last_are_held() -> None:
    opened: list[int] = []

    def open_data(experiment: Experiment) -> SiteData:
        opened.append(experiment.federation.seed)
        return make_site_data()

    data_of = keep_opened(open_data)
    first = data_of(seeded(0))
    for seed in range(1, OPENED_MOST + 1):
        data_of(seeded(seed))
        assert data_of(seeded(0)) is first
    assert opened == list(range(OPENED_MOST + 1))
    data_of(seeded(1))  # the one asked for longest ago was let go
    assert opened == [*range(OPENED_MOST + 1), 1]
