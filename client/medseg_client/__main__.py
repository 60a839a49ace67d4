"""`python -m medseg_client`: the same as `medseg-site`."""

from medseg_client.cli import main

if __name__ == "__main__":
    main()
