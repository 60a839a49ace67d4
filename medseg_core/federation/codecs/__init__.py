"""Codecs: how the parameters of an update are written for the wire, one file each; `base.py` holds their contract."""

from medseg_core.config import Experiment
from medseg_core.federation.codecs.base import Codec
from medseg_core.federation.codecs.halves import BFloat16, Float16
from medseg_core.federation.codecs.int8 import Int8
from medseg_core.federation.codecs.ternary import Ternary
from medseg_core.federation.codecs.topk import TopK


def build_codec(experiment: Experiment) -> Codec | None:
    """The codec that `[codec]` names; None for float32, which is written as it is."""
    match experiment.codec.name:
        case "fp32":
            return None
        case "fp16":
            return Float16()
        case "bf16":
            return BFloat16()
        case "int8":
            return Int8()
        case "ternary":
            return Ternary()
        case "topk":
            return TopK(experiment.codec.kept)


__all__ = ["Codec", "build_codec"]
