"""``python -m tests.torture``: the series of kills; exits 1 where a run came to anything else."""

import sys

from tests.torture.kills import main

if __name__ == "__main__":
    sys.exit(main())
