"""Text and tables of evaluations as Markdown, for papers: everything that the page shows, in the same words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from faithful_rl.evaluation.comparison import ALPHA, by_which_test
from faithful_rl.report.breakdowns import breakdowns, combined, notes
from faithful_rl.report.cells import ARROWS, escaped
from faithful_rl.report.evaluation_tables import Cell, Table, headline, tables
from faithful_rl.report.evaluations import Evaluations, power, spoken, warnings

BRACKETS = "95% intervals in square brackets. In round brackets on how many questions a figure is, where it is not on all."
BELOW = "95% intervals below each number, and on how many questions it is, where it is not on all."


def markdown(found: Evaluations) -> str:
    """Headline, what is partial, the tables with arrows where a test finds a difference to the baseline, what could not have been found,
    then each benchmark's cells and conventions, and what the evaluations remark."""
    lines = [escaped(sentence) for sentence in headline(found)]
    lines = [line for sentence in lines for line in (sentence, "")]
    lines += _list("Partial, or not the pinned set", warnings(found))
    together = combined(found)
    for table in (*tables(found), *([together] if together else [])):
        lines += _table(table)
    lines += [escaped(legend(found)), ""]
    lines += _list("Not measured alike", found.cautions) + _list("Not tested", found.untested) + _list("What could be seen", power(found))
    for part in breakdowns(found):
        shown = [table for table in part.tables if "by task type" not in table.title]
        if not shown and not part.remarks:
            continue
        lines += [f"### {escaped(spoken(part.benchmark))}: {escaped(part.asked)}", ""]
        for table in shown:
            lines += _table(table)
        lines += [f"- {escaped(remark)}" for remark in part.remarks] + ([""] if part.remarks else [])
    lines += _list("Remarks of the evaluations", [f"{spoken(name)}: {text}" for name, text in notes(found)])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def legend(found: Evaluations, told: str = BRACKETS) -> str:
    """What arrows mean, by which tests, and where intervals and numbers of questions stand (`told`)."""
    used = by_which_test(entry for tests in found.tests.values() for entry in tests.values())
    if not used:
        return told
    return f"▲ better and ▼ worse than {found.baseline} on the same questions at level {ALPHA:g}: {used}. {told}"


def _list(title: str, texts: Sequence[str]) -> list[str]:
    return [f"**{title}**", "", *(f"- {escaped(text)}" for text in texts), ""] if texts else []


def _table(table: Table) -> list[str]:
    columns = [escaped(spoken(column) if " " not in column else column) for column in table.columns]
    lines = [f"**{escaped(table.title)}**", "", f"| method | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {escaped(method)} | {' | '.join(map(_text, cells))} |" for method, _, cells in table.rows]
    return [*lines, ""]


def _text(cell: Cell) -> str:
    interval = (
        f" [{cell.interval}]" if cell.interval and not cell.interval.endswith("%") else f" ({cell.interval})" if cell.interval else ""
    )
    return escaped(f"{cell.value}{interval}{ARROWS[cell.mark]}{f' ({cell.coverage})' if cell.coverage else ''}")
