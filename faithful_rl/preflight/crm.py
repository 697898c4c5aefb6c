"""Before a consistency model is trained: its pairs and the packages that it takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from faithful_rl.config import ConfigError, FaithfulRLConfig


def check(typed: FaithfulRLConfig) -> None:
    """Nothing for other methods.

    Raises:
        ConfigError: a file of pairs, or a package, is missing.
    """
    if typed.method != "crm":
        return
    for name in typed.crm.pairs:
        if not Path(name).expanduser().is_file():
            raise ConfigError(
                "faithful_rl.crm.pairs",
                f"{name}, which does not exist",
                "parquet files of pairs",
                "Make it: `python -m faithful_rl.crm pairs`.",
            )
    for package in ("torch", "transformers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError("faithful_rl.method", f"crm without the package {package}", "torch, transformers and accelerate",
                              "Install them: pip install 'faithful_rl[crm]'.")  # fmt: skip
