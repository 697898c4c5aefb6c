"""Submitting: what travels, what is refused before it does, and how an attempt is named."""

from __future__ import annotations

import re
import shlex
import types
from pathlib import Path
from typing import Any

import pytest

from faithful_rl import submit, upload
from faithful_rl.config import ConfigError

OUT = "faithful_rl.output_dir=/checkpoints/mine"


def tree(root: Path, **sizes: int) -> None:
    for name, size in sizes.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_code_travels_and_data_outputs_environments_and_secrets_stay(tmp_path: Path) -> None:
    put(
        tmp_path,
        "faithful_rl/main.py",
        "faithful_rl/recipes/recipe/mine.yaml",
        "data_prep/a.py",
        "models/tiny/config.json",
        "pyproject.toml",
    )
    put(
        tmp_path,
        "data/rows.parquet",
        "outputs/run/metrics.jsonl",
        "tests/test_a.py",
        "docs/a.md",
        "run.log",
        "faithful_rl/__pycache__/a.pyc",
    )
    put(
        tmp_path,
        ".venv/bin/python",
        "my_environment/pyvenv.cfg",
        "my_environment/lib/torch.so",
        ".env",
        ".git/config",
        "wandb/x",
        "a.egg-info/x",
    )
    (tmp_path / "link").symlink_to("/etc")
    assert [path.as_posix() for path in upload.files(tmp_path)] == [
        "data_prep/a.py",
        "faithful_rl/main.py",
        "faithful_rl/recipes/recipe/mine.yaml",
        "models/tiny/config.json",
        "pyproject.toml",
    ]


def test_too_much_is_refused_with_the_list(tmp_path: Path) -> None:
    tree(tmp_path, models__big__a=3 * 2**20, models__big__b=2**20, code=100)
    chosen = upload.files(tmp_path)
    assert upload.measure(tmp_path, chosen) == pytest.approx(4.0, abs=0.01)
    with pytest.raises(ConfigError) as caught:
        upload.measure(tmp_path, chosen, limit_mib=2.0)
    text = str(caught.value)
    assert text.index("3.0 MiB  models/big/a") < text.index("1.0 MiB  models/big/b")
    assert "expected at most 2 MiB" in text


def test_what_was_measured_is_what_is_sent(tmp_path: Path) -> None:
    put(tmp_path / "from", "faithful_rl/main.py", "data/rows.parquet")
    chosen = upload.files(tmp_path / "from")
    upload.stage(tmp_path / "from", chosen, tmp_path / "to")
    assert upload.files(tmp_path / "to", left_out=()) == chosen


def test_this_checkout_is_far_below_the_limit() -> None:
    root = Path(submit.command.PROJECT_ROOT)
    chosen = upload.files(root)
    assert Path("faithful_rl/main.py") in chosen
    assert Path("models/tiny_warm_start/model.safetensors") in chosen
    assert not any(path.parts[0] in ("tests", "docs", "outputs") for path in chosen)
    assert upload.measure(root, chosen) < upload.LIMIT_MIB


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["recipe=fgrpo_tiny"],
            "faithful_rl.output_dir: found nothing, expected an absolute path on storage that the cluster's nodes share",
        ),
        (["recipe=fgrpo_tiny", "faithful_rl.output_dir=outputs/x"], "faithful_rl.output_dir: found 'outputs/x', expected an absolute path"),
        (["recipe=fgrpo_tini", OUT], "Did you mean fgrpo_tiny?"),
        (["recipe=fgrpo_tiny", OUT, "actor_rollout_ref.rollout.n=1"], "actor_rollout_ref.rollout.n: found 1"),
        (["recipe=fgrpo_tiny", OUT, "upload=zip"], "upload: found 'zip', expected checkout or image."),
        (["recipe=fgrpo_tiny", OUT, "wait=yes"], "wait: found 'yes', expected true, false or a whole number of seconds >= 1."),
        (["recipe=fgrpo_tiny", OUT, "dry=yes"], "dry: found 'yes', expected true or false."),
        (["follow=mine-1", "recipe=fgrpo_tiny"], "follow: found mine-1 beside recipe=fgrpo_tiny, expected a submitted job's id"),
        (["follow=mine-1", "dry=true"], "follow: found mine-1 beside dry=true"),
        (["recipe=fgrpo_tiny", OUT, "address=127.0.0.1:6379"], "address: found '127.0.0.1:6379', expected the dashboard's address"),
        (["recipe=fgrpo_tiny", OUT, "id=a b"], "id: found 'a b', expected 1 to 80 letters"),
        (["recipe=fgrpo_tiny", OUT, "WANDB_API_KEY=abcdefabcdef1234"], "WANDB_API_KEY: found what looks like a secret (not shown)"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_submitted(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_client", lambda address: pytest.fail("it asked the cluster"))
    assert submit.main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "abcdefabcdef1234" not in printed


def test_numbers_of_tokens_are_no_secret() -> None:
    words = [
        "actor_rollout_ref.rollout.max_num_batched_tokens=100000000000",
        "faithful_rl.judges.grounding.options.api_key_env=JUDGE_API_KEY",
    ]
    assert submit.parse(words).words == words


def test_an_attempt_is_named_by_recipe_directory_and_number() -> None:
    first = submit.next_id("fgrpo_7b", "/checkpoints/a", [])
    assert re.fullmatch(r"fgrpo_7b-[0-9a-f]{8}-1", first)
    stem = first.rpartition("-")[0]
    jobs = [(first, "STOPPED"), (f"{stem}-2", "FAILED"), ("other-1", "RUNNING"), (None, "RUNNING")]
    assert submit.next_id("fgrpo_7b", "/checkpoints/a", jobs) == f"{stem}-3"  # type: ignore[arg-type]
    assert submit.next_id("fgrpo_7b", "/checkpoints/b", jobs) != f"{stem}-3"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"in use by Ray job {stem}-2 \\(PENDING\\)"):
        submit.next_id("fgrpo_7b", "/checkpoints/a", [(f"{stem}-2", "PENDING")])


class Client:
    """A dashboard that takes everything."""

    def __init__(self, jobs: list[Any] | None = None) -> None:
        self.jobs, self.taken = jobs or [], {}
        self.files: list[Path] = []

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **job: Any) -> str:
        self.taken = job
        if "working_dir" in job["runtime_env"]:
            self.files = upload.files(Path(job["runtime_env"]["working_dir"]), left_out=())
        return str(job["submission_id"])

    def get_job_status(self, job: str) -> str:
        return "STOPPED"


def test_ray_gets_one_process_time_for_a_checkpoint_and_the_measured_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client()
    monkeypatch.setattr(submit, "_client", lambda address: client)
    words = ["recipe=fgrpo_tiny", OUT, "faithful_rl.step_timeout_seconds=600", "trainer.logger=[]", "python=python3.11"]
    assert submit.main([*words, "wait=true"]) == 143
    assert client.taken["entrypoint"].startswith("exec python3.11 -m faithful_rl.main recipe=fgrpo_tiny ")
    assert "trainer.logger=[]" in shlex.split(client.taken["entrypoint"])
    assert "wait=true" not in client.taken["entrypoint"]
    assert client.taken["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "720"}
    assert Path("faithful_rl/main.py") in client.files
    assert client.taken["submission_id"].startswith("fgrpo_tiny-")
    assert "ray job stop --address http://127.0.0.1:8265 fgrpo_tiny-" in capsys.readouterr().out


def test_the_images_code_is_used_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(submit, "_client", lambda address: client)
    assert submit.main(["recipe=fgrpo_tiny", OUT, "upload=image", "id=mine-1"]) == 0
    assert "working_dir" not in client.taken["runtime_env"]
    assert client.taken["submission_id"] == "mine-1"


def test_a_cluster_that_refuses_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client()

    def refuse(**job: Any) -> str:
        raise RuntimeError("Request failed with status code 500: Job with submission_id mine already exists")

    client.submit_job = refuse  # type: ignore[method-assign]
    monkeypatch.setattr(submit, "_client", lambda address: client)
    assert submit.main(["recipe=fgrpo_tiny", OUT, "upload=image", "id=mine"]) == 2
    assert "A job with this id was submitted before" in capsys.readouterr().err


def test_without_verl_the_cluster_checks_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.importlib.util, "find_spec", lambda name: None)
    assert submit.check(["recipe=anything", OUT]) == ("anything", 1800.0, "")
    with pytest.raises(ConfigError, match="recipe: found nothing"):
        submit.check([OUT])


def test_a_dry_run_asks_nobody(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(submit, "_client", lambda address: pytest.fail("it asked the cluster"))
    assert submit.main(["recipe=fgrpo_tiny", OUT, "dry=true"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"code\s+\d+\.\d MiB in \d+ files", printed)
    assert "exec python -m faithful_rl.main recipe=fgrpo_tiny" in printed


def test_a_submitted_job_can_be_followed_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client()
    monkeypatch.setattr(submit, "_client", lambda address: client)
    assert submit.main(["follow=fgrpo_tiny-1"]) == 143
    assert client.taken == {}
    assert "fgrpo_tiny-1 STOPPED" in capsys.readouterr().out


def test_who_follows_no_longer_is_told_how_to_come_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client()
    monkeypatch.setattr(submit, "_client", lambda address: client)

    def lost(*arguments: Any) -> str:
        raise submit.LostJobError(f"gone. {arguments[2]}")

    def interrupted(*arguments: Any) -> str:
        raise KeyboardInterrupt

    words = ["recipe=fgrpo_tiny", OUT, "upload=image", "id=mine-1", "wait=3600"]
    back = "python -m faithful_rl.submit follow=mine-1 address=http://127.0.0.1:8265"
    monkeypatch.setattr(submit, "follow", lost)
    assert submit.main(words) == 3
    assert back in capsys.readouterr().err
    monkeypatch.setattr(submit, "follow", interrupted)
    assert submit.main(words) == 130
    printed = capsys.readouterr().out
    assert "The job goes on." in printed
    assert back in printed


@pytest.mark.parametrize("recipe", ["sft_tiny", "sft_scenes_tiny", "sft_7b", "crm_tiny", "crm_large", "fgrpo_7b_lora", "puzzles_tiny"])
def test_recipes_of_every_method_can_be_submitted(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.upload, "files", lambda root: [])
    assert submit.main([f"recipe={recipe}", OUT, "dry=true"]) == 0


def test_without_words_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["--help"]) == 0
    assert "upload=checkout|image" in capsys.readouterr().out


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.job_submission", types.ModuleType("ray.job_submission"))
    with pytest.raises(ConfigError, match="pip install 'ray"):
        submit._client("http://127.0.0.1:1")
