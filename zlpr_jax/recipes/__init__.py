"""Experiments: one file each, a configuration and `run(config)`. Extra `train`."""
