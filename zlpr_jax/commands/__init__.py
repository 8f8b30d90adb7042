"""Commands on a run folder. Extra `train`."""
