"""Which folder a run uses, and that no run writes into another's."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from faithful_rl import run_lock, run_record
from faithful_rl.config import ConfigError

NOW = datetime(2026, 11, 21, 4, 5, 6, tzinfo=UTC)
CONFIG: dict[str, Any] = {
    "faithful_rl": {"recipe": "fgrpo_tiny", "method": "fgrpo", "seed": 3, "output_dir": "", "ui": {"progress": True}},
    "trainer": {"total_training_steps": 60, "save_freq": 20},
    "data": {"train_batch_size": 32},
}
KEY = run_record.fingerprint(CONFIG)


def put_run(path: Path, **fields: Any) -> Path:
    path.mkdir(parents=True)
    record = {"recipe": "fgrpo_tiny", "fingerprint": KEY, "status": "running", **fields}
    (path / "run.json").write_text(json.dumps(record))
    return path


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: {**values, **sections.get(name, {})} for name, values in CONFIG.items()}


def test_the_fingerprint_ignores_length_and_place_but_not_the_experiment() -> None:
    assert run_record.fingerprint(changed(trainer={"total_training_steps": 5}, faithful_rl={"output_dir": "elsewhere"})) == KEY
    assert run_record.fingerprint(changed(faithful_rl={"ui": {"progress": False}})) == KEY
    assert run_record.fingerprint(changed(data={"train_batch_size": 16})) != KEY
    assert run_record.fingerprint(changed(faithful_rl={"seed": 4})) != KEY


def test_a_new_run_gets_a_folder_named_by_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_record.choose("fgrpo_tiny", "", KEY, NOW)
    assert run == run_record.RunDirectory(Path("outputs/fgrpo_tiny/20261121-040506"), KEY, resumes=False)
    assert not run.path.exists()
    run.path.mkdir(parents=True)
    assert run_record.choose("fgrpo_tiny", "", KEY, NOW).path == Path("outputs/fgrpo_tiny/20261121-040506-2")


def test_the_newest_unfinished_run_of_the_same_configuration_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = Path("outputs/fgrpo_tiny")
    put_run(base / "20260101-000000")
    put_run(base / "20260102-000000", status="stopped")
    put_run(base / "20260103-000000", status="finished")
    put_run(base / "20260104-000000", fingerprint="another")
    (base / "20260105-000000").mkdir()
    (base / "20260105-000000" / "run.json").write_text("{half")
    assert run_record.choose("fgrpo_tiny", "", KEY, NOW) == run_record.RunDirectory(base / "20260102-000000", KEY, resumes=True)


def test_a_run_that_somebody_trains_in_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = put_run(Path("outputs/fgrpo_tiny/20260101-000000"))
    hold = (
        "import sys, pathlib; from faithful_rl import run_lock\n"
        "with run_lock.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not run_record.choose("fgrpo_tiny", "", KEY, NOW).resumes
        with pytest.raises(ConfigError, match="in use by process"), run_lock.locked(path):
            pass
        holder.communicate("", timeout=30)
    assert run_record.choose("fgrpo_tiny", "", KEY, NOW).resumes  # the lock went with its process


def test_a_requested_folder_must_be_free_or_ours(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert not run_record.choose("fgrpo_tiny", str(absent), KEY).resumes
    ours = put_run(tmp_path / "ours", status="failed")
    assert run_record.choose("fgrpo_tiny", str(ours), KEY).resumes
    file = tmp_path / "file"
    file.write_text("mine")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    (strangers / "thesis.tex").write_text("mine")
    refused = {
        file: "the file",
        strangers: "1 file(s) that belong to no run, such as thesis.tex",
        put_run(tmp_path / "other", recipe="grpo_tiny"): "a run of recipe 'grpo_tiny'",
        put_run(tmp_path / "settings", fingerprint="x"): "a run of recipe 'fgrpo_tiny' and other settings",
        put_run(tmp_path / "done", status="finished"): "a finished run",
    }
    for path, found in refused.items():
        with pytest.raises(ConfigError) as caught:
            run_record.choose("fgrpo_tiny", str(path), KEY)
        assert caught.value.key == "faithful_rl.output_dir"
        assert found in str(caught.value)
    assert (strangers / "thesis.tex").read_text() == "mine"


def test_settings_that_differ_are_named_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_record.start_run(run_record.RunDirectory(path, KEY, resumes=False), CONFIG, [])
    other = changed(data={"train_batch_size": 64, "shuffle": True}, faithful_rl={"seed": 4}, trainer={"n_gpus_per_node": 2, "save_freq": 5})
    with pytest.raises(ConfigError) as caught:
        run_record.choose("fgrpo_tiny", str(path), run_record.fingerprint(other), config=other)
    told = (
        "a run of recipe 'fgrpo_tiny' and other settings (data.shuffle: absent there, True now; data.train_batch_size: 32 there, 64 now; "
        "faithful_rl.seed: 3 there, 4 now; trainer.n_gpus_per_node: absent there, 2 now), expected"
    )
    assert told in str(caught.value)
    many = changed(data={f"key{number}": number for number in range(9)})
    with pytest.raises(ConfigError, match=r"data\.key4: absent there, 4 now; and 4 more\)"):
        run_record.choose("fgrpo_tiny", str(path), run_record.fingerprint(many), config=many)
    assert run_record.choose("fgrpo_tiny", str(path), "a fingerprint of an older release", config=CONFIG).resumes


@pytest.mark.parametrize(
    ("key", "may_change"),
    [
        ("faithful_rl.evaluation.max_questions", True),
        ("faithful_rl.judges.consistency.timeout_seconds", True),
        ("faithful_rl.ui.progress", True),
        ("trainer.test_freq", True),
        ("actor_rollout_ref.rollout.gpu_memory_utilization", True),
        ("faithful_rl.judges.consistency.options", False),
        ("faithful_rl.judges.timeout_seconds.deeper", False),
        ("faithful_rl.hardware.seeded_rollouts", False),
        ("actor_rollout_ref.rollout.temperature", False),
        ("actor_rollout_ref.rollout.max_num_seqs", False),
        ("data.seed", False),
        ("data.train_files", False),
        ("trainer.n_gpus_per_node", False),
    ],
)
def test_what_may_change_on_resume_is_what_trains_nothing(key: str, may_change: bool) -> None:
    def tree(value: Any) -> dict[str, Any]:
        node: Any = value
        for part in reversed(key.split(".")):
            node = {part: node}
        return dict(node)

    assert (run_record.fingerprint(tree(1)) == run_record.fingerprint(tree(2))) == may_change


def test_the_record_knows_recipe_seed_code_and_versions(tmp_path: Path) -> None:
    run = run_record.RunDirectory(tmp_path / "run", KEY, resumes=False)
    run_record.start_run(run, CONFIG, ["recipe=fgrpo_tiny"])
    record = run_record.read_run(run.path)
    assert record is not None
    assert (record["recipe"], record["method"], record["seed"], record["status"]) == ("fgrpo_tiny", "fgrpo", 3, "running")
    assert record["command"] == ["python", "-m", "faithful_rl.main", "recipe=fgrpo_tiny"]
    assert record["code_version"].startswith("0.1.0")
    assert set(record["versions"]) >= {"python", "numpy", "hydra-core"}
    assert record["machine"]["cpus"] >= 1
    started = record["started"]
    run_record.end_run(run.path, "stopped")
    run_record.start_run(run_record.RunDirectory(run.path, KEY, resumes=True), CONFIG, [])
    run_record.end_run(run.path, "finished")
    record = run_record.read_run(run.path) or {}
    assert (record["started"], len(record["resumed"]), record["status"]) == (started, 1, "finished")
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]
