"""Patches for training: drawn from preprocessed cases, a share of them centred on foreground."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from medseg_core.cohort.augmentation import augment
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Training
from medseg_core.seeding import derive_seed

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Patches of one training step."""

    images: Float[Tensor, "b c *s"]
    labels: Integer[Tensor, "b *s"]
    not_annotated: tuple[tuple[int, ...], ...]  # of each patch, the classes that its background may be


def batches(
    cases: Sequence[PreprocessedCase],
    training: Training,
    *,
    seed: int,
    site: str,
    round_number: int,
    passes: int,
    optional: Sequence[int] = (),
    device: torch.device = CPU,
) -> Generator[Batch]:
    """`passes` times one augmented patch of every case, in batches on `device`; the last of a pass may be smaller.

    Order, places and augmentation depend on (seed, site, round) alone. `optional` channels may be missing or dropped.
    """
    order = np.random.default_rng(derive_seed(seed, site=site, round_number=round_number, purpose="order"))
    places = np.random.default_rng(derive_seed(seed, site=site, round_number=round_number, purpose="patch"))
    effects = torch.Generator().manual_seed(
        derive_seed(seed, site=site, round_number=round_number, purpose="augmentation")
    )
    for _ in range(passes):
        shuffled = order.permutation(len(cases))
        for start in range(0, len(cases), training.batch_size):
            chosen = [cases[n] for n in shuffled[start : start + training.batch_size]]
            images, labels = _patches(chosen, training, places, device)
            if training.augmentation:
                images, labels = augment(images, labels, training.augmentation, effects, optional=optional)
            yield Batch(images, labels, tuple(case.not_annotated for case in chosen))


def one_ahead(drawn: Iterator[Batch]) -> Generator[Batch]:
    """The same batches; each is begun, in another thread, when its predecessor is handed out.

    Raises what `drawn` raises.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="patches") as worker:
        coming = worker.submit(next, drawn, None)
        while (batch := coming.result()) is not None:
            coming = worker.submit(next, drawn, None)
            yield batch


def steps_in_pass(n_cases: int, batch_size: int) -> int:
    """Batches that one pass over the training cases takes."""
    return -(-n_cases // batch_size)


def _patches(
    cases: Sequence[PreprocessedCase], training: Training, rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A patch of each case; to a CUDA device the copy goes beside the work that it has."""
    size, pinned = training.patch_size, device.type == "cuda"
    images = torch.zeros(len(cases), cases[0].image.shape[0], *size, pin_memory=pinned)
    labels = torch.zeros(len(cases), *size, dtype=torch.uint8, pin_memory=pinned)
    for case, image, label in zip(cases, images.numpy(), labels.numpy(), strict=True):
        _fill(image, label, case, training, rng)
    return images.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)


def _fill(
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8],
    case: PreprocessedCase,
    training: Training,
    rng: np.random.Generator,
) -> None:
    """Write one patch into `image` `(c, *patch_size)` and `label` `(*patch_size)`, which are zeros.

    Where the case is smaller than the patch it lies in the middle of zeros (the mean of a z-scored image).
    """
    centre = _centre(case, training.foreground_fraction, rng)
    inside, outside = [], []
    for size, length, middle in zip(case.label.shape, training.patch_size, centre, strict=True):
        start = min(max(middle - length // 2, 0), max(size - length, 0))
        pad = max(length - size, 0) // 2
        taken = min(length, size - start)
        inside.append(slice(start, start + taken))
        outside.append(slice(pad, pad + taken))
    image[(slice(None), *outside)] = case.image[(slice(None), *inside)]
    label[tuple(outside)] = case.label[tuple(inside)]


def _centre(case: PreprocessedCase, foreground_fraction: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Middle of the next patch: a voxel of a random label with the given probability, else any voxel."""
    anywhere = tuple(int(rng.integers(size)) for size in case.label.shape)
    wants_foreground = rng.random() < foreground_fraction
    if not wants_foreground or not len(case.foreground):
        return anywhere
    labels = case.foreground[:, 0]
    label = rng.choice(np.flatnonzero(np.bincount(labels)))  # each label alike, however small
    rows = np.flatnonzero(labels == label)
    return tuple(int(n) for n in case.foreground[rows[rng.integers(len(rows))], 1:])
