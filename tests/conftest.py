"""All tests run as a CPU run does: the platform is chosen before anything imports verl, whichever test is collected first."""

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")
