"""Who may import whom, and what a process may load."""

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["medseg_core.wire.envelope", "medseg_core.wire.header", "medseg_core.wire.signatures"]
)
def test_the_wire_loads_neither_torch_nor_numpy(module):
    assert not loaded_by(f"import {module}") & {"torch", "numpy", "monai", "SimpleITK"}


def test_the_network_side_of_a_site_loads_no_library_for_images():
    heavy = {"torch", "numpy", "monai", "SimpleITK"}
    assert not loaded_by("import medseg_client.trainer_socket") & heavy


def test_reading_an_experiment_loads_no_heavy_library():
    assert not loaded_by("import medseg_core.config") & {"torch", "numpy", "monai", "SimpleITK", "matplotlib"}


def test_the_command_line_shows_its_help_without_torch():
    assert not loaded_by("import medseg_simulation.cli") & {"torch", "monai", "SimpleITK", "matplotlib"}


def test_flower_is_nowhere_in_the_simulation():
    assert "flwr" not in loaded_by("import medseg_simulation.simulate")


def test_a_simulation_in_one_process_loads_no_ray():
    assert "ray" not in loaded_by("import medseg_simulation.simulate")


def test_the_contracts_between_packages_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
