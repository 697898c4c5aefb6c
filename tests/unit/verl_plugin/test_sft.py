"""The launcher of supervised fine-tuning with processes that only pretend, and the checks before it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.scenes.world import encode_png, random_scene, render
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import sft as checks
from faithful_rl.supervised import total_steps
from faithful_rl.verl_plugin import sft

PNG = encode_png(render(random_scene(__import__("random").Random(0))))


def typed(**changes: Any) -> FaithfulRLConfig:
    config = FaithfulRLConfig(recipe="sft_scenes_tiny", method="sft_verl")
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def row(**changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "<think>x</think><answer>A</answer>"}]
    return {"messages": messages, "images": [{"bytes": PNG}], **changes}


def config(tmp_path: Path, rows: list[dict[str, Any]], **trainer: Any) -> dict[str, Any]:
    file = tmp_path / "train.parquet"
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("messages", pa.list_(message)), ("images", pa.list_(pa.struct([("bytes", pa.binary())])))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return {
        "data": {"train_files": str(file), "train_batch_size": 4, "train_max_samples": -1, "max_length": 512},
        "trainer": {"nnodes": 1, "n_gpus_per_node": 1, "total_epochs": 2, "total_training_steps": None, **trainer},
        "model": {"path": str(Path(__file__).parents[3] / "models" / "tiny_warm_start"), "override_config": {"freeze_vision_tower": True}},
        "optim": {"lr": 1e-4},
    }


# --- steps ------------------------------------------------------------------------------------------------------------------


def test_steps_by_hand(tmp_path: Path) -> None:
    """10 rows in batches of 4 are 2 steps an epoch; two ranks get 5 rows each and cut batches of 2 rows."""
    assert total_steps(config(tmp_path, [row()] * 10)) == 4
    assert total_steps(config(tmp_path, [row()] * 10, n_gpus_per_node=2)) == 4
    assert total_steps(config(tmp_path, [row()] * 10, total_training_steps=3)) == 3
    limited = config(tmp_path, [row()] * 10)
    limited["data"]["train_max_samples"] = 5
    assert total_steps(limited) == 2


@pytest.mark.parametrize(
    ("rows", "trainer", "key"),
    [
        (3, {}, "data.train_batch_size"),
        (10, {"n_gpus_per_node": 3}, "data.train_batch_size"),
        (10, {"total_training_steps": 5}, "trainer.total_training_steps"),
        (10, {"total_training_steps": 0}, "trainer.total_training_steps"),
    ],
)
def test_steps_that_verl_would_not_reach_are_refused(tmp_path: Path, rows: int, trainer: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        total_steps(config(tmp_path, [row()] * rows, **trainer))
    assert caught.value.key == key


# --- preflight --------------------------------------------------------------------------------------------------------------


def checked(tmp_path: Path, made: dict[str, Any], **changes: Any) -> None:
    settings = typed(output_dir=str(tmp_path / "run"), **changes)
    settings.data.source = "parquet"
    settings.hardware.min_free_disk_gib = 0.0
    checks.check(made, settings)


def test_sound_data_passes(tmp_path: Path) -> None:
    checked(tmp_path, config(tmp_path, [row()] * 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, r"1 <image> tag\(s\) for 0 image\(s\)"),
        ({"images": [{"bytes": PNG[:200]}]}, "an image that does not open"),
        ({"messages": [{"role": "user", "content": "<image>"}]}, "no answer of the assistant"),
        ({"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": " "}]}, "no answer of the assistant"),
        ({"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "<image>"}]}, r"2 <image> tag\(s\) for 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        checked(tmp_path, config(tmp_path, [row()] * 5 + [row(**changes)]))
    assert "row 5" in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    made = config(tmp_path, [row()] * 4)
    file = Path(made["data"]["train_files"])
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="is damaged"):
        checked(tmp_path, made)
    file.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        checked(tmp_path, made)


def test_one_machine_one_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.nnodes"):
        checked(tmp_path, config(tmp_path, [row()] * 4, nnodes=2))
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"faithful_rl\.sft\.model_dir"):
        checked(tmp_path, config(tmp_path, [row()] * 4))
    made = config(tmp_path, [row()] * 4)
    made["model"]["path"] = "/nowhere"
    with pytest.raises(ConfigError, match=r"model\.path: found /nowhere"):
        checked(tmp_path / "elsewhere", made)


def test_chains_of_scenes_are_made_once(tmp_path: Path) -> None:
    settings = typed()
    sizes = settings.data.scenes
    sizes.train, sizes.val, sizes.test, sizes.directory = 6, 1, 1, str(tmp_path / "scenes")
    checks.prepare_chains(tmp_path / "chains", settings)
    manifest = json.loads((tmp_path / "chains" / "manifest.json").read_text())
    assert manifest["counts"]["questions"] == 6
    assert "chains_corrected" not in manifest["counts"]
    before = (tmp_path / "chains" / "train.parquet").stat().st_mtime_ns
    checks.prepare_chains(tmp_path / "chains", settings)
    assert (tmp_path / "chains" / "train.parquet").stat().st_mtime_ns == before


# --- launcher ---------------------------------------------------------------------------------------------------------------


def pretend(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], start_new_session=True)


def watch(tmp_path: Path, script: str, **changes: Any) -> list[tuple[int, float]]:
    seen: list[tuple[int, float]] = []
    metrics, log = tmp_path / "metrics.jsonl", tmp_path / "log"
    process = pretend(script.replace("METRICS", repr(str(metrics))).replace("LOG", repr(str(log))))
    try:
        sft._watch(process, metrics, log, 3, typed(**changes), lambda stage, step, steps, loss: seen.append((step, loss)))
    finally:
        sft._end(process)
    return seen


LINE = 'open(METRICS, \'a\').write(\'{"step":%d,"data":{"train/loss":%s}}\\n\');'


def test_steps_are_reported_as_they_come(tmp_path: Path) -> None:
    assert watch(tmp_path, LINE % (1, 2.5) + LINE % (2, 1.5)) == [(1, 2.5), (2, 1.5)]


def test_a_failed_rank_is_told_with_its_last_exception(tmp_path: Path) -> None:
    script = (
        "open(LOG, 'w').write('Traceback ...\\n[rank0]: torch.OutOfMemoryError: no memory left\\n[default0]: more text\\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \\n'); raise SystemExit(7)"
    )
    with pytest.raises(sft.TrainingError, match=r"ended with code 7 \(torch.OutOfMemoryError: no memory left\)"):
        watch(tmp_path, script)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    script = LINE % (1, "1.0") + LINE % (2, "null") + LINE % (3, "null") + "import time; time.sleep(60)"
    with pytest.raises(sft.TrainingError, match="not finite in 2 steps in a row, up to step 3"):
        watch(tmp_path, script, stop_after_nonfinite_steps=2)


def test_a_trainer_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(sft.TrainingError, match="no step within 1 s"):
        watch(tmp_path, "import time; time.sleep(60)", step_timeout_seconds=1.0)


def test_ranks_that_do_not_listen_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "GRACE_SECONDS", 1.0)
    ready = tmp_path / "ready"
    process = pretend(f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, 'w'); time.sleep(60)")
    deadline = time.monotonic() + 30
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    sft._end(process)
    assert process.poll() == -9


def test_metrics_of_several_starts_are_one_file(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for number, steps in ((1, (1, 2, 3)), (2, (3, 4)), (10, (4, 5))):
        (logs / f"sft_metrics_{number}.jsonl").write_text(
            "".join(json.dumps({"step": step, "data": {"train/loss": number}}) + "\n" for step in steps) + '{"step": 99, "da'
        )
    assert sft._free_name(logs).name == "sft_metrics_3.jsonl"
    sft._merge_metrics(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1), (2, 1), (3, 2), (4, 10), (5, 10)]


def test_a_model_appears_whole_and_says_what_it_is(tmp_path: Path) -> None:
    made = tmp_path / "checkpoints" / "global_step_4" / "huggingface"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(sft.TrainingError, match="after step 0 of 4"):
        sft._finished(tmp_path / "checkpoints", 4, tmp_path / "log")
    (tmp_path / "checkpoints" / sft.TRACKER).write_text("4")
    with pytest.raises(sft.TrainingError, match="after step 4 of 5"):
        sft._finished(tmp_path / "checkpoints", 5, tmp_path / "log")
    checkpoint = sft._finished(tmp_path / "checkpoints", 4, tmp_path / "log")
    target = sft._publish(checkpoint / "huggingface", tmp_path / "models" / "m", config(tmp_path, [row()] * 8), typed(), 4)
    manifest = json.loads((target / "manifest.json").read_text())
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert manifest["stage"] == "sft"
    assert manifest["base_model"]["manifest"]["recipe"] == "sft_tiny"
    assert manifest["data"][0]["name"] == "train.parquet"
    assert set(manifest["files"]) == {"model.safetensors"}
    assert not list((tmp_path / "models").glob(".*"))
    with pytest.raises(ConfigError, match="which exists"):
        sft._publish(checkpoint / "huggingface", target, config(tmp_path, [row()] * 8), typed(), 4)
