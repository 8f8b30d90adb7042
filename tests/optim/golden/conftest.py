"""The script needs torch, which the tests do without."""

collect_ignore = ["make_golden.py"]
