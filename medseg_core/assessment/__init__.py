"""How good a model is, for whom, and what that rests on.

In: predictions and truths, or the files of a run folder. Out: scores of cases, the score blocks of
`summary.json`, and `report.html`. Scores never go back into training.
"""
