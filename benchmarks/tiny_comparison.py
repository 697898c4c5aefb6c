"""The comparison that the README shows: `faithful_rl.compare` on the tiny recipes.

python -m benchmarks.tiny_comparison [--seeds 0 1 2] [--recipes grpo_tiny fgrpo_fixed_tiny fgrpo_tiny] [--out outputs/tiny_comparison]
                                     [--jobs 1] [--figure docs/figures/tiny_comparison.png] [--only-report] [key=value ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from faithful_rl import compare
from faithful_rl.compare import run_dir_of

__all__ = ["main", "run_dir_of"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(compare.DEFAULT_RECIPES))
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny_comparison"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; two tiny ones took 18 GiB")
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--only-report", action="store_true", help="train nothing; put what has finished beside each other")
    words = list(sys.argv[1:] if argv is None else argv)
    settings = [word for word in words if "=" in word and not word.startswith("-")]  # wherever they stand, a list of recipes before them
    arguments, wrong = parser.parse_known_args([word for word in words if word not in settings])
    if wrong:
        parser.error(f"unknown argument {wrong[0]!r}; further settings are key=value, as for faithful_rl.main")
    plan = [
        f"recipes=[{','.join(arguments.recipes)}]",
        f"seeds=[{','.join(map(str, arguments.seeds))}]",
        f"out={arguments.out}",
        f"jobs={arguments.jobs}",
        *([f"figure={arguments.figure}"] if arguments.figure else []),
        *settings,
    ]
    return compare.main([*(["--only-report"] if arguments.only_report else []), *plan])


if __name__ == "__main__":
    sys.exit(main())
