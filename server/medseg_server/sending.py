"""How a model goes to the sites: whole, or under a codec as the coded step from the one before it, or not at all.

Under a codec the coordinator moves by the step as it will be decoded. So the model that it holds is the one that sites
reach, bit for bit, and whoever missed the step gets it whole. What the code leaves over is not carried on: sites train
from the model as it became, and their updates make up for that already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from medseg_core.config import Experiment
from medseg_core.federation.algorithms.base import ServerState, frozen
from medseg_core.federation.codec import code, encode_kinds
from medseg_core.federation.codecs import Codec, build_codec
from medseg_core.federation.codecs.base import Entries
from medseg_core.federation.update import MODEL, ModelSpec, delta, moved
from medseg_core.learning.identity import global_sha256
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header, new_nonce
from medseg_server.requests import Answer
from medseg_server.run import Record, Run, best_round

STEP = "step"  # kind of memory: the server's last step, before it was coded
Form = Literal["whole", "step", "held"]


def moved_by_code(old: ServerState, new: ServerState, spec: ModelSpec, codec: Codec | None) -> ServerState:
    """The new state, as sites reach it from the old one by a coded step; its memory has the step as it was wanted."""
    if codec is None:
        return new
    _, step = code(wanted := delta(new.weights, old.weights), spec, codec)
    weights = frozen(moved(old.weights, step))
    return replace(new, weights=weights, memory={**new.memory, STEP: frozen(wanted)})


class Sending:
    """The model of a state on its way: each site gets the form that it can use, and the model whole where it cannot.

    `history` are the records of the rounds so far; `is_held` says that sites were told to hold on to this model. The
    kinds `besides` of the state's memory go with it; `whole` is all that as a payload, if it is there already. `facts`
    belong in the record of the round that is asked for.
    """

    def __init__(
        self,
        experiment: Experiment,
        spec: ModelSpec,
        state: ServerState,
        history: Sequence[Record] = (),
        *,
        is_held: bool = False,
        besides: tuple[str, ...] = (),
        whole: bytes | None = None,
    ) -> None:
        self._experiment, self._spec, self._state, self._history = experiment, spec, state, history
        self._is_held, self._besides = is_held, besides
        self._codec = build_codec(experiment)
        self._payloads: dict[Form, bytes] = {} if whole is None else {"whole": whole}

    @property
    def facts(self) -> Record:
        """Under a codec, the name of the model that the next round moves away from."""
        return {} if self._codec is None else {"moved_from": self._sha256}

    def ask(self, run: Run, headers: Mapping[str, Header]) -> Iterator[Answer]:
        """Send the requests, each with the model; one answer a site. A site that lacks the base is sent it whole."""
        if not headers:
            return iter(())
        forms = {site: self._form_for(site) for site in headers}
        named = {site: header.model_copy(update=self._names(forms[site])) for site, header in headers.items()}
        payloads = {site: self._payload(form) for site, form in forms.items()}

        def whole_instead(refusal: Answer) -> tuple[Header, bytes] | None:
            if refusal.reason != RefusalCode.MODEL_NOT_HELD or forms[refusal.site] == "whole":
                return None
            forms[refusal.site] = "whole"
            new = {"nonce": new_nonce(), **self._names("whole")}
            return headers[refusal.site].model_copy(update=new), self._payload("whole")

        n_bytes = sum(tensor.nbytes for tensor in self._state.weights.values())
        return run.ask(
            named,
            payloads,
            deadline_s=self._experiment.federation.deadline_s,
            model_bytes=(1 + len(self._besides)) * n_bytes,
            instead=whole_instead,
        )

    def _form_for(self, site: str) -> Form:
        """What a site is likely to be able to use: nobody is asked what it holds."""
        if self._codec is None:
            return "whole"
        if self._is_held or not self._history:  # every site can build the model that a run starts from
            return "held"
        if site in self._history[-1].get("sites", ()):  # it scored this model
            return "held"
        if len(self._history) == 1 or site in self._history[-2].get("sites", ()):
            return "step"
        return "step" if site in self._history[-1]["contributed"] else "whole"

    def _names(self, form: Form) -> dict[str, str | None]:
        """The fields of a header that name the model, the one that its step starts from, and the best."""
        if self._codec is None:
            return {}
        base = {"whole": None, "step": self._base, "held": self._sha256}[form]
        return {"model": self._sha256, "base": base, "best_model": self._best}

    def _payload(self, form: Form) -> bytes:
        if form not in self._payloads:
            kinds = {kind: self._state.memory[kind] for kind in self._besides}
            self._payloads[form] = encode_kinds({MODEL: self._entries(form), **kinds}, main=MODEL)
        return self._payloads[form]

    @cached_property
    def _sha256(self) -> str:
        return global_sha256(self._state.weights)

    @property
    def _base(self) -> str | None:
        """The model that the last step started from."""
        return self._history[-1]["moved_from"] if self._history else None

    @property
    def _best(self) -> str | None:
        """The best model so far: the one that the round after its own moved away from; None for the newest."""
        chosen = best_round(self._history)
        found = [record["moved_from"] for record in self._history if record["round"] == chosen + 1]
        return found[0] if chosen and found else None

    def _entries(self, form: Form) -> Entries:
        """The model in a form, without the kinds that go with it."""
        match form:
            case "whole":
                return self._state.weights
            case "step":
                return code(self._state.memory[STEP], self._spec, self._codec)[0]
            case "held":
                return {}
