"""Settings for all tests. This folder is on the import path for its sake: `builders` serves tests everywhere."""

from hypothesis import settings

settings.register_profile("medseg", deadline=None)  # a deadline measures how busy the machine is
settings.load_profile("medseg")
