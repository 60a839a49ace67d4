"""Learning curves as TensorBoard event files, written while the run goes on."""

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoard:
    """One event file for each model in `folder`; open until `close`. `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def add_round(self, model: str, record: dict[str, Any]) -> None:
        """Write the figures of a round: first when it is trained, again with scores when it is evaluated."""
        if "validation_dice" in record:
            figures = {"validation_dice/mean": record["validation_dice"]}
            figures |= {f"validation_dice/{site}": dice for site, dice in record["sites"].items()}
            figures["server_dice"] = record.get("server_dice")
        else:
            figures = {"training_loss/mean": record["training_loss"]}
            figures |= {f"training_loss/{s}": c["loss"] for s, c in record["contributed"].items()}
        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items() if value is not None
        ]
        writer = self._writer(model)
        writer.add_event(Event(wall_time=time.time(), step=record["round"], summary=Summary(value=values)))
        writer.flush()

    def close(self) -> None:
        """Flush and close every file."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, model: str) -> EventFileWriter:
        if model not in self._writers:
            self._writers[model] = EventFileWriter(str(self._folder / model.replace(":", "-")))
        return self._writers[model]
