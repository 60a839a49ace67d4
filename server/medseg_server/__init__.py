"""The coordinator's side. In: an experiment and a transport to the sites. Out: a run folder with the global model."""
