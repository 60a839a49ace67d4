"""The commands of `medseg-simulate`, one file each."""
