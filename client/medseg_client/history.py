"""What a ledger tells of the runs that this site took part in: plain values, worked out from its lines alone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from medseg_client.ledger_lines import Entry
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import SCORE, Header


@dataclass(frozen=True)
class Training:
    """One update that left."""

    round: int
    attempt: int
    time: str  # UTC, ISO 8601
    cases: int
    steps: int
    seconds: float | None  # None where policy keeps the figures of training, from the ledger too
    loss: float | None
    n_bytes: int
    norm: float | None  # as it left
    norm_before_clip: float | None
    sequence: int  # of its line


@dataclass(frozen=True)
class Refusal:
    """One request of the coordinator that got a code."""

    time: str
    run: str
    round: int
    asked: str  # kind, and of a score what was to be scored
    code: RefusalCode
    sequence: int


@dataclass
class RunHistory:
    """One run, as far as this site answered it."""

    run: str
    task: str
    experiment_sha256: str
    begun: str  # time of the first line
    last: str
    trainings: list[Training] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)  # round: Dice of the global model here
    tested: Header | None = None  # the answer that released test figures
    counts: dict[str, int] = field(default_factory=dict)  # cases and patients by purpose, as described
    n_bytes: int = 0  # of tensors that left
    n_repeats: int = 0  # requests that came again and got the stored answer

    @property
    def rounds(self) -> list[int]:
        """Rounds that were answered."""
        return sorted({training.round for training in self.trainings})


@dataclass
class TurnedAwayBytes:
    """What came that was not taken for a request of the coordinator."""

    listed: Counter[str] = field(default_factory=Counter)  # by code
    n_more: int = 0  # counted, not listed
    last: str | None = None


@dataclass(frozen=True)
class History:
    """All that a ledger tells."""

    runs: dict[str, RunHistory]  # newest last
    turned_away: TurnedAwayBytes
    n_repairs: int  # unfinished lines that crashes left


def history_of(entries: Iterable[Entry]) -> History:
    """What the lines add up to, oldest first."""
    history, n_repairs = History({}, TurnedAwayBytes(), 0), 0
    for entry in entries:
        if entry.event == "refused":
            _add_turned_away(history.turned_away, entry)
        elif entry.header is None:
            n_repairs += 1
        else:
            header = entry.header
            first = RunHistory(header.run, header.task, header.experiment_sha256, entry.time, entry.time)
            run = history.runs.setdefault(header.run, first)
            run.last = entry.time
            _add(run, entry, header)
    return History(history.runs, history.turned_away, n_repairs)


def _add(run: RunHistory, entry: Entry, header: Header) -> None:
    """One line of a run."""
    if entry.event == "repeat":
        run.n_repeats += 1
    elif header.code is not None:
        asked = f"{header.kind} {header.split}" if header.kind == "evaluate" else header.kind
        refusal = Refusal(entry.time, header.run, header.round, asked, header.code, entry.sequence)
        run.refusals.append(refusal)
    else:
        run.n_bytes += header.payload_bytes
        _add_answer(run, entry, header)


def _add_answer(run: RunHistory, entry: Entry, header: Header) -> None:
    """What was released."""
    dice = header.scalars.get(SCORE if header.kind == "train" else "dice")
    if header.split == "validation" and header.scored_round is not None and dice is not None:
        run.validation[header.scored_round] = dice
    match header.kind:
        case "train":
            run.trainings.append(_training(entry, header))
        case "evaluate" if header.split == "test":
            run.tested = header
        case "describe":
            run.counts = dict(header.counts)


def _training(entry: Entry, header: Header) -> Training:
    return Training(
        round=header.round,
        attempt=header.attempt,
        time=entry.time,
        cases=header.counts.get("cases", 0),
        steps=header.counts.get("steps", 0),
        seconds=header.scalars.get("training_s"),
        loss=header.scalars.get("loss"),
        n_bytes=header.payload_bytes,
        norm=entry.update_norm,
        norm_before_clip=entry.norm_before_clip,
        sequence=entry.sequence,
    )


def _add_turned_away(found: TurnedAwayBytes, entry: Entry) -> None:
    found.last = entry.time
    if entry.code is None:
        found.n_more += entry.n_more or 0
    else:
        found.listed[entry.code] += 1
