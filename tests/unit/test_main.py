"""The command line: help, versions, configuration print-out, exit codes, quiet output, what a run leaves behind."""

import contextlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import faithful_rl
from faithful_rl import main, preflight, verl_plugin
from faithful_rl.compose import list_recipes
from faithful_rl.config import ConfigError


def test_help_lists_every_recipe_with_a_line_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for recipe in list_recipes():
        assert f"{recipe.name} " in text
        assert recipe.description in text
    assert "recipe=fgrpo_tiny trainer.total_training_steps=5" in text
    assert "exit codes: 0 finished" in text
    assert max(len(line) for line in text.splitlines()) <= 140


def test_the_composed_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_tiny", "--cfg", "job", "faithful_rl.seed=7"]) == 0
    text = capsys.readouterr().out
    assert "faithful_rl:\n  recipe: fgrpo_tiny\n" in text
    assert "  seed: 7\n" in text
    assert "train_batch_size: 32" in text


def test_without_a_recipe_the_message_is_kind_and_the_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "Start with: python -m faithful_rl.main recipe=fgrpo_tiny" in capsys.readouterr().err


def test_without_verl_the_extras_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main.main(["recipe=fgrpo_tiny"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: installation: found no verl, expected verl and its engines")
    assert "faithful_rl[cpu]" in error


def test_the_command_answers_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faithful_rl.main", "recipe=fgrpo_tiny", "--cfg", "job"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "models/tiny_warm_start" in done.stdout


def test_quiet_sends_chatter_of_this_process_and_its_children_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with main.quiet(tmp_path / "logs" / "driver.log") as terminal:
        print("python says")
        subprocess.run([sys.executable, "-c", "import os; os.write(1, b'child says'); os.write(2, b'child warns')"], check=True, timeout=60)
        print("step 1 of 60", file=terminal, flush=True)
    print("after")
    assert capfd.readouterr().out == "step 1 of 60\nafter\n"
    log = (tmp_path / "logs" / "driver.log").read_text()
    assert all(words in log for words in ("python says", "child says", "child warns"))


def test_the_shell_wins_over_the_recipes_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = main.prepare(["recipe=fgrpo_tiny"])
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "7"})
    main.set_environment(job.typed, tmp_path)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["VERL_PLATFORM"] == "cpu"
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "faithful_rl.verl_plugin.plugin"
    assert os.environ["TENSORBOARD_DIR"] == str(tmp_path / "tensorboard")


class FakeStack:
    """Stands in for everything that starts processes; `behaviour` is called where training would happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behaviour: Any = lambda config: "finished"
        self.configs: list[Any] = []
        runner = types.ModuleType("faithful_rl.verl_plugin.task_runner")
        runner.run = self._run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "faithful_rl.verl_plugin.task_runner", runner)
        monkeypatch.setattr(verl_plugin, "task_runner", runner, raising=False)
        console = types.ModuleType("faithful_rl.console")
        console.progress = lambda *arguments, **settings: contextlib.nullcontext()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "faithful_rl.console", console)
        monkeypatch.setattr(faithful_rl, "console", console, raising=False)
        monkeypatch.setattr(preflight, "check_static", lambda config, typed: None)
        monkeypatch.setattr(preflight, "check_started", lambda config, typed: None)
        monkeypatch.setattr(preflight, "warnings", lambda config, typed: [])
        monkeypatch.setattr(main, "_show", lambda typed, run_dir: 0)
        monkeypatch.setattr(main, "set_environment", lambda typed, run_dir: None)

    def _run(self, config: Any) -> str:
        self.configs.append(config)
        return self.behaviour(config)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    monkeypatch.chdir(tmp_path)
    return FakeStack(monkeypatch)


def record(run_dir: Path) -> dict[str, Any]:
    found = json.loads((run_dir / "run.json").read_text())
    assert isinstance(found, dict)
    return found


def runs() -> list[Path]:
    return sorted(path for path in Path("outputs/fgrpo_tiny").iterdir() if path.is_dir())


def test_a_finished_run_leaves_its_record_and_the_next_command_starts_a_new_one(stack: FakeStack) -> None:
    assert main.main(["recipe=fgrpo_tiny", "trainer.total_training_steps=5"]) == 0
    (first,) = runs()
    assert record(first)["status"] == "finished"
    config = stack.configs[0]
    assert config.faithful_rl.output_dir == str(first)
    assert config.trainer.default_local_dir == f"{first}/checkpoints"
    assert config.trainer.total_training_steps == 5
    assert (first / "config.yaml").read_text().count("${") == 0
    assert main.main(["recipe=fgrpo_tiny", "trainer.total_training_steps=5"]) == 0
    assert len(runs()) == 2


def test_a_stopped_run_exits_143_and_the_same_command_continues_it(stack: FakeStack) -> None:
    stack.behaviour = lambda config: "stopped"
    assert main.main(["recipe=fgrpo_tiny"]) == 143
    assert record(runs()[0])["status"] == "stopped"
    stack.behaviour = lambda config: "finished"
    assert main.main(["recipe=fgrpo_tiny"]) == 0
    (only,) = runs()
    assert (record(only)["status"], len(record(only)["resumed"])) == ("finished", 1)


def test_another_world_size_is_named_and_another_evaluation_continues(stack: FakeStack, capfd: pytest.CaptureFixture[str]) -> None:
    stack.behaviour = lambda config: "stopped"
    command = ["recipe=fgrpo_tiny", "faithful_rl.output_dir=mine"]
    assert main.main(command) == 143
    capfd.readouterr()
    for mode in ("train", "check"):
        assert main.main([*command, "trainer.n_gpus_per_node=2", f"mode={mode}"]) == 2
        told = capfd.readouterr().err
        assert "found mine with a run of recipe 'fgrpo_tiny' and other settings (" in told
        assert "trainer.n_gpus_per_node: 1 there, 2 now" in told
        assert "repeat the settings in mine/config.yaml to resume" in told
    stack.behaviour = lambda config: "finished"
    words = ["faithful_rl.evaluation.max_questions=8", "trainer.test_freq=7", "faithful_rl.judges.consistency.timeout_seconds=90"]
    assert main.main([*command, *words]) == 0
    assert len(record(Path("mine"))["resumed"]) == 1


def test_a_failed_run_says_one_line_and_keeps_the_traceback(stack: FakeStack, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(config: Any) -> str:
        raise RuntimeError("engine died\nbecause of rank 1")

    stack.behaviour = fail
    assert main.main(["recipe=fgrpo_tiny"]) == 1
    error = capfd.readouterr().err
    assert "error: the run failed with RuntimeError: because of rank 1" in error
    assert "Traceback" not in error
    (only,) = runs()
    assert record(only)["status"] == "failed"
    assert "Traceback" in (only / "logs" / "driver.log").read_text()


def test_a_users_mistake_found_while_running_is_one_line(stack: FakeStack, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(config: Any) -> str:
        raise ConfigError("checkpoints", "another recipe's", "this recipe's", "Choose another faithful_rl.output_dir.")

    stack.behaviour = refuse
    assert main.main(["recipe=fgrpo_tiny"]) == 2
    assert "error: checkpoints: found another recipe's, expected this recipe's." in capfd.readouterr().err
