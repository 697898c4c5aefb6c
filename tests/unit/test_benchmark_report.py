"""The invented run that the report's benchmark builds from can be built from, and its figures have their units."""

import json
from pathlib import Path

from benchmarks import report as benchmark
from faithful_rl.report import build
from faithful_rl.report.viewer import viewed
from faithful_rl.report.viewer_data import collect


def test_the_invented_run_is_whole(tmp_path: Path) -> None:
    run = benchmark.put_run(tmp_path / "run", 2, 10, 5)
    assert collect(viewed([run])).kept == 20
    assert "Every rollout" in build([run], tmp_path / "report.html").read_text()


def test_summary_takes_medians(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(b"x" * 2**20)
    runs = [{"wall_seconds": seconds, "peak_mib": 10.0} for seconds in (1.0, 9.0, 2.0)]
    assert benchmark.summary(runs, page) == {"wall_seconds": 2.0, "peak_mib": 10.0, "page_mib": 1.0, "runs": 3}


def test_the_result_says_where_it_comes_from() -> None:
    result = json.loads(benchmark.RESULTS.read_text())
    assert (result["steps"], result["rollouts_of_a_step"], result["rollouts"]) == (100, 640, 64_000)
    assert result["report"]["peak_mib"] > 0
    assert {"machine", "versions", "code_version", "idle"} <= set(result)
