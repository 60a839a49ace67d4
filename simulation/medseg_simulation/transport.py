"""The transport of a simulation: the same envelopes, handed over in threads of this process."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial

from medseg_core.errors import WireError
from medseg_server.transport import Delivery, asked_anew
from medseg_simulation.side_by_side import side_by_side
from medseg_simulation.virtual_site import Answering


class VirtualSitesTransport:
    """Carries envelopes to virtual sites, in their order, to `at_once` of them at the same time.

    Trainers in this process answer for the sites, or Ray actors. `stop` is set when nobody waits for an answer any
    more; who answers ends at the next step once `is_over`. A fault at a virtual site is raised, not coded: its owner
    sits here.
    """

    def __init__(
        self,
        answering: Mapping[str, Answering],
        faults: list[Exception],
        *,
        stop: threading.Event,
        is_over: Callable[[], bool],
        at_once: int,
    ) -> None:
        self._answering, self._faults, self._at_once = answering, faults, at_once
        self._stop, self._is_over = stop, is_over

    def sites(self) -> tuple[str, ...]:
        """All virtual sites."""
        return tuple(sorted(self._answering))

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:  # noqa: ARG002
        """Ask the sites and deliver each answer when it is there.

        Some wait for others, which they would not do in a federation, so a deadline says nothing here; and a result
        must not depend on the clock.
        """
        asked = {site: partial(self._ask, site, requests) for site in self._answering if site in requests}
        while asked:
            with closing(side_by_side(asked, at_once=self._at_once, stop=self._stop)) as answers:
                for site, answer in answers:
                    yield self._delivery(site, answer)
            asked = {site: partial(self._ask, site, requests) for site in asked_anew(requests)}

    def _ask(self, site: str, requests: Mapping[str, bytes]) -> bytes:
        request = requests[site]  # its bytes are made here, when they are needed
        return self._answering[site].handle(request, is_over=self._is_over)

    def _delivery(self, site: str, answer: Future[bytes]) -> Delivery:
        """What a site's thread ended with. Raises what the site could not do."""
        try:
            delivery = Delivery(site, answer.result())
        except WireError as error:
            delivery = Delivery(site, None, error.code)
        if self._faults:
            raise self._faults[0]
        return delivery
