"""``python -m physteer``."""

import sys

from physteer.cli import main

if __name__ == "__main__":
    sys.exit(main())
