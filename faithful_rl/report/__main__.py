"""`python -m faithful_rl.report run=DIR [run=DIR ...] out=report.html [markdown=table.md] [figure=front.png]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from faithful_rl.report import build, comparison, front

USAGE = __doc__.strip("`.\n") if __doc__ else ""
KEYS = ("run", "out", "markdown", "figure")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and for several runs the Markdown tables and the picture when asked; returns the exit code."""
    given: dict[str, list[Path]] = {key: [] for key in KEYS}
    for argument in sys.argv[1:] if argv is None else argv:
        key, _, value = argument.partition("=")
        if key not in KEYS or not value:
            sys.stderr.write(f"error: {argument!r} is not one of {', '.join(f'{name}=...' for name in KEYS)}\nusage: {USAGE}\n")
            return 2
        given[key].append(Path(value))
    if not given["run"] or len(given["out"]) != 1:
        sys.stderr.write(f"error: at least one run=DIR and exactly one out=FILE are needed\nusage: {USAGE}\n")
        return 2
    try:
        page = build(given["run"], given["out"][0])
        if given["markdown"] or given["figure"]:
            found = comparison.compare(given["run"])
            for path in given["markdown"]:
                path.write_text(comparison.markdown(found), encoding="utf-8")
            for path in given["figure"]:
                front.save(front.draw(found, given["run"]), path)
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"Report: {page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
