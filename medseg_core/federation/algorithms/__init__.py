"""Aggregation algorithms: client updates in, the next global model out. One contract, one small file each."""

from medseg_core.federation.algorithms.build import build_algorithm

__all__ = ["build_algorithm"]
