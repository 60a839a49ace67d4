"""Virtual sites that misbehave, as [simulation.faults] says. It lives in the simulation alone: no real site can do it.

In: the sites' data, and trainers that are the real ones. Out: the same with what some of the sites do wrong, always
the same for an experiment, a site and a round. The egress guard, the envelopes and the round loop are the real ones.
"""
