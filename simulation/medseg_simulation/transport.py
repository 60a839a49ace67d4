"""The in-process transport: the same envelopes, handed to trainers in threads of this process."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from medseg_client.trainer import Trainer
from medseg_core.errors import WireError
from medseg_server.transport import Delivery

INTERRUPTIBLE_S = 0.5  # Windows hears Ctrl-C only between waits


class InProcessTransport:
    """Carries envelopes to trainers, in their order, to `at_once` of them at the same time.

    `over` is set when nobody waits for an answer any more, and the trainers heed it. A fault at a virtual site is
    raised, not coded: its owner sits here.
    """

    def __init__(
        self,
        trainers: Mapping[str, Trainer],
        faults: list[Exception],
        *,
        over: threading.Event,
        at_once: int,
    ) -> None:
        self._trainers, self._faults, self._over, self._at_once = trainers, faults, over, at_once

    def sites(self) -> tuple[str, ...]:
        """All virtual sites."""
        return tuple(sorted(self._trainers))

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:  # noqa: ARG002
        """Ask the sites and deliver each answer when it is there.

        Some wait for others, which they would not do in a federation, so a deadline says nothing here; and a result
        must not depend on the clock.
        """
        self._over.clear()
        with ThreadPoolExecutor(self._at_once, "site") as pool:
            pending = {
                pool.submit(self._ask, site, requests): site for site in self._trainers if site in requests
            }
            try:
                while pending:
                    for answer in wait(pending, INTERRUPTIBLE_S, FIRST_COMPLETED).done:
                        yield self._delivery(pending.pop(answer), answer)
            finally:
                self._over.set()
                for unasked in pending:
                    unasked.cancel()

    def _ask(self, site: str, requests: Mapping[str, bytes]) -> bytes:
        return self._trainers[site].handle(requests[site])  # bytes are made here, when they are needed

    def _delivery(self, site: str, answer: Future[bytes]) -> Delivery:
        """What a site's thread ended with. Raises what the site could not do."""
        try:
            delivery = Delivery(site, answer.result())
        except WireError as error:
            delivery = Delivery(site, None, error.code)
        if self._faults:
            raise self._faults[0]
        return delivery
