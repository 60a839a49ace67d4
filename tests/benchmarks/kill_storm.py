"""Kills each process of a federation with SIGKILL at random moments, and times how long a run needs to go on.

    python tests/benchmarks/kill_storm.py --kills 40 --out FOLDER

A coordinator and two phantom hospitals on loopback train the same experiment again and again. Printed: each kill, the
seconds until the run next finished a round or an evaluation, and for each finished run whether its weights are those
of the undisturbed simulation, bit for bit. Ends with status 1 if a run did not finish or ended with other weights.
"""

# ruff: noqa: T201

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from loopback import COORDINATOR, OF_COORDINATOR, ROLES, SITES, Loopback, make_loopback

from medseg_core.supervision import program

EXPERIMENT = """
[task]
name = "storm"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [16, 32, 64, 128]
[training]
patch_size = [32, 32]
cpu_threads = 1
[federation]
rounds = 12
local_epochs = 3
optimiser_memory = true
server_momentum = 0.5
"""
STEPS = ("round_finished", "evaluated", "trained", "tested", "finished")
PATIENCE_S = 300.0  # a run that does nothing for so long has not survived


@dataclass(frozen=True)
class Kill:
    """One process killed."""

    role: str
    owner: str
    moment: str
    recovery_s: float


def main() -> None:
    arguments = _arguments()
    arguments.out.mkdir(parents=True)
    federation = make_loopback(arguments.out, EXPERIMENT, cases=6)
    expected = federation.weights(federation.simulated())
    storm = _Storm(federation, random.Random(arguments.seed))
    with federation.kept_up():
        same = []
        while len(storm.kills) < arguments.kills:
            is_same = storm.disturb_a_run(arguments.kills) == expected
            same.append(is_same)
            print(
                f"a run finished; its weights are {'' if is_same else 'NOT '}those of the simulation",
                flush=True,
            )
    storm.print_summary()
    print(f"runs: {len(same)}, with the simulation's weights: {sum(same)}")
    sys.exit(0 if all(same) else 1)


class _Storm:
    def __init__(self, federation: Loopback, chance: random.Random) -> None:
        self.federation, self.chance = federation, chance
        self.kills: list[Kill] = []
        self.undisturbed_s: list[float] = []

    def disturb_a_run(self, wanted: int) -> bytes:
        """Start a run, kill until enough is killed or the run is over; its weights."""
        words, before = ("run", COORDINATOR, "experiment.toml"), len(self.federation.runs)
        with (self.federation.root / "runs.log").open("a") as log:
            run = subprocess.Popen(
                [program("medseg-server"), *words], cwd=self.federation.root, stdout=log, stderr=log
            )
            self._until(lambda: len(self.federation.runs) > before and bool(self._steps()), "the first round")
            while run.poll() is None and len(self.kills) < wanted:
                self._kill_one(lambda: run.poll() is not None)
            assert run.wait(20 * PATIENCE_S) == 0, "the run failed: see runs.log"
        return self.federation.weights(self.federation.run)

    def _kill_one(self, is_over: Callable[[], bool]) -> None:
        """Kill the role that was killed least, at a random moment, and wait until the run has gone on."""
        counts = {role: sum(k.role == role for k in self.kills) for role in ROLES}
        role = min(ROLES, key=lambda r: (counts[r], self.chance.random()))
        owner = COORDINATOR if role in OF_COORDINATOR else self.chance.choice(SITES)
        moment = self.chance.choice(MOMENTS[role])
        self._wait_for(moment, is_over)
        while not (found := self.federation.find(role, owner)):
            if is_over():
                return
            time.sleep(0.02)
        before = len(self._steps())
        if is_over():
            return
        for process in found:
            process.kill()
        killed = time.monotonic()
        self._until(lambda: is_over() or len(self._steps()) > before, f"recovery of {role} of {owner}")
        recovery_s = time.monotonic() - killed
        self.kills.append(Kill(role, owner, moment, recovery_s))
        print(
            f"{len(self.kills):3} {role:10} {owner:12} {moment:10} went on after {recovery_s:5.1f} s",
            flush=True,
        )

    def _wait_for(self, moment: str, is_over: Callable[[], bool]) -> None:
        """Until the moment has come, or for a random time."""
        end = time.monotonic() + (20 if moment != "any" else self.chance.uniform(0, 10))
        uploads = self._uploads()
        while time.monotonic() < end and not is_over():
            if moment == "upload" and self._uploads() > uploads:
                return
            if moment == "checkpoint" and any((self.federation.run / "checkpoints").glob(".*")):
                return
            time.sleep(0.002)

    def _uploads(self) -> int:
        """Size of the gateway's log of pieces pushed: it grows in mid-upload."""
        log = self.federation.root / COORDINATOR / "logs" / "gateway.access.log"
        return log.read_bytes().count(b"push-object") if log.exists() else 0

    def _steps(self) -> list[str]:
        return [e["event"] for e in self.federation.events if e["event"] in STEPS]

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, f"no {what} within {PATIENCE_S:.0f} s"
            time.sleep(0.05)

    def print_summary(self) -> None:
        """Seconds to go on, by role."""
        print(f"\n{'killed':12} {'kills':>5} {'median s':>9} {'longest s':>9}")
        for role in ROLES:
            seconds = [k.recovery_s for k in self.kills if k.role == role]
            if seconds:
                print(f"{role:12} {len(seconds):5} {statistics.median(seconds):9.1f} {max(seconds):9.1f}")


MOMENTS = dict.fromkeys(ROLES, ("any", "upload")) | {"serverapp": ("any", "checkpoint", "upload")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
