"""Local training: the loop that a site runs on its own cases in one round."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg_core.cohort.patches import Batch, batches, one_ahead, steps_in_pass
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment, Training
from medseg_core.errors import OutOfMemoryError, RoundOverError
from medseg_core.learning.device import usable_cores
from medseg_core.learning.generator import seeded_generator
from medseg_core.learning.gradients import Gradients
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.losses import build_loss, mark_unknown
from medseg_core.learning.weights import set_weights, to_array
from medseg_core.seeding import derive_seed

Weights = Mapping[str, npt.NDArray[np.float32]]

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # CPU: Unix, Windows; MPS


@dataclass(frozen=True)
class RoundContext:
    """Whose round it is: everything that local randomness and the schedule depend on."""

    site: str
    round_number: int  # 1-based


@dataclass(frozen=True)
class TrainingReport:
    """What a site tells of its local training."""

    n_cases: int
    n_steps: int
    loss: float  # mean over the steps
    training_s: float  # forward, backward, optimiser
    waiting_s: float  # for patches; an accelerator may be at work meanwhile


def train_locally(
    network: nn.Module,
    cases: Sequence[PreprocessedCase],
    experiment: Experiment,
    *,
    context: RoundContext,
    start: Weights,
    rule: LocalRule,
    memory: Weights | None = None,
    parts: int = 1,
    record: bool = True,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[TrainingReport, dict[str, npt.NDArray[np.float32]]]:
    """Train `network` in place from `start` for one round; return a report and the optimiser's memory afterwards.

    `rule` is what the algorithm does besides; what it gives is in it afterwards. `memory` is what an earlier round
    returned, or None for a fresh optimiser. On the CPU the result depends only on the arguments and the number of
    threads. Without `record` a GPU needs less memory and more time; a batch in `parts` needs still less memory, and is
    not quite the same step. See `Gradients`.

    Raises:
        OutOfMemoryError: the device cannot hold one batch.
        RoundOverError: `is_over`, asked before every step, said so.
    """
    training, federation = experiment.training, experiment.federation
    device = next(network.parameters()).device
    set_weights(network, start)
    network.train()
    optimiser = _build_optimiser(network, training)
    _restore(optimiser, network, memory or {})

    in_pass = steps_in_pass(len(cases), training.batch_size)
    passes = federation.local_epochs + rule.extra_passes
    steps = passes * in_pass
    rates = rates_of_round(training, federation.rounds, context.round_number, steps)
    gradients = _gradients_of(network, rule, experiment, parts=parts)
    if record and not experiment.model.dropout:  # which would draw from other states of the generator
        gradients.allow_recording(steps, min(training.batch_size, len(cases)))
    parameters = list(network.parameters())  # once: a walk through the modules takes as long as a patch
    losses, waiting_s, began = [], 0.0, time.perf_counter()
    with (
        device_guard(device, training),
        _seeded_dropout(experiment, context, device),
        _followed(rule, network),
        closing(gradients),
        closing(_batches(cases, experiment, context, passes, device)) as patches,
    ):
        for step in range(steps):
            if is_over():
                raise RoundOverError(context.site, context.round_number)
            if step % in_pass == 0:
                rule.begin_pass(step // in_pass)
            asked = time.perf_counter()
            batch = next(patches)
            unknown = mark_unknown(batch.not_annotated, experiment.task.n_classes)  # (b, k)
            waiting_s += time.perf_counter() - asked
            for group in optimiser.param_groups:
                group["lr"] = rates[step]
            losses.append(gradients.replace(batch, unknown))
            rule.adjust_gradients(network)
            if training.gradient_clip_norm:
                nn.utils.clip_grad_norm_(parameters, training.gradient_clip_norm)
            optimiser.step()
        mean_loss = float(torch.stack(losses).mean())  # an accelerator has done all its steps then
        training_s = time.perf_counter() - began - waiting_s
    rule.end(network, rates, training.momentum)
    report = TrainingReport(
        n_cases=len(cases), n_steps=steps, loss=mean_loss, training_s=training_s, waiting_s=waiting_s
    )
    return report, _memory_of(optimiser, network)


@contextmanager
def _followed(rule: LocalRule, network: nn.Module) -> Iterator[None]:
    """The rule from its beginning to when it leaves the network, however the steps end."""
    try:
        rule.begin(network)
        yield
    finally:
        rule.leave(network)


def _gradients_of(network: nn.Module, rule: LocalRule, experiment: Experiment, *, parts: int) -> Gradients:
    training, device = experiment.training, next(network.parameters()).device
    loss_of = build_loss(training.loss, experiment.task.n_classes)
    return Gradients(network, loss_of, rule, parts=parts, in_bf16=_wants_bf16(training, device))


def _batches(
    cases: Sequence[PreprocessedCase],
    experiment: Experiment,
    context: RoundContext,
    passes: int,
    device: torch.device,
) -> Generator[Batch]:
    """The patches of a round, prepared beside the steps where a CPU has a core for it; a GPU works beside us anyway.

    Where the steps have all cores, a thread more would make them wait for each other: 0.7 of the samples a second.
    """
    drawn = batches(
        cases,
        experiment.training,
        seed=experiment.federation.seed,
        site=context.site,
        round_number=context.round_number,
        passes=passes,
        optional=experiment.task.optional_channels,
        device=device,
    )
    has_core_left = device.type == "cpu" and torch.get_num_threads() < usable_cores()
    return one_ahead(drawn) if has_core_left else drawn


def rates_of_round(training: Training, rounds: int, round_number: int, n_steps: int) -> list[float]:
    """The learning rate of each step of a round."""
    return [
        learning_rate_at((round_number - 1 + step / n_steps) / rounds, training) for step in range(n_steps)
    ]


def learning_rate_at(progress: float, training: Training) -> float:
    """Learning rate at a point of the whole run, 0 to 1; never restarted by a round.

    Source: poly as in Isensee et al. 2021 (exponent 0.9); cosine as in Loshchilov & Hutter 2017, without restarts.
    """
    match training.schedule:
        case "poly":
            return float(training.learning_rate * (1 - progress) ** 0.9)
        case "cosine":
            return training.learning_rate * 0.5 * (1 + float(np.cos(np.pi * progress)))
        case "constant":
            return training.learning_rate


def _build_optimiser(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser that the experiment names, fresh."""
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    match training.optimiser:
        case "adamw":
            return torch.optim.AdamW(
                network.parameters(),
                lr=training.learning_rate,
                weight_decay=training.weight_decay,
                fused=fused,
            )
        case "sgd":
            return torch.optim.SGD(
                network.parameters(),
                lr=training.learning_rate,
                momentum=training.momentum,
                nesterov=training.momentum > 0,  # nnU-Net
                weight_decay=training.weight_decay,
                fused=fused,
            )


def _memory_of(optimiser: torch.optim.Optimizer, network: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The optimiser's state as named arrays, `parameter/slot`."""
    memory = {}
    for name, parameter in network.named_parameters():
        for slot, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                memory[f"{name}/{slot}"] = to_array(value)
    return memory


def _restore(optimiser: torch.optim.Optimizer, network: nn.Module, memory: Weights) -> None:
    """Put `memory` back into a fresh optimiser."""
    parameters = dict(network.named_parameters())
    for key, value in memory.items():
        name, slot = key.rsplit("/", 1)
        parameter = parameters[name]
        if slot == "step":
            device = parameter.device if parameter.device.type == "cuda" else "cpu"
            optimiser.state[parameter][slot] = torch.tensor(value, device=device)
        else:  # laid out as the parameter is: a fused optimiser reads both in the order of memory
            optimiser.state[parameter][slot] = torch.empty_like(parameter).copy_(torch.tensor(value))


def _wants_bf16(training: Training, device: torch.device) -> bool:
    """Whether to compute in bfloat16: asked for, or `auto` on a CUDA device that has it."""
    if training.mixed_precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return training.mixed_precision == "bf16"


@contextmanager
def device_guard(device: torch.device, training: Training) -> Iterator[None]:
    """Turn out-of-memory errors of torch and NumPy into a sentence. Raises OutOfMemoryError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise OutOfMemoryError(str(device), training.batch_size, training.patch_size) from None
    except RuntimeError as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise OutOfMemoryError(str(device), training.batch_size, training.patch_size) from None
        raise


def _seeded_dropout(
    experiment: Experiment, context: RoundContext, device: torch.device
) -> AbstractContextManager[None]:
    """Dropout draws from torch's global generator: seeded for this round, and put back afterwards."""
    if not experiment.model.dropout:
        return nullcontext()
    seed = derive_seed(
        experiment.federation.seed, site=context.site, round_number=context.round_number, purpose="dropout"
    )
    return seeded_generator(seed, device)
