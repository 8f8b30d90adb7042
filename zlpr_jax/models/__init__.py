"""Models: one file each, configuration and module. Needs the extra `nn`."""
