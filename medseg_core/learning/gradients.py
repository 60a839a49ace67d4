"""Gradients of a batch: computed as written, or on a CUDA device recorded once and replayed."""

from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg_core.cohort.patches import Batch
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.losses import Loss, Unknown

WORTH_RECORDING = 20  # steps; recording takes the time of about six
WARMING = 3  # steps before a recording, in which libraries choose kernels and workspaces

_ONE_RECORDING = Lock()  # of sites that train in threads of one process


class Gradients:
    """Puts the gradients of a batch's loss into `network`, which may not change but for its tensors' values.

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
        self._may_record = False

    def record(self, steps: int) -> None:
        """Record the first batch of so many of its size, where that is worth it and such a step is always the same.

        The steps of a small network are hundreds of kernels, which a CPU starts one by one while the GPU waits.
        Replayed, the same kernels run on the same memory: equal bits.
        """
        on_cuda = next(self._network.parameters()).device.type == "cuda"
        adds_nothing = type(self._rule).extra_loss is LocalRule.extra_loss
        self._may_record = on_cuda and steps >= WORTH_RECORDING and self._parts == 1 and adds_nothing

    def of(self, batch: Batch, unknown: Unknown) -> Float[Tensor, ""]:
        """Replace the network's gradients; return the loss, without what the rule adds."""
        if unknown.any():
            return self._compute(batch, unknown)
        if self._may_record:
            self._may_record = False
            self._recording = self._recorded(batch, unknown)
        if self._recording and self._recording.fits(batch):
            return self._recording.replay(batch)
        return self._compute(batch, unknown)

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

    def _recorded(self, batch: Batch, unknown: Unknown) -> "_Recording | None":
        """A recording; None where this network cannot be recorded, or the device has no memory for that."""
        static = Batch(batch.images.clone(), batch.labels.clone(), batch.not_annotated)
        kept = [buffer.clone() for buffer in self._network.buffers()]
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(batch.images.device)  # type: ignore[no-untyped-call]
        with _ONE_RECORDING, torch.cuda.device(batch.images.device):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARMING):
                    self._compute(static, unknown)
            torch.cuda.current_stream().wait_stream(aside)
            self._network.zero_grad(set_to_none=True)
            try:
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                    loss = self._compute(static, unknown)
            except RuntimeError:  # torch's out-of-memory errors, too
                torch.cuda.empty_cache()
                return None
            finally:
                for buffer, before in zip(self._network.buffers(), kept, strict=True):
                    buffer.copy_(before)
        return _Recording(graph, static, loss, self._network)


class _Recording:
    """A step on memory of its own."""

    def __init__(self, graph: torch.cuda.CUDAGraph, batch: Batch, loss: Tensor, network: nn.Module) -> None:
        self._graph, self._batch, self._loss = graph, batch, loss
        self._gradients = [(parameter, parameter.grad) for parameter in network.parameters()]

    def fits(self, batch: Batch) -> bool:
        return batch.images.shape == self._batch.images.shape

    def replay(self, batch: Batch) -> Tensor:
        self._batch.images.copy_(batch.images)
        self._batch.labels.copy_(batch.labels)
        self._graph.replay()
        for parameter, gradient in self._gradients:  # another batch may have put others in their place
            parameter.grad = gradient
        return self._loss.clone()
