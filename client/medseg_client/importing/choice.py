"""Which series of a study are the channels of a case, by the rules of the task."""

from collections.abc import Mapping
from dataclasses import dataclass

from medseg_client.importing.source import Study
from medseg_core.config import Task
from medseg_core.data_errors import MissingChannelError
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.selection import NotChosen, choose_series
from medseg_core.import_errors import AmbiguousChannelError

_NOT_DRAWN_ON = "labels are drawn on another series of its study"


@dataclass(frozen=True)
class ChosenCases:
    """The cases of a study, each with a series by number of channel, and the series that are in none."""

    cases: tuple[Mapping[int, Series], ...]
    unused: tuple[NotChosen, ...]


def choose_cases(study: Study, task: Task, case_id: str) -> ChosenCases:
    """The cases that a study holds; none where no series fits any channel.

    Of several series that fit a channel those count that something is drawn on. More than one is a case each where the
    task has one channel. Raises MissingChannelError, AmbiguousChannelError of `case_id`.
    """
    drawn = {uid for one in (*study.segmentations, *study.structures) for uid in one.referenced_series_uids}
    fitting, unused = dict[int, tuple[Series, ...]](), dict[str, NotChosen]()
    for number, channel in enumerate(task.channels):
        choice = choose_series(study.images, channel)
        unused |= {one.series.series_uid: one for one in choice.left_out}
        on_it = tuple(one for one in choice.chosen if one.series_uid in drawn)
        fitting[number] = on_it or choice.chosen
        others = (one for one in choice.chosen if one not in fitting[number])
        unused |= {one.series_uid: NotChosen(one, _NOT_DRAWN_ON) for one in others}
    taken = {one.series_uid for series in fitting.values() for one in series}
    left_out = tuple(one for uid, one in unused.items() if uid not in taken)
    if not taken:
        return ChosenCases((), left_out)
    for number, channel in enumerate(task.channels):
        if not fitting[number] and not channel.optional:
            raise MissingChannelError(case_id, channel.name)
        if len(fitting[number]) > 1 and len(task.channels) > 1:
            raise AmbiguousChannelError(case_id, channel.name, len(fitting[number]))
    if len(task.channels) == 1:
        return ChosenCases(tuple({0: series} for series in fitting[0]), left_out)
    return ChosenCases(({number: series[0] for number, series in fitting.items() if series},), left_out)
