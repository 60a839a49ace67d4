"""The library of medseg: images and a task in, a trained segmentation network and its scores out.

It knows no processes, no network and no Flower; `medseg_server`, `medseg_client` and `medseg_simulation` build on it.
"""

__version__ = "0.1.0"
