"""The models of a run that a site holds under a codec, so that a request brings but the step to the next."""

from pathlib import Path

from medseg_core.config import Experiment
from medseg_core.errors import UnusableFolderError, UpdateError, WireError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.codec import decode_kinds, decode_tensors, encode_tensors
from medseg_core.federation.codecs import build_codec
from medseg_core.federation.shared_tensors import initial_network
from medseg_core.federation.update import MODEL, ModelSpec, Tensors, moved, spec_for
from medseg_core.files import write_atomic
from medseg_core.learning.identity import global_sha256
from medseg_core.learning.weights import get_weights
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header


class HeldModels:
    """In `FOLDER/RUN/models`, by `global_sha256`: the one that came last, and the best before it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def receive(
        self, request: Header, payload: bytes, experiment: Experiment, spec: ModelSpec
    ) -> dict[str, Tensors]:
        """The tensors that a train or evaluate request brings, by kind: the model whole, however it travelled.

        Raises UpdateError for a payload of anything else, WireError (model_not_held) for a step from, or the name of, a
        model that is not here: it is to be sent whole.
        """
        downloads = build_algorithm(experiment).downloads
        kinds, besides = (downloads, ()) if request.kind == "train" else ((), downloads)
        is_step = request.base is not None and request.base != request.model
        is_absent = request.base is not None and not is_step
        received = decode_kinds(
            payload,
            {
                MODEL: ModelSpec({}) if is_absent else spec,
                **{kind: spec_for(kind, spec) for kind in kinds},
            },
            main=MODEL,
            codec=build_codec(experiment) if is_step else None,
            besides=besides,
        )
        if request.model is None:
            return received
        if request.base is not None:
            step = received[MODEL] if is_step else None
            received |= {MODEL: self._reached(request, step, experiment, spec)}
        if global_sha256(received[MODEL]) != request.model:
            code = RefusalCode.MALFORMED if request.base is None else RefusalCode.MODEL_NOT_HELD
            raise WireError(
                code, f"{request.kind} of round {request.round} brings another model than it names"
            )
        self._keep(request, received[MODEL])
        return received

    def _reached(
        self, request: Header, step: Tensors | None, experiment: Experiment, spec: ModelSpec
    ) -> Tensors:
        """The model that a request names, from what is here and, where that is its base, the step. Raises WireError."""
        assert request.model is not None
        assert request.base is not None
        if (model := self._find(request.run, request.model, spec)) is not None:
            return model
        base = self._find(request.run, request.base, spec)
        if base is None:
            weights = get_weights(initial_network(experiment))
            base = {name: weights[name] for name in spec.tensors}
            if global_sha256(base) != request.base:
                code = RefusalCode.MODEL_NOT_HELD
                raise WireError(code, f"model {request.base} of run {request.run} is not here")
        return base if step is None else moved(base, step)

    def _find(self, run: str, sha256: str, spec: ModelSpec) -> Tensors | None:
        """A model that is here; None where it is not, or is damaged."""
        try:
            return decode_tensors(self._path(run, sha256).read_bytes(), spec)
        except (OSError, UpdateError):
            return None

    def _keep(self, request: Header, model: Tensors) -> None:
        """Hold on to this model, and of the others to the best alone. Raises UnusableFolderError."""
        assert request.model is not None
        path = self._path(request.run, request.model)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if request.base is None or not path.exists():  # what came whole mends what is damaged
                write_atomic(path, encode_tensors(model))
            for other in path.parent.iterdir():
                if other.stem not in (request.model, request.best_model):
                    other.unlink(missing_ok=True)
        except OSError as error:
            raise UnusableFolderError(path.parent, error.strerror or type(error).__name__) from error

    def _path(self, run: str, sha256: str) -> Path:
        return self._folder / run / "models" / f"{sha256}.safetensors"
