"""Virtual hospitals on one machine.

Data in: a data set and an experiment. Data out: a run folder that says whether federation pays.
"""
