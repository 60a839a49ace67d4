"""What the headline says, and when it refuses to."""

import pytest
from fake_run import write_run

from medseg_core.assessment.scores import PairedDifference, read_cases
from medseg_core.assessment.summary import Summary, read_summary
from medseg_core.assessment.verdict import Gains, find_gains, judge


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> Summary:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, sites=("Aarhus", "Basel"), overlays=False)
    return read_summary(folder / "summary.json")


def difference(dice: float, low: float | None, high: float | None) -> PairedDifference:
    return PairedDifference(dice, low, high, n_cases=20, n_patients=10)


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        (difference(0.03, 0.01, 0.05), "Federation pays here"),
        (difference(-0.03, -0.05, -0.01), "Federation does not pay here"),
        (difference(0.03, -0.01, 0.07), "No clear answer whether federation pays here"),
        (difference(0.0004, 0.0001, 0.0009), "No clear answer whether federation pays here"),  # not seen
        (difference(0.03, None, None), "No clear answer whether federation pays here"),
        (None, "Whether federation pays here is open"),
    ],
)
def test_the_answer_follows_the_interval(summary, gain, answer):
    assert judge(summary, Gains(gain, None, {})).answer == answer


@pytest.mark.parametrize(("n_patients", "decides"), [(2, False), (5, False), (6, True)])
def test_a_few_patients_on_one_side_are_no_answer(summary, n_patients, decides):
    """Of five, chance puts all on one side in 6 % of all runs."""
    verdict = judge(summary, Gains(PairedDifference(0.1, 0.003, 0.3, 9, n_patients), None, {}))
    assert (verdict.answer == "Federation pays here") == decides
    assert (f"over {n_patients} patients, which are too few for an answer" in verdict.grounds) != decides


def test_the_grounds_name_all_three_models_with_their_differences(summary):
    gains = Gains(difference(0.031, 0.02, 0.042), difference(-0.004, -0.009, 0.001), {})

    grounds = judge(summary, gains).grounds

    assert grounds.startswith(f"the shared model reaches a Dice of {summary.shared.mean.dice:.3f}, against ")
    assert f"{summary.local.mean.dice:.3f} where each site trains alone" in grounds
    assert "(difference +0.031, 95 % interval +0.020 to +0.042)" in grounds
    assert "with all data in one place (difference −0.004, 95 % interval −0.009 to +0.001)." in grounds


def test_one_site_is_told_that_it_is_no_federation(summary):
    alone = summary.model_copy(update={"sites": {"Aarhus": summary.sites["Aarhus"]}})

    assert (
        judge(alone, Gains(difference(0.03, 0.01, 0.05), None, {})).answer == "One site makes no federation"
    )


def test_cautions_name_losers_few_patients_absences_and_virtual_sites(summary):
    gains = Gains(difference(0.03, 0.01, 0.05), None, {"Basel": difference(-0.02, -0.05, 0.01)})

    text = "\n".join(judge(summary, gains).cautions).replace("\u2068", "").replace("\u2069", "")

    assert "The shared model scores below the site's own at Basel (−0.020)." in text
    assert "Fewer than 10 test patients at Aarhus (3) and Basel (2)" in text
    assert "Rounds missed, of 16: Basel 2." in text
    assert "The sites are virtual: one data set was divided (quantity)." in text
    assert "repeat the run with other seeds" in text


def test_natural_sites_are_not_called_virtual(summary):
    natural = summary.model_copy(update={"partition": "natural"})

    assert not any("virtual" in caution for caution in judge(natural, Gains(None, None, {})).cautions)


def test_gains_equal_the_differences_of_the_means(tmp_path):
    write_run(tmp_path, sites=("Aarhus", "Basel"), overlays=False)
    summary, models = read_summary(tmp_path / "summary.json"), read_cases(tmp_path / "cases.json")

    gains = find_gains(summary, models, samples=50)

    assert gains.over_local.dice == pytest.approx(summary.shared.mean.dice - summary.local.mean.dice)
    assert gains.over_pooled.dice == pytest.approx(summary.shared.mean.dice - summary.pooled.mean.dice)
    for site, gain in gains.at_sites.items():
        assert gain.dice == pytest.approx(summary.shared.sites[site].dice - summary.local.sites[site].dice)
