"""A page on this machine for looking at cases: image, truth and prediction, slice by slice, with scores.

Data in: a cohort, and a folder of predictions or a model. Data out: HTTP on loopback, to whoever holds the address;
nothing is written, and nothing leaves.
"""
