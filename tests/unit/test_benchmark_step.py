"""The step benchmark's arithmetic, schedule and process handling, with numbers made by hand."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from benchmarks.step import __main__ as step
from benchmarks.step import processes, summary
from benchmarks.step.conditions import Conditions
from faithful_rl.judge_pool.registry import Registry
from faithful_rl.judge_pool.replica import Replica


def run(*seconds: float, judges: float = 0.0, cpu: float = 2.0) -> list[dict[str, float]]:
    return [
        {
            "timing_s/gen": 0.5 * value,
            "timing_s/step": value,
            "cycle_s": value + 0.1,
            "cpu_s/total": cpu * value,
            "cpu_s/judges": judges,
            "response_length/mean": 60.0,
        }
        for value in seconds
    ]


def test_spread_of_known_numbers() -> None:
    assert summary.spread([4.0, 1.0, 3.0, 2.0]) == {
        "median": 2.5,
        "quartile_1": 1.75,
        "quartile_3": 3.25,
        "min": 1.0,
        "max": 4.0,
        "steps": 4,
    }


def test_spread_needs_numbers() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        summary.spread([])


def test_warm_up_is_left_out_of_every_run() -> None:
    found = summary.summarise([run(90.0, 30.0, 10.0, 12.0), run(80.0, 20.0, 14.0, 16.0)], warm_up=2)
    assert found["phase_seconds"]["step"]["median"] == 13.0
    assert found["phase_seconds"]["step"]["steps"] == 4
    assert found["phase_seconds"]["gen"]["median"] == 6.5
    assert found["steps_per_second"] == pytest.approx(1 / 13)
    assert found["median_step_seconds_by_run"] == [11.0, 15.0]
    assert set(found["processor_seconds"]) == {"total", "judges"}
    assert "tokens_per_step" not in found


def test_a_run_of_warm_up_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="run 2 has 2 steps, expected more than the 2"):
        summary.measured([run(1.0, 1.0, 1.0), run(1.0, 1.0)], warm_up=2)


def test_rows_without_the_time_of_a_step_are_refused() -> None:
    with pytest.raises(ValueError, match="timing_s/step"):
        summary.summarise([[{"timing_s/gen": 1.0}]], warm_up=0)


def test_overhead_leaves_judges_out() -> None:
    # 11 s of which judges take 0.5 s, beside 10 s: (11 - 0.5 - 10) / 10
    found = summary.relative_overhead([11.0] * 4, [10.0] * 4, apart=0.5)
    assert found == pytest.approx({"value": 0.05, "low": 0.05, "high": 0.05})


def test_interval_holds_the_value_and_grows_with_the_spread() -> None:
    narrow = summary.relative_overhead([10.0, 10.2, 10.1, 10.3], [10.0, 10.1, 10.2, 10.1])
    wide = summary.relative_overhead([8.0, 12.2, 9.1, 11.3], [10.0, 14.1, 7.2, 10.1])
    for found in (narrow, wide):
        assert found["low"] <= found["value"] <= found["high"]
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]
    assert summary.relative_overhead([8.0, 12.2], [10.0, 14.1]) == summary.relative_overhead([8.0, 12.2], [10.0, 14.1])


def test_ratio_says_how_much_slower_the_peer_is() -> None:
    assert summary.ratio([30.0, 30.0], [10.0, 10.0])["value"] == 3.0


@pytest.mark.parametrize(("ours", "peer"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_nothing_to_compare_with(ours: list[float], peer: list[float]) -> None:
    with pytest.raises(ValueError, match=r"steps of both|more than 0 seconds"):
        summary.relative_overhead(ours, peer)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-0.02, 0.05, "yes"), (0.051, 0.2, "no"), (0.01, 0.09, "undecided"), (-0.2, 0.06, "undecided")]
)
def test_verdict_needs_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert summary.verdict({"value": (low + high) / 2, "low": low, "high": high}, 0.05) == expected


def test_comparison_by_all_three_measures() -> None:
    ours, stock = [run(50.0, 10.4, 10.4, judges=0.2)], [run(50.0, 10.0, 10.0)]
    found = summary.compare(ours, stock, warm_up=1, limit=0.05)
    assert found["judge_seconds_per_step"] == 0.2
    assert found["wall"]["outside_judges"]["value"] == pytest.approx(0.02)
    assert found["wall"]["with_judges"]["value"] == pytest.approx(0.04)
    assert found["wall_with_logging"]["outside_judges"]["value"] == pytest.approx((10.5 - 0.2 - 10.1) / 10.1)
    assert found["processor"]["outside_judges"]["value"] == pytest.approx((20.8 - 0.2 - 20.0) / 20.0)
    assert found["wall"]["within_limit"] == "yes"


def test_with_instant_verdicts_nothing_is_taken_off() -> None:
    ours, instant, stock = [run(50.0, 10.4, 10.4, judges=0.2)], [run(50.0, 10.3, 10.3, judges=0.1)], [run(50.0, 10.0, 10.0)]
    found = summary.compare(ours, stock, warm_up=1, limit=0.05, instant=instant)
    assert found["outside_judges_by"] == "runs"
    assert found["wall"]["outside_judges"]["value"] == pytest.approx(0.03)
    assert found["wall"]["with_judges"]["value"] == pytest.approx(0.04)
    assert found["processor"]["outside_judges"]["value"] == pytest.approx((20.6 - 20.0) / 20.0)


def test_measures_that_one_side_lacks_are_left_out() -> None:
    rows = [[{"timing_s/step": 1.0}]]
    found = summary.compare(rows, rows, warm_up=0, limit=0.05)
    assert found["judge_seconds_per_step"] == 0.0
    assert {"wall", "processor"} & found.keys() == {"wall"}


def test_marks_become_differences() -> None:
    rows = [{"timing_s/step": 9.0}, {"timing_s/step": 3.0}]
    marks = [(100.0, {"total": 7.0, "rollout": 4.0}), (103.5, {"total": 12.0, "rollout": 6.0, "judges": 0.5})]
    first, second = processes.with_marks(rows, marks)
    assert first == {"timing_s/step": 9.0}
    assert second == {"timing_s/step": 3.0, "cycle_s": 3.5, "cpu_s/total": 5.0, "cpu_s/rollout": 2.0, "cpu_s/judges": 0.5}


def test_missed_marks_add_nothing() -> None:
    assert processes.with_marks([{"a": 1.0}, {"a": 2.0}], [(1.0, {})]) == [{"a": 1.0}, {"a": 2.0}]


def test_rows_of_both_formats(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1, "timing_s/step": 2.5, "note": "text", "gone": null}\n{"step": 2, "data": {"timing_s/step": 3}}\n')
    assert processes.read_rows(path) == [{"step": 1.0, "timing_s/step": 2.5}, {"step": 2.0, "timing_s/step": 3.0}]
    assert processes.count_lines(path) == 2
    assert processes.count_lines(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    ("title", "role"),
    [
        (f"ray::{Replica.__name__}.ask", "judges"),  # what Ray makes of the class's name
        (f"ray::{Registry.__name__}.describe", "judges"),
        ("ray::CpuVllmHttpServer", "rollout"),
        ("VLLM::EngineCore", "rollout"),
        ("ray::WorkerDict.actor_update", "training"),
        ("ray::FaithfulTaskRunner.run", "trainer"),
        ("ray::StockTaskRunner.run", "trainer"),
        ("python -m faithful_rl.main", "other"),
    ],
)
def test_roles(title: str, role: str) -> None:
    assert processes.role_of(title) == role


def child(code: str, tmp_path: Path, steps: int = 2, timeout: float = 60.0) -> list[dict[str, float]]:
    rows = tmp_path / "rows.jsonl"
    return processes.run_measured(
        [sys.executable, "-c", code, str(rows)], rows, tmp_path / "log", steps, timeout, processes.child_environment(), tmp_path
    )


WRITE_TWO_ROWS = """
import sys
for step in (1, 2):
    open(sys.argv[1], "a").write('{"step": %d, "timing_s/step": 1.0}\\n' % step)
"""


def test_a_child_that_ends_well(tmp_path: Path) -> None:
    assert [row["step"] for row in child(WRITE_TWO_ROWS, tmp_path)] == [1.0, 2.0]


def test_a_child_that_fails_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(processes.ChildFailedError, match=r"(?s)exit code 3.*no such thing"):
        child("import sys; print('no such thing', file=sys.stderr); sys.exit(3)", tmp_path)


def test_a_child_with_too_few_steps(tmp_path: Path) -> None:
    with pytest.raises(processes.ChildFailedError, match=r"2 steps in .*, expected 4"):
        child(WRITE_TWO_ROWS, tmp_path, steps=4)


def test_a_child_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    # The time runs out as soon as the grandchild is there, however long its start takes.
    clock = SimpleNamespace(monotonic=lambda: 100.0 if pid.exists() and pid.read_text() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(processes, "time", clock)
    code = (
        "import subprocess, sys, pathlib, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(inner.pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(processes.ChildFailedError, match="no end within 3 s, step 0 of 2"):
        child(code, tmp_path, timeout=3.0)
    try:
        state = psutil.Process(int(pid.read_text())).status()
    except psutil.NoSuchProcess:
        return
    assert state == psutil.STATUS_ZOMBIE, "the grandchild still runs"


def test_order_alternates() -> None:
    options = step.parse(["repeats=3"])
    assert step.schedule(options) == [
        ("fgrpo", 1), ("instant", 1), ("verl", 1), ("verl", 2), ("instant", 2), ("fgrpo", 2), ("fgrpo", 3), ("instant", 3), ("verl", 3),
        ("trl", 1),
    ]  # fmt: skip
    assert step.schedule(step.parse(["arms=trl"])) == [("trl", 1)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stepz=3"], "stepz=3"),
        (["steps"], "expected key=value"),
        (["steps=three"], "expected a whole number"),
        (["steps=2", "warm_up=2"], "warm_up=2 with steps=2"),
        (["arms=fgrpo,other"], "arms=fgrpo,other"),
        (["prompts=7"], "an even number"),
        (["repeats=0"], "expected 1 or more"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(step.UsageError, match=message):
        step.parse(words)


def test_settings_compose_for_ours_and_for_stock_verl() -> None:
    from benchmarks.step import stock_verl
    from faithful_rl import main as command

    shared = step.overrides(step.parse(["steps=4", "prompts=8"]))
    ours = command.resolved(command.prepare(["recipe=fgrpo_tiny", *shared, *step.OWN["fgrpo"]]).composed)
    assert ours["faithful_rl"]["hardware"]["seeded_rollouts"] is False  # as in stock verl
    stock = command.resolved(command.prepare(["recipe=grpo_tiny", *shared, *stock_verl.overrides(Path("reward.py"))]).composed)
    instant = command.resolved(command.prepare(["recipe=fgrpo_tiny", *shared, *step.OWN["instant"]]).composed)
    assert instant.pop("reward") != ours["reward"]
    assert instant == {key: value for key, value in ours.items() if key != "reward"}
    for config in (ours, stock):
        config["actor_rollout_ref"]["rollout"]["trace"].pop("experiment_name")
    for node in ("actor_rollout_ref", "data", "algorithm", "ray_kwargs", "transfer_queue"):
        assert ours[node] == stock[node]
    assert stock["reward"]["reward_manager"]["name"] == "naive"
    assert ours["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"] == 4
    assert ours["actor_rollout_ref"]["actor"]["ppo_micro_batch_size_per_gpu"] == 20


def test_instant_verdicts_ask_no_actor_and_preflight_takes_a_class_derived_from_ours() -> None:
    pytest.importorskip("verl")
    from benchmarks.step import instant_judges
    from faithful_rl import main as command
    from faithful_rl.preflight import plugin_active
    from faithful_rl.verl_plugin.reward_manager import ExactJudge, FaithfulRewardManager

    composed = command.prepare(["recipe=fgrpo_tiny", *step.OWN["instant"]]).composed
    chosen = plugin_active._reward_manager(command.resolved(composed))
    assert chosen is instant_judges.InstantRewardManager
    assert issubclass(chosen, FaithfulRewardManager)
    scorer = instant_judges.scorer(composed)
    assert isinstance(scorer._consistency, ExactJudge)
    assert isinstance(scorer._grounding, ExactJudge)


def test_the_task_reward_is_the_suites() -> None:
    from benchmarks.step.task_reward import compute_score

    row = {"options": ["left", "right"], "gold_index": 1, "uid": "1"}
    right = compute_score("scenes", "<think>The circle is right.</think><answer>B</answer>", "B", row)
    wrong = compute_score("scenes", "<think>The circle is left.</think><answer>A</answer>", "B", row)
    assert right > wrong >= 0.0


def test_table_and_statements() -> None:
    runs = {"fgrpo": [run(9.0, 10.4, 10.4, judges=0.2)], "verl": [run(9.0, 10.0, 10.0)], "trl": [run(9.0, 30.0, 30.0)]}
    options = step.parse(["steps=3", "warm_up=1", "repeats=1"])
    config = {
        "actor_rollout_ref": {"model": {"path": "models/tiny"}, "actor": {"optim": {"lr": 6e-4}}},
        "data": {"max_prompt_length": 128, "max_response_length": 96, "seed": 0},
    }
    result = json.loads(json.dumps(step.report(options, config, runs, Conditions([0.5, 0.0], [0.1, 0.13]))))
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    step.show(result, console)
    text = console.export_text()
    assert "+2.0% (+2.0% to +2.0%); with judges +4.0%" in text
    seeded = step.report(options, config, {"seeded": runs["fgrpo"], "verl": runs["verl"]}, Conditions([0.0], [0.1]))
    assert seeded["overhead"] == result["overhead"], "the recipe as it is can be compared as well"
    assert "A step of TRL takes 2.88 (2.88 to 2.88) times as long as ours" in text
    assert "3.00 (3.00 to 3.00) times as long as stock verl, GRPO in wall time; 3.00 in processor time" in text
    assert "The machine was busy" in text
    assert "The machine itself was up to 1.30 times slower" in text


def test_a_machine_that_is_quiet_and_steady() -> None:
    conditions = Conditions()
    conditions.look(0.1)
    assert 0.0 <= conditions.busy[0] <= 1.0
    assert conditions.piece_seconds[0] > 0.0
    assert conditions.drift == 1.0
    plain = Conditions([0.0, 0.15], [0.1, 0.109]).plain()
    assert (plain["quiet"], plain["steady"], plain["drift"]) == (True, True, 1.09)
    plain = Conditions([0.0, 0.16], [0.12, 0.1]).plain()
    assert (plain["quiet"], plain["steady"], plain["drift"]) == (False, False, 1.2)


def test_a_work_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    options = step.parse([f"work={tmp_path}", "arms=fgrpo"])
    with pytest.raises(step.UsageError, match="did not make"):
        step.check(options, step.overrides(options))
    assert (tmp_path / "thesis.tex").read_text() == "mine"
