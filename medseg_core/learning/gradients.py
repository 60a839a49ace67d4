"""Gradients of a batch: computed step by step, or on a CUDA device recorded once and replayed."""

import logging
from collections.abc import Callable
from threading import Lock
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg_core.cohort.patches import Batch
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.losses import Loss, Unknown

log = logging.getLogger(__name__)

WORTH_RECORDING = 20  # steps; recording takes the time of about six
WARMING = 3  # steps before a recording, in which libraries choose kernels and workspaces

_ONE_AT_A_TIME = Lock()  # recordings of sites that train in threads of one process
_NOT_RECORDABLE = WeakSet[nn.Module]()


class Gradients:
    """Puts the gradients of a batch's loss into `network`, of which nothing may change but the values of its tensors.

    A batch goes through the network in `parts`, one after the other, whose gradients add up: less memory, and not quite
    the same step. The loss is the mean of those of the parts, by samples. That is the batch's where each part holds as
    much of each class, in truth and as predicted; else not, for a loss counts overlaps, and annotated voxels, over all
    that it is given at once. Batch normalisation, too, takes its statistics of each part alone.
    """

    def __init__(
        self, network: nn.Module, loss_of: Loss, rule: LocalRule, *, parts: int, in_bf16: bool
    ) -> None:
        self._network, self._loss_of, self._rule = network, loss_of, rule
        self._parts, self._in_bf16 = parts, in_bf16
        self._recording: _Recording | None = None
        self._to_record = 0  # samples of the batch that is to be recorded; 0: none

    def allow_recording(self, steps: int, batch_size: int) -> None:
        """`steps` are to come, most of them of `batch_size` samples: record one and replay it, if that is worth it.

        A step of a small network is hundreds of kernels, which a CPU starts one by one while the GPU waits. Replayed,
        the same kernels run on the same memory. Only a step that is the same each time can be: not that of a rule which
        adds to the loss, or of partial labels.
        """
        on_cuda = next(self._network.parameters()).device.type == "cuda"
        is_alike = self._parts == 1 and not self._rule.adds_to_loss and self._network not in _NOT_RECORDABLE
        if on_cuda and is_alike and steps >= WORTH_RECORDING:
            self._to_record = batch_size

    def replace(self, batch: Batch, unknown: Unknown) -> Float[Tensor, ""]:
        """Gradients of this batch instead of those that are there; returns its loss, without what the rule adds."""
        if unknown.any():
            return self._compute(batch, unknown)
        if len(batch.images) == self._to_record:
            self._to_record = 0
            self._recording = self._record(batch, unknown)
        if self._recording and self._recording.fits(batch):
            return self._recording.replay(batch)
        return self._compute(batch, unknown)

    def close(self) -> None:
        """Free the memory of gradients and recording."""
        self._recording = None
        self._network.zero_grad(set_to_none=True)

    def _compute(self, batch: Batch, unknown: Unknown) -> Tensor:
        self._network.zero_grad(set_to_none=True)
        losses, images = [], batch.images  # (b, c, *s)
        in_parts = (each.chunk(self._parts) for each in (images, batch.labels, unknown))
        for image, label, hidden in zip(*in_parts, strict=True):
            share = len(image) / len(images)
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self._in_bf16):
                loss = self._loss_of(self._network(image), label, hidden) * share  # logits (b, k, *s)
                extra = self._rule.extra_loss(self._network, image)
            whole = loss if extra is None else loss + extra * share
            whole.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _record(self, batch: Batch, unknown: Unknown) -> "_Recording | None":
        """A recording; None where this network cannot be recorded, or the device has no memory for that."""
        kept = [buffer.clone() for buffer in self._network.buffers()]
        with _ONE_AT_A_TIME, torch.cuda.device(batch.images.device):
            usual = torch.cuda.current_stream()
            try:
                return self._recorded_beside(batch, unknown)
            except RuntimeError as error:  # torch's out-of-memory errors, too
                log.info("The steps of this network are not recorded: %s", error)
                _NOT_RECORDABLE.add(self._network)
            finally:
                torch.cuda.set_stream(usual)  # which a recording that failed may not have gone back to
                for buffer, before in zip(self._network.buffers(), kept, strict=True):
                    buffer.copy_(before)
        self._network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return None

    def _recorded_beside(self, batch: Batch, unknown: Unknown) -> "_Recording":
        """On a stream of its own, after a few steps that change buffers."""
        graph = torch.cuda.CUDAGraph()
        usual, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        static = Batch(batch.images.clone(), batch.labels.clone(), batch.not_annotated)
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            for _ in range(WARMING):
                self._compute(static, unknown)
        usual.wait_stream(aside)
        self._network.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            loss = self._compute(static, unknown)
        return _Recording(graph.replay, static, loss, self._network)


class _Recording:
    """A step on memory of its own."""

    def __init__(self, work: Callable[[], None], batch: Batch, loss: Tensor, network: nn.Module) -> None:
        self._work, self._batch, self._loss = work, batch, loss
        self._gradients = [(parameter, parameter.grad) for parameter in network.parameters()]

    def fits(self, batch: Batch) -> bool:
        return batch.images.shape == self._batch.images.shape

    def replay(self, batch: Batch) -> Tensor:
        self._batch.images.copy_(batch.images)
        self._batch.labels.copy_(batch.labels)
        self._work()
        for parameter, gradient in self._gradients:  # another batch may have put others in their place
            parameter.grad = gradient
        return self._loss.clone()
