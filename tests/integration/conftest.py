"""The folder of the integration tests is importable: their harness runs in processes of its own as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
