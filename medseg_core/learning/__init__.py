"""Networks and how they learn.

Data in: preprocessed cases and weights. Data out: trained weights, probabilities, label maps.
"""
