"""Runs of a federation over a network that fails, each compared with the undisturbed simulation.

    python tests/benchmarks/bad_network.py --out FOLDER [--only NAME ...]

The second of two hospitals reaches the gateway through a proxy that delays, stalls, resets or goes away. Printed: how
long each run took, and whether its weights are the simulation's, bit for bit; for a straggler, who was absent and why.
Ends with status 1 if a run, or what was to disturb it, failed or ended otherwise than it should.
"""

# ruff: noqa: T201
import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faulty_network import FaultyNetwork, faulty_network
from loopback import COORDINATOR, SITES, Loopback, call, make_loopback

from medseg_core.supervision import free_ports, program

EXPERIMENT = """
[task]
name = "network"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [16, 32, 64, 128]
[training]
patch_size = [32, 32]
cpu_threads = 1
[federation]
rounds = 4
local_epochs = 2
optimiser_memory = true
"""
QUORUM = """quorum = 1
deadline_s = 45
"""
RUN_S = 1800.0


class Scenario:
    """What happens to the second hospital while a run is under way."""

    def __init__(self, federation: Loopback, network: FaultyNetwork, run: subprocess.Popen[bytes]) -> None:
        self.federation, self.network, self.run = federation, network, run

    def undisturbed(self) -> None:
        """Nothing."""

    def delayed(self) -> None:
        """200 ms each way, all the time."""
        self.network.weather.delay_s = 0.2

    def slow_uplink(self) -> None:
        """60 kB/s outwards, all the time: an update of 1.6 MB takes half a minute."""
        self.network.weather.up_bytes_s = 60_000

    def stalled(self) -> None:
        """For a minute connections stay and nothing arrives, in mid-run."""
        self._for_a_while(60, "is_stalled", True)

    def resets(self) -> None:
        """For a minute every connection is reset after 20 kB."""
        self._for_a_while(60, "reset_after_bytes", 20_000)

    def unreachable(self) -> None:
        """Gone for 5 minutes."""
        self._for_a_while(300, "is_down", True)

    def half_open(self) -> None:
        """For two minutes, longer than any time-out, both sides talk to nobody; no old connection ever ends."""
        self._for_a_while(120, "is_vanished", True)
        assert self.network.swallowed_bytes > 0

    def straggler(self) -> None:
        """From the second round on so slow that its update comes after the deadline; the quorum goes on alone."""
        self._after_first_round()
        self.network.weather.up_bytes_s = 10_000

    def restarted(self) -> None:
        """The hospital's machine stops in mid-round and comes back after 10 s."""
        self._after_first_round()
        name = SITES[1]
        self.federation.stop(name)
        time.sleep(10)
        self.federation.start(name)

    def _for_a_while(self, seconds: float, name: str, value: object) -> None:
        self._after_first_round()
        setattr(self.network.weather, name, value)
        time.sleep(seconds)
        self.network.weather.clear()

    def _after_first_round(self) -> None:
        has_ended = False
        while not any(e["event"] == "round_finished" for e in self.federation.events):
            assert not has_ended, "the run ended before its first round did: see runs.log"
            has_ended = self.run.poll() is not None  # its events are looked at once more
            time.sleep(0.1)


SCENARIOS: dict[str, Callable[[Scenario], None]] = {
    name: getattr(Scenario, name)
    for name in (
        *("undisturbed", "delayed", "slow_uplink", "stalled", "resets", "half_open", "unreachable"),
        *("restarted", "straggler"),
    )
}


def main() -> None:
    arguments = _arguments()
    arguments.out.mkdir(parents=True)
    port = free_ports(1)[0]
    with faulty_network(port) as network:
        federation = make_loopback(
            arguments.out, EXPERIMENT, cases=4, gateway_port=port, ports={SITES[1]: network.port}
        )
        expected = federation.weights(federation.simulated())
        are_right = []
        with federation.kept_up():
            for name in arguments.only or SCENARIOS:
                began = time.monotonic()
                weights = _run(federation, network, name)
                if name == "straggler":
                    is_right, outcome = _went_on_without_the_straggler(federation)
                else:
                    is_right = weights == expected
                    outcome = "the simulation's weights" if is_right else "OTHER WEIGHTS"
                are_right.append(is_right)
                print(f"{name:12} {time.monotonic() - began:6.0f} s  {outcome}", flush=True)
    sys.exit(0 if all(are_right) else 1)


def _run(federation: Loopback, network: FaultyNetwork, name: str) -> bytes:
    """The weights of a run during which the scenario happens."""
    before, scenario = len(federation.runs), SCENARIOS[name]
    with (federation.root / "runs.log").open("a") as log:
        words = ("run", COORDINATOR, _experiment_for(federation, name))
        run = subprocess.Popen(
            [program("medseg-server"), *words], cwd=federation.root, stdout=log, stderr=log
        )
        while len(federation.runs) == before:
            assert run.poll() is None, "the run did not begin: see runs.log"
            time.sleep(0.1)
        with ThreadPoolExecutor(1) as thread:
            disturbing = thread.submit(scenario, Scenario(federation, network, run))
            try:
                status = run.wait(RUN_S)
            finally:
                run.kill()  # one that took too long: the thread would wait for it
        disturbing.result()  # raises what failed in there
        assert status == 0, "the run failed: see runs.log"
    network.weather.clear()
    return federation.weights(federation.run)


def _experiment_for(federation: Loopback, name: str) -> str:
    """File of the experiment: for a straggler with a deadline that the others keep, approved by both hospitals."""
    if name != "straggler":
        return "experiment.toml"
    (federation.root / "straggler.toml").write_text(EXPERIMENT + QUORUM)
    for site in SITES:
        call(federation.root, "medseg-site", "approve", site, "straggler.toml", "--yes")
    return "straggler.toml"


def _went_on_without_the_straggler(federation: Loopback) -> tuple[bool, str]:
    """Every round is there, the later ones without the second hospital and with the reason; and words on it."""
    rounds = [e for e in federation.events if e["event"] == "round_finished"]
    absent = {f"round {e['round']}: {site} {why}" for e in rounds for site, why in e["absent"].items()}
    others = all(SITES[0] in e["contributed"] for e in rounds)
    is_right = len(rounds) == 4 and others and any(SITES[1] in words for words in absent)
    return is_right, "; ".join(sorted(absent)) or "NOBODY WAS ABSENT"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=SCENARIOS)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
