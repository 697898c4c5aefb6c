"""A pool as a table for people and as plain data for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from faithful_rl.judge_pool.messages import Health, State
from faithful_rl.judge_pool.pool import PoolStatus
from faithful_rl.judge_pool.settings import split_replica_name

COLOURS = {State.READY: "green", State.STARTING: "yellow", State.DRAINING: "yellow", State.FAILED: "red", State.UNREACHABLE: "red"}
MILLISECONDS = 1000.0
HEADINGS = ("up", "now", "asked", "unscored", "busy", "cached", "ms")
LEGEND = "now: running + queued; busy: turned away for a while; cached: verdicts from the cache; ms: median / 99th percentile of a reply"


def table(found: PoolStatus) -> Table:
    """One row per replica; counters are those since its process started."""
    view = Table(title=escape(_title(found)), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    view.add_column("replica", no_wrap=True)
    view.add_column("state", no_wrap=True)
    for heading in HEADINGS:
        view.add_column(heading, justify="right")
    for one in found.replicas:
        view.add_row(escape(_short(one.name)), f"[{COLOURS[one.state]}]{one.state}[/]", *map(escape, _numbers(one)))
    notes = [*_versions(found.replicas), *_notes(found.replicas), *_waiting(found.replicas), LEGEND]
    view.caption, view.caption_justify = escape("\n".join(notes)), "left"
    return view


def plain(found: PoolStatus) -> dict[str, Any]:
    """The same as JSON-ready data, with the settings."""
    description = found.description
    return {
        "name": found.name,
        "serving": bool(description and description.serving),
        "started_at": description.started_at if description else None,
        "settings": description.settings if description else None,
        "replicas": [{**asdict(one), "state": str(one.state)} for one in found.replicas],
    }


def _title(found: PoolStatus) -> str:
    description = found.description
    if description is None:
        return f"pool {found.name}: its registry does not answer"
    backends = ", ".join(f"{judge} by {description.settings[judge]['backend']}" for judge in description.replicas)
    how = "serving" if description.serving else "being stopped, was serving"
    return f"pool {found.name}: {backends}; {how} since {description.started_at}"


def _short(name: str) -> str:
    parts = split_replica_name(name)
    return name if parts is None else f"{parts[1]}-{parts[2]}"


def _numbers(one: Health) -> list[str]:
    counts: Mapping[str, Any] = one.counts
    if not counts:
        return ["–"] * len(HEADINGS)
    latency = f"{MILLISECONDS * counts['latency_p50']:.0f}/{MILLISECONDS * counts['latency_p99']:.0f}"
    numbers = [counts["requests"], sum(counts["unscored"].values()), counts["refused"], counts["cache_hits"]]
    return [_duration(one.up_seconds), f"{one.running}+{one.queued}", *(f"{number:,}" for number in numbers), latency]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _versions(replicas: Sequence[Health]) -> list[str]:
    """Judge by judge; more than one version of a judge means that its replicas do not run the same code or model."""
    found: dict[str, set[str]] = {}
    for one in replicas:
        parts = split_replica_name(one.name)
        if parts is not None and one.version:
            found.setdefault(parts[1], set()).add(one.version)
    return ["version of " + ", ".join(f"{judge} {' and '.join(sorted(versions))}" for judge, versions in found.items())] if found else []


def _notes(replicas: Sequence[Health]) -> list[str]:
    told = [f"{_short(one.name)}: {one.message}" for one in replicas if one.message]
    for one in replicas:
        for what in ("verdicts", "unscored"):
            counted = one.counts.get(what, {})
            if counted:
                told.append(f"{_short(one.name)} {what}: " + ", ".join(f"{name} {number:,}" for name, number in sorted(counted.items())))
        sizes = {name: (ended, failed) for name, (ended, failed) in one.counts.get("by_size", {}).items() if failed}
        for name, (ended, failed) in sizes.items():
            told.append(f"{_short(one.name)} failed on {failed:,} of {ended:,} rollouts with {name}")
    return told


def _waiting(replicas: Sequence[Health]) -> list[str]:
    by_client: dict[str, int] = {}
    for one in replicas:
        for client, number in one.waiting.items():
            by_client[client] = by_client.get(client, 0) + number
    return ["waiting: " + ", ".join(f"{client} {number}" for client, number in sorted(by_client.items()))] if by_client else []
