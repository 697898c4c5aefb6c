"""The folder of the contract tests is importable: several of them read the manifests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
