"""The folder of the report's tests is importable: they share the synthetic run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
