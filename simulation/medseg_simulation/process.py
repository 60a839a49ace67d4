"""What this process cost so far, on any operating system."""

import sys

import psutil


def process_started() -> float:
    """When this process started, in seconds since the epoch."""
    return float(psutil.Process().create_time())


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024)) / 1e6
