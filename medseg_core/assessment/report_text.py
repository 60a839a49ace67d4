"""How the report writes numbers: three decimals, a true minus sign, units people know, a dash for nothing."""

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number; `-0.000` is written without its sign."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return (text.removeprefix("-") if float(text) == 0 else text).replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, always with its sign, save for zero."""
    if value is None:
        return NOTHING
    text = number(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def percentage(value: float | None) -> str:
    """A signed share in per cent."""
    return NOTHING if value is None else f"{signed(100 * value, 1)} %"


def between(low: float | None, high: float | None) -> str:
    """An interval of scores; empty where there is none."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def signed_between(low: float | None, high: float | None) -> str:
    """An interval of differences; empty where there is none."""
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def duration(seconds: int | float) -> str:
    """Seconds as people say them: 8.4 s, 6 min 43 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def megabytes(count: int | float) -> str:
    """Bytes in units of a thousand: 812 B, 4.8 MB, 1.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def isolated(name: str) -> str:
    """A name inside a sentence, whose writing direction cannot turn the rest of the sentence around."""
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


def listing(names: list[str], most: int = 6) -> str:
    """Names in a sentence: a, b and c; beyond `most` only how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(n: int, noun: str) -> str:
    """A number and its noun: 1 site, 4 sites."""
    return f"{n:,} {noun}".replace(",", " ") + ("" if n == 1 else "s")
