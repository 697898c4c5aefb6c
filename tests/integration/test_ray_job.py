"""`ray job submit` on a cluster: a run is stopped in its middle, submitted again and continues; its twin is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import training_harness as harness
from ray_head import SECONDS, Head, head

pytest.importorskip("vllm")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

EVERY_ROLLOUT = ("faithful_rl.ui.rollouts_every=1", "faithful_rl.ui.rollouts_per_step=20")


@dataclass
class Story:
    """What happened, in order. `stopped_at` is the last step of the first job."""

    run_dir: Path
    first_id: str = ""
    second_id: str = ""
    statuses: dict[str, str] = field(default_factory=dict)
    stopped_at: int = 0
    checkpoint: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    without_token: int = 0
    twin_by_ray: str = ""
    twin_status: str = ""
    twin_by_helper: str = ""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head(cpus=16, gpus=1) as found:
        yield found


def until(condition: Any, cluster: Head, job: str) -> None:
    """Watch a job until `condition` holds; fails when it ends or takes too long before."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline or cluster.status(job) in ("FAILED", "SUCCEEDED"):
            raise AssertionError(cluster.ray_job("logs", job).stdout[-3000:])
        time.sleep(0.2)


def ended(cluster: Head, job: str) -> str:
    deadline = time.monotonic() + SECONDS
    while (found := cluster.status(job)) not in ("SUCCEEDED", "FAILED", "STOPPED"):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def job_id(printed: str) -> str:
    return next(line.split()[1] for line in printed.splitlines() if line.startswith("job "))


@pytest.fixture(scope="module")
def story(cluster: Head, tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("jobs")
    told = Story(root / "run")
    words = [*harness.command_line(root / "scenes", told.run_dir, *EVERY_ROLLOUT), "trainer.save_freq=-1"]
    long, rest = [*words, "trainer.total_training_steps=350"], words

    told.without_token = cluster.run("ray", "job", "list", "--address", cluster.dashboard, RAY_AUTH_TOKEN="").returncode
    first = cluster.submit(*long)
    assert first.returncode == 0, first.stderr
    told.first_id = job_id(first.stdout)
    until(lambda: len(harness.rows(told.run_dir)) >= 2, cluster, told.first_id)

    told.twin_by_helper = cluster.submit(*long).stderr
    twin = cluster.ray_job("submit", "--submission-id", "twin", "--", "python", "-m", "faithful_rl.main", *long)
    told.twin_by_ray, told.twin_status = twin.stdout + twin.stderr, cluster.status("twin")

    cluster.ray_job("stop", told.first_id)
    told.statuses[told.first_id] = ended(cluster, told.first_id)
    told.stopped_at = len(harness.rows(told.run_dir))
    told.record = json.loads((told.run_dir / "run.json").read_text())
    saved = told.run_dir / "checkpoints" / f"global_step_{told.stopped_at}" / "faithful_rl.json"
    assert saved.exists(), cluster.ray_job("logs", told.first_id).stdout[-3000:]
    told.checkpoint = json.loads(saved.read_text())

    second = cluster.submit(*rest, f"trainer.total_training_steps={told.stopped_at + 3}", "wait=true")
    assert second.returncode == 0, second.stdout + second.stderr
    told.second_id = job_id(second.stdout)
    told.statuses[told.second_id] = ended(cluster, told.second_id)
    return told


def test_a_cluster_takes_no_job_without_its_token(story: Story) -> None:
    assert story.without_token != 0


def test_the_second_of_two_simultaneous_submissions_is_refused(story: Story) -> None:
    assert story.twin_status == "FAILED"
    assert f"error: faithful_rl.output_dir: found {story.run_dir} in use by process" in story.twin_by_ray
    assert f"(Ray job {story.first_id})" in story.twin_by_ray
    assert f"in use by Ray job {story.first_id} (RUNNING)" in story.twin_by_helper


def test_a_stopped_job_has_written_a_checkpoint_of_its_last_step(story: Story) -> None:
    assert story.statuses[story.first_id] == "STOPPED"
    assert 2 <= story.stopped_at < 350
    assert story.record["status"] == "stopped"
    assert story.checkpoint["step"] == story.stopped_at
    assert story.checkpoint["prompts_drawn"] == 4 * story.stopped_at


def test_the_second_job_is_the_next_attempt_of_the_same_run(story: Story) -> None:
    stem, first = story.first_id.rsplit("-", 1)
    assert (stem, int(first) + 1) == (story.second_id.rsplit("-", 1)[0], int(story.second_id.rsplit("-", 1)[1]))
    assert story.statuses[story.second_id] == "SUCCEEDED"
    record = json.loads((story.run_dir / "run.json").read_text())
    assert (record["status"], len(record["resumed"])) == ("finished", 1)
    assert (story.run_dir / "report.html").exists()


def test_the_step_counter_continues(story: Story) -> None:
    assert [row["step"] for row in harness.rows(story.run_dir)] == list(range(1, story.stopped_at + 4))


def test_multipliers_continue_to_the_last_bit(story: Story) -> None:
    rows = {row["step"]: row for row in harness.rows(story.run_dir)}
    before, after = rows[story.stopped_at], rows[story.stopped_at + 1]
    for name in ("consistency", "semantic_grounding", "spatial_grounding"):
        assert after[f"constraint/{name}/multiplier"] == before[f"constraint/{name}/multiplier_next"]
    assert len({row["constraint/spatial_grounding/multiplier"] for row in rows.values()}) > 1


def test_the_data_order_continues_without_a_question_twice(story: Story) -> None:
    drawn = []
    for step in range(1, min(story.stopped_at + 3, 12) + 1):  # 48 rows make twelve steps of four prompts
        records = [json.loads(line) for line in (story.run_dir / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
        groups = {record["group"]: record["image_png_base64"] for record in records}
        assert sorted(groups) == [f"{number:012d}" for number in range(4 * (step - 1), 4 * step)]
        drawn += list(groups.values())
    assert len(set(drawn)) == len(drawn)
