"""A trained model for MONAI's own tools: the `configs/` of a MONAI bundle.

An experiment in, two documents out: `inference.json`, which `python -m monai.bundle run` executes with nothing of
medseg imported, and `metadata.json`. Where MONAI's transforms differ from ours is told by `differences`.
Source: MONAI bundle specification and configuration syntax, https://docs.monai.io.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

from medseg_core.cohort.labels import file_values
from medseg_core.config import Channel, Experiment, Task
from medseg_core.learning.networks import build_network, monai_definition

Document = dict[str, Any]

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
IMPORTS = ("import pathlib", "import sys", "import torch", "from safetensors.torch import load_file")
RAS_AXES = [["L", "R"], ["P", "A"], ["I", "S"]]  # MONAI's affines are RAS; its default for this will change
# `monai.bundle run` puts the bundle's folder second in the search path, after the current folder.
BUNDLE_ROOT = "$next((p for p in sys.path[1::-1] if pathlib.Path(p, 'model.safetensors').is_file()), '.')"
# Aliases of a tensor and integer counters, which the file leaves out, stay as the network has them.
LOAD = (
    "$@network_def.load_state_dict("
    "{**@network_def.state_dict(), **load_file(pathlib.Path(@bundle_root, 'model.safetensors'))})"
)
NORMALISE = "$lambda image: torch.cat([change(c[None]) for change, c in zip(@normalisation, image)])"
EQUALISE = (  # `c` is one channel; as medseg_core.cohort.preprocess
    "$lambda c: torch.as_tensor(equalize_adapthist(((c.double() - c.min()) / max(float(c.max() - c.min()), 1e-8))"
    ".numpy()[0]), dtype=torch.float32)[None]"
)
PREDICT = (
    "$torch.inference_mode()(lambda case:"
    " {**case, 'pred': @inferer(case['image'][None].to(@device), @network)[0].cpu()})"
)
RUN = "$sum(1 for n in range(len(@dataset)) if @postprocessing(@predict(@dataset[n])))"


def inference_config(experiment: Experiment) -> Document:
    """The content of `inference.json`: images in `dataset_dir` to label maps in `output_dir`."""
    task = experiment.task
    return {
        "imports": [f"${statement}" for statement in _imports(task)],
        "bundle_root": BUNDLE_ROOT,
        "dataset_dir": "images",
        "output_dir": "segmentations",
        "output_ext": ".png" if _is_pictures(task) else ".nii.gz",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network_definition(experiment),
        "network": "$torch.nn.Sequential(@network_def, torch.nn.Softmax(dim=1)).to(@device).eval()",
        "datalist": "$[str(p) for p in sorted(pathlib.Path(@dataset_dir).iterdir()) if p.is_file()]",
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': files} for files in @datalist]",
            "transform": "@preprocessing",
        },
        "normalisation": [_compose(_intensities(channel)) for channel in task.channels],
        "preprocessing": _compose(_preprocessing(task)),
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(experiment.training.patch_size),
            "overlap": experiment.evaluation.overlap,
            "mode": "gaussian",
        },
        "predict": PREDICT,
        "postprocessing": _compose(_postprocessing(task)),
        "run": [LOAD, RUN],
    }


def metadata(experiment: Experiment, summary: Mapping[str, Any]) -> Document:
    """The content of `metadata.json`, as MONAI's schema of 2024-07-25 asks."""
    task = experiment.task
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"run {summary['run']}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": required_packages(task),
        "name": f"{task.name} segmentation",
        "task": f"Segmentation of {', '.join(task.labels)} in {task.spatial_dims}D images",
        "description": f"{experiment.model.name}, trained across {len(summary['sites'])} sites; see README.md",
        "authors": f"run {summary['run']} of medseg {summary['version']}",
        "copyright": "held by those who ran the training",
        "intended_use": "Research use only, not a medical device.",
        "eval_metrics": {"mean_dice": summary["global"]["mean"]["dice"]},
        "network_data_format": {
            "inputs": {"image": _image_format(experiment)},
            "outputs": {"pred": _prediction_format(experiment)},
        },
    }


def required_packages(task: Task) -> dict[str, str]:
    """Least versions of what the bundle needs beside MONAI, by name."""
    needed = {"fire": "0.6.0", "safetensors": "0.4.5"}
    needed |= {"nibabel": "5.0.0"} if task.spatial_dims == 3 else {"pillow": "10.0.0"}
    return needed | ({"scikit-image": "0.22.0"} if _equalises(task) else {})


def differences(experiment: Experiment) -> list[str]:
    """What MONAI's runner does otherwise than `predict`, a sentence each."""
    task = experiment.task
    told = [
        "Images are always seen in windows of one patch; `predict` sees those up to two patches in size whole."
    ]
    if task.spacing_mm is not None or task.longest_side_px is not None:
        told.append("Resampling places the new grid otherwise, by about half a voxel.")
    if task.spacing_mm is not None and task.spatial_dims == 2:
        told.append("Pictures without physical spacing count as having pixels of 1 mm.")
    if experiment.evaluation.mirror:
        told.append("No average over mirrored images is taken.")
    if task.optional_channels:
        told.append("Every channel must be there; `predict` does without those that may be missing.")
    return [
        *told,
        "Files are not checked: a cut file or one with other channels may give a wrong result silently.",
    ]


def network_definition(experiment: Experiment) -> Document | str:
    """The network as a component, or an expression, that names nothing of ours; its tensors have the same names."""
    if experiment.model.name == "cnn3d":
        return f"${_constructor(build_network(experiment.task, experiment.model, seed=0))}"
    name, arguments = monai_definition(experiment.task, experiment.model)
    return {"_target_": name, **arguments}


def _constructor(module: nn.Module) -> str:
    """The expression that builds a tree of torch's own modules: what a layer prints is how it is built."""
    if isinstance(module, nn.Sequential):
        return f"torch.nn.Sequential({', '.join(_constructor(child) for child in module)})"
    return f"torch.nn.{module!r}"


def _preprocessing(task: Task) -> Iterator[Document]:
    """The transforms of `medseg_core.cohort.preprocess`, in its order."""
    reader = {"reader": "PILReader"} if task.spatial_dims == 2 else {}  # MONAI tries its others after it
    yield _on_image("LoadImaged", ensure_channel_first=True, **reader)
    if task.spatial_dims == 3:
        yield _on_image("Orientationd", axcodes=task.orientation, labels=RAS_AXES)
    if task.foreground_crop:
        yield _on_image("CropForegroundd", source_key="image", select_fn="$lambda image: image != 0")
    if task.spacing_mm is not None:
        yield _on_image("Spacingd", pixdim=list(task.spacing_mm), mode="bilinear")
    if task.longest_side_px is not None:
        mode = "bilinear" if task.spatial_dims == 2 else "trilinear"
        yield _on_image("Resized", spatial_size=task.longest_side_px, size_mode="longest", mode=mode)
    yield _on_image("Lambdad", func=NORMALISE)


def _intensities(channel: Channel) -> Iterator[Document | str]:
    """`medseg_core.cohort.preprocess.normalise` for one channel."""
    window = channel.window
    if channel.clahe:
        if window is not None:
            yield f"$lambda c: c.clamp({window[0]}, {window[1]})"
            window = (0.0, 1.0)
        yield EQUALISE
    to_unit = {"b_min": -1.0, "b_max": 1.0, "clip": True}
    match channel.normalisation:
        case "zscore":
            yield {"_target_": "NormalizeIntensity"}
        case "range":
            yield {"_target_": "ScaleIntensityRangePercentiles", "lower": 0.5, "upper": 99.5, **to_unit}
        case "window":
            assert window is not None
            yield {"_target_": "ScaleIntensityRange", "a_min": window[0], "a_max": window[1], **to_unit}


def _postprocessing(task: Task) -> Iterator[Document]:
    """Probabilities back on the grid of the file, the likeliest label as its value in files, written."""
    values = file_values(task)
    back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False}
    yield {"_target_": "Invertd", "keys": "pred", **back}
    yield {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    classes = {"orig_labels": list(range(len(values))), "target_labels": values.tolist()}
    yield {"_target_": "MapLabelValued", "keys": "pred", **classes}
    yield {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_ext": "@output_ext",
        "output_postfix": "segmentation",
        "output_dtype": values.dtype.name,
        "resample": False,
        "separate_folder": False,
    }


def _on_image(transform: str, **arguments: Any) -> Document:
    return {"_target_": transform, "keys": "image", **arguments}


def _compose(transforms: Iterator[Any]) -> Document:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _image_format(experiment: Experiment) -> Document:
    """What the network takes: one normalised patch."""
    channels = experiment.task.channels
    names = {str(n): channel.name for n, channel in enumerate(channels)}
    return _tensor("magnitude", names, experiment) | {"modality": channels[0].modality}


def _prediction_format(experiment: Experiment) -> Document:
    """What the network gives: one map a class, the largest of which names the label."""
    names = {str(n): name for n, name in enumerate(("background", *experiment.task.labels))}
    return _tensor("labels", names, experiment)


def _tensor(form: str, channels: dict[str, str], experiment: Experiment) -> Document:
    return {
        "type": "image",
        "format": form,
        "num_channels": len(channels),
        "spatial_shape": list(experiment.training.patch_size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": channels,
    }


def _imports(task: Task) -> list[str]:
    return [*IMPORTS, *(["from skimage.exposure import equalize_adapthist"] if _equalises(task) else [])]


def _equalises(task: Task) -> bool:
    return any(channel.clahe for channel in task.channels)


def _is_pictures(task: Task) -> bool:
    """Whether the files are probably pictures, whose label maps are pictures too."""
    return task.spatial_dims == 2 and task.spacing_mm is None
