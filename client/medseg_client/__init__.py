"""One hospital's side.

Data in: signed requests and the site's own images. Data out: signed replies that passed the egress guard.
"""
