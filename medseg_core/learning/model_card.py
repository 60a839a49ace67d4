"""`README.md` of a trained model: what it is for, what it learned from, how well it does, how to use it.

After Mitchell et al. 2019 (model cards). Filled from the run; nothing is claimed that the run did not measure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medseg_core.cohort.labels import file_values
from medseg_core.config import KEEP_TENSORS, Channel, Experiment, LabelValues
from medseg_core.learning.monai_bundle import differences, required_packages
from medseg_core.learning.scope import UNCERTAINTY, Scope, told_ranges, what_is_missing

SCORES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95 (mm)",
    "hd95_px": "HD95 (px)",
    "surface_dice": "surface Dice",
}
PARTS = ("train", "validation", "test")
FOLDS = (
    "From {}-fold cross-validation: each case was scored by the model of the fold that held it out. **The weights here "
    "are those of the first fold**, as are the counts above."
)


def model_card(
    experiment: Experiment, summary: Mapping[str, Any], *, weights_sha256: str, scope: Scope | None = None
) -> str:
    """Markdown, from the experiment and the content of `summary.json`."""
    sections = {
        f"{experiment.task.name} segmentation": _opening(experiment, summary),
        "Intended use and limits": _limits(experiment, summary),
        "Images and labels": _contract(experiment),
        "Training": _training(experiment, summary),
        "Scores": _scores(experiment, summary),
        "Cases that it is for": _scope(experiment, scope),
        "How to use it": _usage(experiment),
        "MONAI bundle": _bundle(experiment),
        "Origin": _origin(summary, weights_sha256),
    }
    title, *rest = sections.items()
    return "\n".join([f"# {title[0]}", "", title[1], *(f"\n## {name}\n\n{text}" for name, text in rest), ""])


def _opening(experiment: Experiment, summary: Mapping[str, Any]) -> str:
    task = experiment.task
    return (
        "**Research use only, not a medical device.**\n\n"
        f"Segments {_joined(task.labels)} in {task.spatial_dims}D images. A {experiment.model.name} with "
        f"{summary['n_parameters']:,} parameters, trained across {len(summary['sites'])} sites with "
        f"{experiment.federation.algorithm}."
    )


def _limits(experiment: Experiment, summary: Mapping[str, Any]) -> str:
    worst = summary["global"]["worst_site"]
    faults = [
        "For research. Not tested for diagnosis, treatment or any other clinical decision; a person must look at every "
        "result.",
        "It knows images like those it was trained on: other scanners, protocols, patients or diseases may give wrong "
        "results, without a warning. Score it on your own labelled images first (`evaluate`).",
        f"The scores below differ between sites; the lowest is {worst['site']} with Dice {_figure(worst['dice'])}.",
        "The weights were made from patients' images and may tell something about them. Treat them as you would treat "
        "the data.",
    ]
    if not experiment.task.allow_empty_label:
        faults.append(
            "Every training image showed the structure: images without it were not part of the training."
        )
    simulated = experiment.simulation
    if simulated.scanner.strength:
        faults.append("Its images were changed as if by other scanners; scores are of images changed so.")
    if partly := [site for site, own in simulated.site.items() if own.not_annotated]:
        scored = "were scored all the same" if simulated.score_all_labels else "are not in its scores"
        faults.append(f"Not every label was annotated at {_joined(partly)}; those that were not {scored}.")
    return _bullets(faults)


def _contract(experiment: Experiment) -> str:
    """What goes in and comes out."""
    task = experiment.task
    channels = [
        (n, f"{c.name} (may be missing)" if c.optional else c.name, c.modality, _normalisation(c))
        for n, c in enumerate(task.channels, start=1)
    ]
    values = file_values(task)
    labels = [
        (name, values[n], _told(wanted)) for n, (name, wanted) in enumerate(task.labels.items(), start=1)
    ]
    grid = "the spacing of each file"
    if task.spacing_mm is not None:
        grid = f"{_sizes(task.spacing_mm)} mm"
    if task.longest_side_px is not None:
        grid = f"scaled to {task.longest_side_px} pixels along the longest side"
    return "\n\n".join(
        [
            _table(("channel", "name", "modality", "normalisation"), channels),
            _table(("label", "value written", "values in training files"), labels),
            f"Grid: {grid}{f', axes {task.orientation}' if task.spatial_dims == 3 else ''}. "
            f"Patch: {_sizes(experiment.training.patch_size)}.",
        ]
    )


def _training(experiment: Experiment, summary: Mapping[str, Any]) -> str:
    """Counts by site, and the choice of the round."""
    best, federation = chosen_round(summary), experiment.federation
    rows = [
        (site, *(f"{counts['patients'][part]} ({counts['cases'][part]})" for part in PARTS))
        for site, counts in summary["sites"].items()
    ]
    return "\n\n".join(
        [
            _table(("site: patients (cases)", *PARTS), rows),
            f"{_partition(summary)}ounds: {federation.rounds}, local epochs in each: "
            f"{federation.local_epochs}, seed: {summary['seed']}. These are the weights of round {best['round']}, "
            f"chosen by validation Dice ({_figure(best['validation_dice'])}).",
            f"Licence of the data: {' '.join((experiment.task.licence or 'not stated').split())}.",
        ]
    )


def _partition(summary: Mapping[str, Any]) -> str:
    """How one data set became sites, and the first letter of the next word; real hospitals were not divided."""
    return f"Partition `{summary['partition']}`; r" if summary.get("partition") else "R"


def _scores(experiment: Experiment, summary: Mapping[str, Any]) -> str:
    """Test scores by site and label, beside what the same data give without a federation."""
    found, folds = summary["global"], experiment.simulation.folds
    names = [name for name in SCORES if found["mean"][name] is not None]
    header = [SCORES[name] for name in names]
    sites = [(site, *_site_row(scores, names)) for site, scores in found["sites"].items()]
    rows = [*sites, ("all cases", "", "", *_figures(found["mean"], names))]
    by_label = [(label, *_figures(means, names)) for label, means in found["labels"].items()]
    others = [(n, _figure(summary[n]["mean"]["dice"])) for n in ("pooled", "local") if summary.get(n)]
    texts = [
        FOLDS.format(folds) if folds else "",
        "Patients that took no part in training or in the choice of the round. Means over cases of the mean over "
        "labels, with the 95 % interval of Dice over patients.",
        _table(("site", "patients (cases)", "interval", *header), rows),
        _table(("label", *header), by_label),
        _table(("for comparison, trained", "Dice"), others) if others else "",
    ]
    return "\n\n".join(text for text in texts if text)


def _site_row(scores: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    low, high = _figure(scores["dice_low"]), _figure(scores["dice_high"])
    return f"{scores['n_patients']} ({scores['n_cases']})", f"{low} to {high}", *_figures(scores, names)


def _scope(experiment: Experiment, scope: Scope | None) -> str:
    """Ranges and threshold, and how they were learned."""
    told = what_is_missing(scope)
    if scope is None:
        return "\n\n".join(told)
    rows = [(name, f"{low:.3g} to {high:.3g}") for name, low, high in told_ranges(scope, experiment.task)]
    if rows:
        ranges = (
            "A case outside these ranges is held. They are mean ± 4 standard deviations over the training cases of "
            f"{scope.sites['training']} site(s), no narrower than a factor of 1.25 in spacing and 0.25 in intensity, "
            f"which is after normalisation.\n\n{_table(('of a case', 'range'), rows)}"
        )
        told = (ranges, *told)
    if scope.threshold is not None:
        found = scope.moments[UNCERTAINTY]
        threshold = (
            f"A case whose uncertainty is above **{scope.threshold:.3f}** is flagged: mean + 2 standard deviations "
            f"({found.mean:.3f} + 2 x {found.sd:.3f}) over {found.n} validation cases of "
            f"{scope.sites['validation']} site(s), which chose the round, too. The uncertainty is 1 - the mean Dice "
            "between what the model draws on the case as it is, mirrored as in training, and with less and with more "
            "contrast."
        )
        told = (*told, threshold)
    return "\n\n".join(told)


def _usage(experiment: Experiment) -> str:
    own = ""
    if experiment.federation.algorithm in KEEP_TENSORS:
        own = (
            f"\n\n**With {experiment.federation.algorithm} part of the model stays at each site.** The package is "
            "without it: `--site NAME` adds the part of a site of a simulation, in `personal/`; a hospital has its own."
        )
    return (
        "```\nmedseg-simulate predict --model model --image scan.nii.gz --out segmentations\n"
        "medseg-simulate evaluate --model model --data labelled_cases --out scores.json\n```\n\n"
        "`predict` needs this folder and nothing else of the run. It writes label maps on the grid of the image, and "
        f"`predictions.json` with their volumes.{own}"
    )


def _bundle(experiment: Experiment) -> str:
    if experiment.federation.algorithm in KEEP_TENSORS:
        return "It does not run by itself: part of the model stays at each site."
    packages = " ".join(f'"{name}>={least}"' for name, least in required_packages(experiment.task).items())
    return (
        f"```\npip install monai {packages}\n"
        "python -m monai.bundle run --config_file model/configs/inference.json --bundle_root model \\\n"
        "    --dataset_dir images --output_dir segmentations\n```\n\n"
        "runs the model without medseg on every file in `images` (several files for one case: "
        "`--datalist \"[['a_t1.nii.gz', 'a_t2.nii.gz']]\"`). The weights are `model.safetensors`; there is no "
        "`model.pt`, since pickled files can run code. The results may differ from those of `predict`:\n\n"
        f"{_bullets(differences(experiment))}"
    )


def _origin(summary: Mapping[str, Any], weights_sha256: str) -> str:
    rows = [
        ("run", summary["run"]),
        ("medseg", summary["version"]),
        ("experiment, SHA-256", f"`{summary['experiment_sha256']}`"),
        ("weights, SHA-256", f"`{weights_sha256}`"),
    ]
    return f"{_table(('', ''), rows)}\n\nThe experiment is `experiment.toml`; for programs there is `provenance.json`."


def chosen_round(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Round and validation Dice of the weights: with folds, of the first fold."""
    best = summary["best"]
    chosen: Mapping[str, Any] = best[0] if isinstance(best, list) else best
    return chosen


def _normalisation(channel: Channel) -> str:
    window = f" {channel.window[0]:g} to {channel.window[1]:g}" if channel.window else ""
    return f"{'CLAHE, ' if channel.clahe else ''}{channel.normalisation}{window}"


def _told(wanted: LabelValues) -> str:
    return ", ".join(map(str, wanted)) if isinstance(wanted, tuple) else str(wanted)


def _figures(scores: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_figure(scores[name]) for name in names]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _sizes(numbers: Iterable[float | int]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def _joined(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
