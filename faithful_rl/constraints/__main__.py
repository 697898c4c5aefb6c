"""`python -m faithful_rl.constraints simulate`: see `faithful_rl.simulation.command`."""

import sys

from faithful_rl.simulation.command import main

if __name__ == "__main__":
    sys.exit(main())
