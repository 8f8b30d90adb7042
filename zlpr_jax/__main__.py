"""`python -m zlpr_jax` is the command `zlpr-jax`."""

import sys

from zlpr_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
