"""Sharing patients out among virtual sites."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg_core.config import Simulation
from medseg_core.types import Case
from medseg_simulation.errors import PartitionError
from medseg_simulation.partition import PatientFacts, partition_patients, patient_facts, site_name

SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")  # config.Name


def make_patients(count, *, attributes=None, site="") -> list[PatientFacts]:
    return [PatientFacts(f"p{n:03d}", site, float(n % 17), attributes or {}) for n in range(count)]


def partition(patients, name, *, sites=4, seed=0, alpha=0.5):
    simulation = Simulation(sites=sites, partition=name, dirichlet_alpha=alpha)
    return partition_patients(patients, simulation, seed=seed)


def sizes_of(sites):
    return [len(members) for members in sites.values()]


def make_case(case_id, patient_id, site="", **attributes) -> Case:
    return Case(case_id, patient_id, site, (Path("image.nii"),), Path("label.nii"), attributes)


ARTIFICIAL = st.sampled_from(["iid", "quantity", "dirichlet"])


@given(ARTIFICIAL, st.integers(40, 120), st.integers(1, 4), st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_every_patient_is_at_exactly_one_site(name, count, sites, seed):
    found = partition(make_patients(count), name, sites=sites, seed=seed, alpha=2.0)
    assert sorted(patient for members in found.values() for patient in members) == [
        patient.patient_id for patient in make_patients(count)
    ]
    assert list(found) == [f"site-{n}" for n in range(1, sites + 1)]
    assert all(list(members) == sorted(members) for members in found.values())


@given(ARTIFICIAL, st.integers(40, 80), st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_of_the_input_changes_nothing(name, count, seed, shuffler: random.Random):
    patients = make_patients(count)
    first = partition(patients, name, seed=seed, alpha=2.0)
    shuffler.shuffle(patients)
    assert partition(patients, name, seed=seed, alpha=2.0) == first


@pytest.mark.parametrize("name", ["iid", "quantity", "dirichlet"])
def test_another_seed_gives_another_partition_of_the_same_kind(name):
    patients = make_patients(80)
    assert partition(patients, name, seed=1) != partition(patients, name, seed=2)


@given(st.integers(1, 12), st.integers(12, 300))
@settings(max_examples=25, deadline=None)
def test_iid_shares_are_equal_within_one(sites, count):
    found = sizes_of(partition(make_patients(count), "iid", sites=sites))
    assert max(found) - min(found) <= 1


def test_quantity_shares_are_40_30_20_10_percent_for_four_sites():
    assert sizes_of(partition(make_patients(100), "quantity")) == [40, 30, 20, 10]
    # 131 patients: 52.4, 39.3, 26.2, 13.1; the one left over goes to the largest remainder
    assert sizes_of(partition(make_patients(131), "quantity")) == [53, 39, 26, 13]


@given(st.integers(1, 8), st.integers(36, 300))
@settings(max_examples=25, deadline=None)
def test_quantity_shares_fall_linearly_for_any_number_of_sites(sites, count):
    found = sizes_of(partition(make_patients(count), "quantity", sites=sites))
    exact = count * np.arange(sites, 0, -1) / (sites * (sites + 1) / 2)
    assert np.abs(found - exact).max() < 1
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("count", "sites", "name"), [(3, 4, "iid"), (3, 4, "quantity"), (0, 2, "iid")])
def test_a_site_without_patients_is_refused(count, sites, name):
    with pytest.raises(PartitionError, match=r"sites of .*0.*Use fewer \[simulation\] sites"):
        partition(make_patients(count), name, sites=sites)


@given(st.integers(32, 140), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_dirichlet_leaves_every_site_eight_patients(count, seed):
    assert min(sizes_of(partition(make_patients(count), "dirichlet", seed=seed, alpha=5.0))) >= 8


def test_dirichlet_skews_foreground_volume_more_for_a_smaller_alpha():
    def spread(alpha):
        patients = [PatientFacts(f"p{n:03d}", "", float(n), {}) for n in range(200)]
        volume = {patient.patient_id: patient.foreground_mm3 for patient in patients}
        found = [partition(patients, "dirichlet", seed=seed, alpha=alpha) for seed in range(10)]
        return np.mean([np.std([np.mean([volume[p] for p in site]) for site in f.values()]) for f in found])

    assert spread(0.3) > 2 * spread(50.0)


def test_dirichlet_serves_patients_whose_volumes_are_all_equal():
    patients = [PatientFacts(f"p{n}", "", 0.0, {}) for n in range(40)]
    assert sum(sizes_of(partition(patients, "dirichlet", sites=2))) == 40


def test_dirichlet_refuses_at_once_when_there_are_too_few_patients():
    with pytest.raises(PartitionError, match=r"31 patients cannot give 4 sites 8 each\. Use at most 3"):
        partition(make_patients(31), "dirichlet")
    with pytest.raises(PartitionError, match="Use --partition iid"):
        partition(make_patients(5), "dirichlet")


@pytest.mark.parametrize("alpha", [1e-3, 1e-300])
def test_dirichlet_gives_up_with_advice_when_no_draw_will_do(alpha):
    with pytest.raises(PartitionError, match=r"no draw of 100000.*Raise \[simulation\] dirichlet_alpha"):
        partition(make_patients(40), "dirichlet", sites=5, alpha=alpha)  # five sites, but four bins


def test_natural_sites_are_those_of_the_manifest_whatever_sites_says():
    patients = [PatientFacts("b", "Ulm", 1.0), PatientFacts("a", "Ulm", 1.0), PatientFacts("c", "Bern", 1.0)]
    assert partition(patients, "natural", sites=7) == {"Bern": ("c",), "Ulm": ("a", "b")}


def test_natural_without_sites_names_the_other_partitions():
    with pytest.raises(
        PartitionError, match=r"patient p000 has no site.*iid, quantity, dirichlet or attribute:NAME"
    ):
        partition(make_patients(4), "natural")


def test_attribute_makes_each_value_a_site():
    patients = [
        PatientFacts("a", "", 1.0, {"scanner": ("GE Signa HDxt",)}),
        PatientFacts("b", "", 1.0, {"scanner": ("Philips",)}),
        PatientFacts("c", "", 1.0, {"scanner": (" Philips ",)}),
    ]
    assert partition(patients, "attribute:scanner") == {"GE-Signa-HDxt": ("a",), "Philips": ("b", "c")}


def test_an_unknown_attribute_lists_the_known_ones():
    with pytest.raises(PartitionError, match=r"no column 'scaner'. Known are: age, scanner\."):
        partition(make_patients(3, attributes={"scanner": ("x",), "age": ("4",)}), "attribute:scaner")
    with pytest.raises(PartitionError, match="no further columns"):
        partition(make_patients(3), "attribute:scanner")


@pytest.mark.parametrize("values", [(), ("",), ("  ",)])
def test_a_patient_without_a_value_is_refused_by_name(values):
    patients = [
        PatientFacts("a", "", 1.0, {"scanner": ("GE",)}),
        PatientFacts("b", "", 1.0, {"scanner": values}),
    ]
    with pytest.raises(PartitionError, match=r"patient b has no value of scanner\. Fill column scanner"):
        partition(patients, "attribute:scanner")


def test_a_patient_with_two_values_is_refused_by_name():
    cases = [
        make_case("1", "a", scanner="GE"),
        make_case("2", "a", scanner="Philips"),
        make_case("3", "b", scanner="GE"),
    ]
    facts = patient_facts(cases, {"1": 1.0, "2": 1.0, "3": 1.0})
    with pytest.raises(PartitionError, match=r"patient a has 2 values of scanner \(GE, Philips\)"):
        partition(facts, "attribute:scanner")


@pytest.mark.parametrize(
    ("one", "other"), [("GE 1.5T", "GE-1.5T"), ("GE", "ge"), ("x" * 64 + "1", "x" * 64 + "2")]
)
def test_values_that_would_share_a_site_name_are_refused(one, other):
    patients = [PatientFacts("a", one, 1.0), PatientFacts("b", other, 1.0)]
    with pytest.raises(PartitionError, match="would both be site"):
        partition(patients, "natural")


@pytest.mark.parametrize("value", ["东京", "../..", "---"])
def test_a_value_that_leaves_no_name_is_refused(value):
    with pytest.raises(PartitionError, match="no site name can be made"):
        partition(make_patients(2, site=value), "natural")


@given(st.text())
@settings(deadline=None)
def test_a_site_name_is_safe_or_empty(value):
    name = site_name(value)
    assert name == "" or SAFE.match(name)


@pytest.mark.parametrize(
    ("value", "name"),
    [("GE Signa HDxt", "GE-Signa-HDxt"), ("Köln", "Koln"), ("../etc", "etc"), ("a/b", "a-b")],
)
def test_a_site_name_keeps_what_it_can(value, name):
    assert site_name(value) == name


def test_facts_of_a_patient_average_the_cases():
    cases = [
        make_case("2", "a", "S", scanner="GE"),
        make_case("1", "a", "S", scanner="GE "),
        make_case("3", "b", "T"),
    ]
    facts = patient_facts(cases, {"1": 10.0, "2": 20.0, "3": 5.0})
    assert facts == (PatientFacts("a", "S", 15.0, {"scanner": ("GE",)}), PatientFacts("b", "T", 5.0, {}))


def test_facts_of_a_patient_at_two_sites_are_refused():
    with pytest.raises(PartitionError, match=r"patient a is at 2 sites \(S, T\). Correct the site column"):
        patient_facts([make_case("1", "a", "S"), make_case("2", "a", "T")], {"1": 1.0, "2": 1.0})
