"""What a ledger's lines add up to, kept as they are added: a question costs the same however long the ledger is."""

from collections import defaultdict
from collections.abc import Set as AbstractSet

from medseg_client.ledger_lines import Entry
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import SCORE, Header, Kind


class Answered:
    """What was released for the first time, by what it is charged as; and what needs no line of its own again."""

    def __init__(self) -> None:
        self._charges: defaultdict[tuple[Kind, str], set[object]] = defaultdict(set)
        self._trainings: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
        self._scored: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
        self._refused: set[tuple[str | None, RefusalCode]] = set()
        self._repeated: set[str | None] = set()

    def add(self, entry: Entry) -> None:
        """Count a line."""
        header = entry.header
        code = entry.code if header is None else header.code
        if entry.event == "repeat":
            self._repeated.add(entry.request_sha256)
        elif code is not None:
            self._refused.add((entry.request_sha256, code))
        elif header is not None:
            self._add_answer(header, entry.model_sha256, entry.request_sha256)

    def _add_answer(self, header: Header, model_sha256: str | None, request_sha256: str | None) -> None:
        charged: set[Kind] = {header.kind, "evaluate"} if SCORE in header.scalars else {header.kind}
        for kind in charged:
            self._charges[kind, header.task].add(charge(kind, header, model_sha256, request_sha256))
        if header.kind == "train":
            self._trainings[header.run, header.round].add(request_sha256)
        if header.split == "validation" and header.scored_round is not None and "evaluate" in charged:
            self._scored[header.run, header.scored_round].add(model_sha256)

    def charges(self, kind: Kind, task: str) -> AbstractSet[object]:
        """What a task was charged for answers of a kind: a member a charge."""
        return self._charges.get((kind, task), frozenset())

    def trainings(self, run: str, round_number: int) -> AbstractSet[str | None]:
        """Requests to train for a round that were answered."""
        return self._trainings.get((run, round_number), frozenset())

    def models_scored(self, run: str, round_number: int) -> AbstractSet[str | None]:
        """Models of a round that were scored on validation, by SHA-256."""
        return self._scored.get((run, round_number), frozenset())

    def is_refused(self, request_sha256: str, code: RefusalCode) -> bool:
        """These bytes were refused with this code before."""
        return (request_sha256, code) in self._refused

    def is_repeated(self, request_sha256: str) -> bool:
        """The stored answer to these bytes was sent again before."""
        return request_sha256 in self._repeated


def charge(kind: Kind, header: Header, model_sha256: str | None, request_sha256: str | None) -> object:
    """What answers must have in common to be charged once.

    An update with a score is charged twice: as a training and as an evaluation.
    """
    if kind == "evaluate":
        return header.run, header.scored_round, header.split, model_sha256
    return request_sha256
