"""A run as people and programs follow it: one line for each event that says something."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from medseg_server.run_store import RunStore
from medseg_server.runs import status
from medseg_server.server_folder import ServerFolder

LOOK_S = 1.0
ENDS = ("finished", "failed", "stopped")


def follow(folder: ServerFolder, name: str, *, told: int = 0, as_json: bool = False) -> Iterator[str]:
    """Lines about a run until it ends, from the event after `told`; the last one says how: its status, or the report.

    With `as_json` every event is a line as it stands in `events.jsonl`, and the last line is the run's status.
    """
    store = RunStore(folder.run(name))
    while True:
        now = status(folder, name)
        events = store.all_events()
        for event in events[told:]:
            if text := json.dumps(event) if as_json else sentence(event):
                yield text
        told = len(events)
        if now.state in ENDS:
            if as_json:
                yield json.dumps(asdict(now))
            elif now.state == "finished":
                yield f"report: {store.folder.absolute() / 'report.html'}"
            return
        time.sleep(LOOK_S)


def sentence(event: dict[str, Any]) -> str:
    """What an event says to people; nothing for those that are for machines."""
    match event["event"]:
        case "described":
            return "sites: " + ", ".join(f"{s} ({c['train_cases']} cases)" for s, c in event["sites"].items())
        case "waiting":
            return f"waiting for {', '.join(event['sites'])} to connect"
        case "round_finished":
            absent = "".join(f", without {s} ({why})" for s, why in event["absent"].items())
            loss = event["training_loss"]
            return f"round {event['round']}: loss {'not told' if loss is None else f'{loss:.3f}'}{absent}"
        case "evaluated":
            return f"round {event['round']}: validation Dice {event['validation_dice']:.3f}"
        case "tested":
            return "tested: " + ", ".join(f"{s} Dice {v['dice']:.3f}" for s, v in event["sites"].items())
        case "published":
            absent = "".join(f", not to {s} ({why})" for s, why in event["absent"].items())
            return f"published to {', '.join(event['sites']) or 'no site'}{absent}"
        case "failed" | "versions_differ":
            return f"{event['event'].replace('_', ' ')}: {event['detail']}"
        case "finished" | "stopped":
            return str(event["event"])
    return ""
