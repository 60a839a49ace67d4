"""Settings for all tests. This folder is on the import path for its sake: `builders` serves tests everywhere."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors, several test processes: threads would only wait

from hypothesis import settings

settings.register_profile("medseg", deadline=None)  # a deadline measures how busy the machine is
settings.load_profile("medseg")
