"""All tests run as a CPU run does: the platform is chosen before anything imports verl, whichever test is collected first.
The folder of the data sets' fixtures is importable."""

import os
import sys
from pathlib import Path

os.environ.setdefault("VERL_PLATFORM", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent / "data_fixtures"))
