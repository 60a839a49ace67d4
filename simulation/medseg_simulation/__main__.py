"""`python -m medseg_simulation`: the same as `medseg-simulate`."""

from medseg_simulation.cli import main

if __name__ == "__main__":
    main()
