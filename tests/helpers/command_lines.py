"""Several command lines of physteer in one process, in turn: python -m helpers.command_lines fit … then test …

The processes that Lightning starts for the first command run the others too, so that libraries are imported once.
"""

import itertools
import sys

from physteer.cli import main

if __name__ == "__main__":
    for is_separator, words in itertools.groupby(sys.argv[1:], lambda word: word == "then"):
        if not is_separator and (status := main(list(words))):
            sys.exit(status)
