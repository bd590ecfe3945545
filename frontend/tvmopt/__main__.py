"""`python -m tvmopt` is `tvmopt`."""

import sys

from tvmopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
