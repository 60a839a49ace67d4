"""A bounded pool of Ray actors that answer for virtual sites. The only place that imports Ray.

In: virtual sites. Out: for each a stand-in whose `handle` asks the next idle actor, with the envelope that a trainer in
this process would get. Nothing but names of files and envelopes goes through Ray.
"""

import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from medseg_core.backend_errors import LostActorError, RayClusterError
from medseg_core.errors import MedsegError, WireError
from medseg_core.learning.device import usable_cores
from medseg_simulation.backend import RayCluster
from medseg_simulation.side_by_side import INTERRUPTIBLE_S
from medseg_simulation.site_actor import VERSIONS, SiteActor, pack
from medseg_simulation.virtual_site import OnFault, VirtualSite

START_S = 120.0  # for an actor to import torch, on a busy machine or from slow storage
MOST_DEATHS = 3  # of actors on one request: the fault is not theirs then
SAME = "Install the same medseg and torch on every node"
Answer = tuple[bytes, MedsegError | None]
IsOver = Callable[[], bool]


@contextmanager
def open_pool(cluster: RayCluster, *, at_most: int) -> Iterator["RayPool"]:
    """Actors for as many sites at once as the cluster has resources for, `at_most` so many; all end with the block.

    Without an address, Ray is started on this machine for the time of the block, behind a token that only its own
    processes know. Raises RayClusterError.
    """
    with ExitStack() as stack:
        _connect(cluster, stack)
        pool = RayPool(cluster, at_most=at_most)
        pool.start()
        yield pool


class RayPool:
    """Actors of which each answers for whichever site is next; one that dies is replaced, and its site asked again."""

    def __init__(self, cluster: RayCluster, *, at_most: int) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._cluster = cluster
        has_gpu = any(node.get("GPU", 0) for node in nodes)
        self._gpus = cluster.gpus_per_site if cluster.gpus_per_site is not None else float(has_gpu)
        self.device = "cuda" if self._gpus else "cpu"
        self.size = min(at_most, sum(self._fitting(node) for node in nodes))
        if self.size == 0:
            wanted = f"{cluster.cpus_per_site:g} CPUs and {self._gpus:g} GPUs"
            raise self._fault(
                f"no node has {wanted} for a site", "Lower --cpus-per-site, --gpus-per-site or cpu_threads"
            )
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # actors, and None for one to be made
        self._resizing = threading.Lock()

    def start(self) -> None:
        """Make the actors; those that do not start in time are done without. Raises RayClusterError where none does."""
        asked = {(actor := self._make()).versions.remote(): actor for _ in range(self.size)}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=START_S)
        for versions in late:
            ray.kill(asked[versions])
        for versions in ready:
            self._check(versions)
            self._idle.put(asked[versions])
        self.size = len(ready)
        if not ready:
            raise self._late()

    def answer_for(self, site: VirtualSite, *, on_fault: OnFault) -> "_StandIn":
        """Stands in for the site's trainer."""
        return _StandIn(self, site.name, ray.put(pack(site)), on_fault)

    def ask(self, site: str, packed: Any, request: bytes, is_over: IsOver) -> Answer:
        """An actor's answer, as soon as one is idle. Raises LostActorError, and CancelledError once `is_over`."""
        cause = ""
        for _ in range(MOST_DEATHS):
            actor = self._take(is_over)
            try:
                reference = actor.answer.remote(packed, request)
                _is_there(reference, is_over)
                answer: Answer = ray.get(reference)
            except RayTaskError:  # a mistake of ours, with its stack trace
                self._idle.put(actor)
                raise
            except RayError as error:
                cause = str(error).splitlines()[0]
                self._drop(actor)
            except BaseException:
                self._drop(actor)
                raise
            else:
                self._idle.put(actor)
                return answer
        raise LostActorError(site, MOST_DEATHS, cause)

    def _make(self) -> Any:
        remote = ray.remote(num_cpus=self._cluster.cpus_per_site, num_gpus=self._gpus)
        return remote(SiteActor).remote(self.device)

    def _take(self, is_over: IsOver) -> Any:
        """The next idle actor. Where a dead one is not replaced in time, since its node is gone, the pool shrinks."""
        while True:
            try:
                actor = self._idle.get(timeout=INTERRUPTIBLE_S)
            except queue.Empty:
                if is_over():
                    raise CancelledError from None
                continue
            if actor is not None:
                return actor
            actor = self._make()
            versions = actor.versions.remote()
            if _is_there(versions, is_over, within_s=START_S):
                self._check(versions)
                return actor
            ray.kill(actor)
            with self._resizing:
                self.size -= 1
                if self.size == 0:
                    raise self._late()

    def _drop(self, actor: Any) -> None:
        """End an actor, dead or at work for nobody; another takes its place when it is needed."""
        ray.kill(actor)
        self._idle.put(None)

    def _check(self, versions: Any) -> None:
        """Raises RayClusterError where an actor did not come to be, or runs other versions than this process."""
        try:
            found = ray.get(versions)
        except RayActorError as error:
            last = str(error).strip().splitlines()[-1]
            raise self._fault(f"an actor did not start ({last})", SAME) from error
        if found != VERSIONS:
            raise self._fault(f"a node has {found}, this one {VERSIONS}", SAME)

    def _fitting(self, node: dict[str, float]) -> int:
        """How many actors have their place on a node."""
        fitting = node.get("CPU", 0) / self._cluster.cpus_per_site
        return int(min(fitting, node.get("GPU", 0) / self._gpus) if self._gpus else fitting)

    def _late(self) -> RayClusterError:
        return self._fault(
            f"no actor started within {START_S:g} s", "See with `ray status` whether its CPUs are free"
        )

    def _fault(self, fault: str, remedy: str) -> RayClusterError:
        return RayClusterError(self._cluster.place, fault, remedy)


@dataclass(frozen=True)
class _StandIn:
    """Answers for one site by way of the pool."""

    pool: RayPool
    site: str
    packed: Any  # a reference: it goes to each node once
    on_fault: OnFault

    def handle(self, request_bytes: bytes, *, is_over: IsOver = lambda: False) -> bytes:
        """The reply or refusal to a request. Raises WireError where the site gives none: it is absent then."""
        reply, fault = self.pool.ask(self.site, self.packed, request_bytes, is_over)
        if isinstance(fault, WireError) and not reply:
            raise fault
        if fault is not None:
            self.on_fault(fault)
        return reply


def _is_there(reference: Any, is_over: IsOver, *, within_s: float = math.inf) -> bool:
    """Whether the value of a reference came in time. Raises CancelledError once `is_over`."""
    end = time.monotonic() + within_s
    while not ray.wait([reference], timeout=INTERRUPTIBLE_S)[0]:
        if is_over():
            raise CancelledError
        if time.monotonic() > end:
            return False
    return True


def _connect(cluster: RayCluster, stack: ExitStack) -> None:
    """Join the cluster, or start one on this machine, until `stack` is closed. Raises RayClusterError."""
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        place = "/tmp" if os.name == "posix" else None  # noqa: S108  # private; a socket's path must be short
        folder = tempfile.TemporaryDirectory(prefix="medseg-ray-", dir=place, ignore_cleanup_errors=True)
        cores = max(usable_cores(), int(-(-cluster.cpus_per_site // 1)))
        options = {
            "address": "local",
            "num_cpus": cores,
            "include_dashboard": False,
            "_temp_dir": stack.enter_context(folder),
        }
    stack.callback(ray.shutdown)
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        remedy = "Give --ray-address the HOST:PORT that `ray start --head` told, on a machine of that cluster"
        fault = f"cannot be used ({str(error).strip().splitlines()[0]})"
        raise RayClusterError(cluster.place, fault, remedy) from error
