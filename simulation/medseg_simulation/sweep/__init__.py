"""A grid of simulations: algorithms x settings x seeds over one experiment, and what to conclude from it.

In: a sweep file and one data set. Out: a folder with a run folder for each cell, `sweep.json` and `sweep.html`.
"""
