"""The ledger for people: one row an answer."""

from collections.abc import Iterable

from rich.table import Table

from medseg_client.ledger import Entry, Line

_COLUMNS = ("line", "when (UTC)", "run", "round", "what", "tensors", "figures")


def table(lines: Iterable[Line]) -> Table:
    """A table of what left, and what was refused."""
    shown = Table(*_COLUMNS, title="What left this site, and what was refused")
    for line in lines:
        entry = line.entry
        where = (entry.header.run, str(entry.header.round)) if entry.header else ("", "")
        shown.add_row(str(entry.sequence), entry.time.removesuffix("+00:00"), *where, *_what(entry))
    return shown


def _what(entry: Entry) -> tuple[str, str, str]:
    """What happened, the tensors that left, the figures that left."""
    header = entry.header
    if entry.event == "refused":
        return _turned_away(entry), "", ""
    if header is None:
        return f"an unfinished line of {entry.torn_bytes} bytes was cut away: a crash", "", ""
    asked = f"{header.kind} {header.split or ''}".strip()
    if header.code is not None:
        return f"{asked} refused: {header.code}", "", ""
    tensors = f"{header.payload_bytes / 1e6:.3g} MB" if header.payload_bytes else ""
    if entry.update_norm is not None:
        tensors += f", norm {entry.update_norm:.3g}"
    if entry.norm_before_clip is not None and entry.norm_before_clip != entry.update_norm:
        tensors += f" (was {entry.norm_before_clip:.3g})"
    figures = [f"{name} {value}" for name, value in header.counts.items()]
    figures += [f"{name} {'none' if v is None else f'{v:.4g}'}" for name, v in header.scalars.items()]
    again = ", sent again" if entry.event == "repeat" else ""
    return asked + again, tensors, ", ".join(figures)


def _turned_away(entry: Entry) -> str:
    """What came that the trainer could not take for a request of the coordinator."""
    if entry.n_more is not None:
        return f"{entry.n_more} more were not taken for requests, too many to list"
    known_by = f"{entry.n_bytes} bytes, SHA-256 {entry.request_sha256}"
    return f"not taken for a request: {entry.code}; {known_by}"
