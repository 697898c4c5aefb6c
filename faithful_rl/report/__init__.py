"""One self-contained HTML page about one run or several: table, curves, multipliers, coloured rollouts, where it all came from."""

from faithful_rl.report.build import build

__all__ = ["build"]
