"""The dashboard asks for metrics that exist: names as Ray's endpoint gives them, labels that the metrics carry."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from faithful_rl.judge_pool import metrics as judge_metrics
from faithful_rl.verl_plugin import prometheus

DASHBOARD = Path(__file__).resolve().parents[2] / "cluster" / "grafana" / "faithful_rl.json"


def exported_by_judges(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """Name as Prometheus sees it -> tags, of everything that a replica exports; nothing of Ray is started."""
    found: dict[str, tuple[str, ...]] = {}

    def fake(suffixes: tuple[str, ...]) -> Any:
        class Metric:
            def __init__(self, name: str, description: str, tag_keys: tuple[str, ...], boundaries: Any = None) -> None:
                found.update({f"ray_{name}{suffix}": tuple(tag_keys) for suffix in suffixes})

            def set_default_tags(self, tags: dict[str, str]) -> None: ...

        return Metric

    monkeypatch.setattr("ray.util.metrics.Counter", fake(("_total",)))  # Ray puts it behind every counter
    monkeypatch.setattr("ray.util.metrics.Gauge", fake(("",)))
    monkeypatch.setattr("ray.util.metrics.Histogram", fake(("_bucket", "_sum", "_count")))
    judge_metrics.Tally("pool", "grounding", "0", export=True)
    return found


def queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return texts + [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def test_every_name_of_the_dashboard_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    known = set(exported_by_judges(monkeypatch)) | set(prometheus.gauge_names())
    asked = {name for text in queries() for name in re.findall(r"\bray_\w+", text)}
    assert asked - known == set()
    assert set(prometheus.gauge_names()) - asked == set()  # what training exports is all drawn
    for word in ("multiplier", "violation", "coverage", "latency_seconds_bucket", "model_calls_total", "prompt_tokens_total"):
        assert any(name.endswith(word) for name in asked), word


def test_every_label_of_the_dashboard_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = exported_by_judges(monkeypatch)
    for text in queries():
        names = re.findall(r"\bray_\w+", text)
        labels = {*re.findall(r"(\w+)=~", text)} | {
            one.strip() for group in re.findall(r"by \(([^)]*)\)", text) for one in group.split(",")
        }
        for name in names:
            carried = {*tags.get(name, ("run", "constraint")), "le"}
            assert labels <= carried, (text, labels - carried)


def test_the_dashboard_can_be_loaded() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    assert board["uid"] == "faithful-rl"
    assert {one["name"] for one in board["templating"]["list"]} == {"datasource", "run", "pool"}
    for panel in board["panels"]:
        assert panel["type"] in ("row", "timeseries")
        if panel["type"] == "timeseries":
            assert panel["description"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
