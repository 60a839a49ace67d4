"""From a list of cases to patches.

Data in: a manifest and the task. Data out: checked, preprocessed, cached cases, split by patient, and training patches.
"""
