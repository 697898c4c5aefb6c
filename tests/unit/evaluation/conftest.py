"""The folder of these tests is importable: they share the crafted set."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
