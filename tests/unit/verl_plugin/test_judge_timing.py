"""Judge time that generation does not hide, what judges were asked, and the gauges for Prometheus."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl")

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.messages import Description, Health, State
from faithful_rl.judge_pool.pool import PoolStatus
from faithful_rl.metrics import JUDGE_EXPOSED, JUDGE_SECONDS
from faithful_rl.run_directory import read_json
from faithful_rl.verl_plugin import judge_timing, judge_usage, prometheus, rollout_dump


def test_exposed_judge_time_by_hand() -> None:
    # texts at 10, 11 and 12 s; rewards at 13, 11.5 and 14 s: after 12 s nothing is generated any more, 2 s are waited
    fields: list[dict[str, Any]] = [{judge_timing.TIMES_KEY: pair} for pair in ((10.0, 13.0), (11.0, 11.5), (12.0, 14.0))]
    assert judge_timing.step_metrics(fields) == {JUDGE_EXPOSED: 2.0, JUDGE_SECONDS: 5.5}
    assert judge_timing.step_metrics([*fields, {}]) == judge_timing.step_metrics(fields)
    assert judge_timing.step_metrics([{}, {"other": 1}]) == {}


class Gauge:
    """Remembers what was set."""

    def __init__(self, name: str, description: str, tags: tuple[str, ...]) -> None:
        self.name, self.tags = name, tags
        self.values: dict[tuple[str, ...], float] = {}
        every.append(self)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tags)
        self.values[tuple(tags.values())] = value


every: list[Gauge] = []


def test_gauges_take_a_steps_metrics() -> None:
    every.clear()
    exporter = prometheus.Exporter("run-1", Gauge)
    exporter.publish({"constraint/consistency/multiplier": 1.5, "train/accuracy": 0.75, "timing_s/step": float("nan")})
    values = {gauge.name: gauge.values for gauge in every if gauge.values}
    assert values == {"faithful_rl_multiplier": {("run-1", "consistency"): 1.5}, "faithful_rl_accuracy": {("run-1",): 0.75}}
    assert {f"ray_{gauge.name}" for gauge in every} == set(prometheus.gauge_names())


def test_nothing_is_exported_outside_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert prometheus.exporter("run") is None


def health(name: str, calls: int, p99: float) -> Health:
    return Health(name, State.READY, counts={"requests": 2 * calls, "calls": calls, "prompt_tokens": 10 * calls, "unscored": {"judge_timeout": 1}, "by_size": {"images none, text <= 1,000": [calls, 1]}, "latency_p99": p99})  # fmt: skip


def test_what_judges_were_asked_is_kept_for_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = Description({}, {"consistency": ["c0", "c1"], "grounding": ["g0"]}, True, "")
    status = PoolStatus("p", description, [health("c0", 1, 0.5), health("c1", 2, 0.25), health("g0", 4, 1.0)])
    monkeypatch.setattr(judge_usage.pool, "status", lambda name: status)
    judge_usage.keep(tmp_path, "p", shared=False)
    judge_usage.keep(tmp_path, "p", shared=False)
    kept = read_json(tmp_path / "judges.json")
    assert len(kept["starts"]) == 2
    consistency = kept["starts"][0]["judges"]["consistency"]
    assert (consistency["requests"], consistency["calls"], consistency["prompt_tokens"]) == (6, 3, 30)
    assert (consistency["unscored"], consistency["latency_p99"]) == ({"judge_timeout": 2}, 0.5)
    assert consistency["by_size"] == {"images none, text <= 1,000": [3, 2]}
    assert kept["starts"][0]["judges"]["grounding"]["calls"] == 4


def test_a_pool_that_is_gone_is_no_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> PoolStatus:
        raise ConfigError("name", name, "a pool", "Start it.")

    monkeypatch.setattr(judge_usage.pool, "status", gone)
    judge_usage.keep(tmp_path, "p", shared=True)
    assert not (tmp_path / "judges.json").exists()


def test_a_record_says_in_which_frame_the_policy_writes_boxes() -> None:
    extra: dict[str, Any] = {"img_wh": [np.array([100, 50])], "min_pixels": 784, "max_pixels": 1_000_000, "box_image_idx": np.array([0])}
    one = rollout_dump.record(
        step=1, split="train", decoding=None, group="g", response="", fields={"extra_info": extra}, columns={}, judged_json=""
    )
    # 100 x 50 rounds to multiples of 28: 112 x 56
    assert (one["image_wh"], one["image_resized_wh"], one["boxes_reference_image"]) == ([100, 50], [112, 56], [0])
    bare = rollout_dump.record(step=1, split="train", decoding=None, group="g", response="", fields={}, columns={}, judged_json="")
    assert bare["image_resized_wh"] == []
