"""The compare command: what it runs, what it keeps, and what it refuses before anything is trained."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from faithful_rl import comparable, compare
from faithful_rl.compare import Plan, check, main, parse, run_dir_of
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.main import prepare, resolved
from faithful_rl.report.comparison import method_label
from faithful_rl.run_directory import RUN


def test_words_become_a_plan(tmp_path: Path) -> None:
    plan = parse(["recipes=[grpo_tiny,hras_tiny]", "seeds=[2,5]", f"out={tmp_path}", "jobs=2", "trainer.total_training_steps=4"])
    assert plan == Plan(("grpo_tiny", "hras_tiny"), (2, 5), tmp_path, 2, None, ("trainer.total_training_steps=4",))
    assert plan.pairs == [("grpo_tiny", 2), ("hras_tiny", 2), ("grpo_tiny", 5), ("hras_tiny", 5)]
    assert parse(["recipes=grpo_tiny", "seeds=7"]).pairs == [("grpo_tiny", 7)]
    assert parse([]) == Plan()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("grpo_tiny", "found 'grpo_tiny', expected key=value"),
        ("recipes=[]", "recipes: found '[]', expected a list of distinct names"),
        ("recipes=[a,a]", "distinct names"),
        ("recipes=[a", "recipes: found '[a'"),
        ("seeds=[a]", "seeds: found '[a]', expected a list of distinct whole numbers"),
        ("jobs=0", "jobs: found '0'"),
        ("recipe=grpo_tiny", "recipe: found 'grpo_tiny', expected recipes, seeds and out"),
        ("faithful_rl.seed=1", "Leave it out."),
        ("mode=dry", "mode: found 'dry', expected train or check"),
        ("differences=hide", "differences: found 'hide', expected refuse or allow"),
    ],
)
def test_wrong_words_are_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([word])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("recipes", "key"),
    [
        (("grpo_tiny", "sft_tiny"), "recipes"),
        (("grpo_tiny", "grpo_7b"), "actor_rollout_ref.model.path"),
        (("grpo_tiny", "grpo_tini"), "recipe"),
    ],
)
def test_what_cannot_be_compared_is_refused(recipes: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Plan(recipes))
    assert caught.value.key == key


def test_the_methods_of_the_table_can_be_compared() -> None:
    check(Plan(("grpo_tiny", "additive_tiny", "multiplicative_tiny", "fgrpo_fixed_tiny", "hras_tiny", "gdpo_tiny", "fgrpo_tiny")))


def test_what_differs_besides_the_method_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """The six designs train without a KL penalty, the other recipes with one."""
    with pytest.raises(ConfigError) as caught:
        check(Plan(("grpo_tiny", "design_vanilla_tiny")))
    assert "(actor_rollout_ref.actor.use_kl_loss: False in design_vanilla_tiny, True in grpo_tiny)" in str(caught.value)
    assert "differences=allow" in str(caught.value)
    assert check(Plan(("grpo_tiny", "design_vanilla_tiny"), settings=("actor_rollout_ref.actor.use_kl_loss=false",))) == []
    allowed = check(Plan(("grpo_tiny", "design_vanilla_tiny"), allow_differences=True))
    assert allowed == ["actor_rollout_ref.actor.use_kl_loss: False in design_vanilla_tiny, True in grpo_tiny"]


def settings_of(*overrides: str) -> tuple[dict[str, Any], FaithfulRLConfig]:
    job = prepare(overrides)
    return resolved(job.composed), job.typed


def test_every_key_that_is_compared_exists() -> None:
    config, typed = settings_of("recipe=grpo_tiny")
    missing = [key for key in (*comparable.START, *comparable.LEARNING) if not exists(config, key)]
    assert missing == []
    assert comparable.heldout_judges(typed) == "scene"


def exists(node: Any, key: str) -> bool:
    head, _, rest = key.partition(".")
    return head in node and (not rest or exists(node[head], rest))


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("actor_rollout_ref.actor.kl_loss_coef=0.01", ["actor_rollout_ref.actor.kl_loss_coef"]),
        ("actor_rollout_ref.actor.optim.lr=1e-5", ["actor_rollout_ref.actor.optim.lr"]),
        ("actor_rollout_ref.actor.use_kl_loss=false", ["actor_rollout_ref.actor.use_kl_loss"]),
        ("actor_rollout_ref.rollout.temperature=0.7", ["actor_rollout_ref.rollout.temperature"]),
        ("data.max_response_length=64", ["data.max_response_length"]),
        ("faithful_rl.judges.consistency.backend=fake", [comparable.HELDOUT_JUDGES]),
        ("faithful_rl.judges.ask_masked=false", []),  # how much is asked in training
        ("advantage=dr_grpo", []),  # the method, its way to average the loss included
        ("faithful_rl.rewards.design=vanilla", []),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=10", []),  # the machine
        ("trainer.save_freq=5", []),
    ],
)
def test_what_belongs_to_the_method_or_the_machine_may_differ(word: str, found: list[str]) -> None:
    one, other = (comparable.learning(*settings_of("recipe=grpo_tiny", *words)) for words in ([], [word]))
    assert comparable.differences(one, other) == found


def test_a_designs_prompt_is_part_of_the_design() -> None:
    """Puzzles lie in another folder for each prompt; other puzzles are other questions."""
    vanilla, mixture, think, fewer = (
        comparable.start(*settings_of(*words))
        for words in (
            ["recipe=design_vanilla_7b"],
            ["recipe=design_mixture_7b"],
            ["recipe=design_vanilla_7b", "faithful_rl.data.puzzles.prompt=think"],
            ["recipe=design_vanilla_7b", "faithful_rl.data.puzzles.train=4000"],
        )
    )
    assert comparable.differences(vanilla, mixture) == []
    assert comparable.differences(vanilla, think) == comparable.differences(vanilla, fewer) == [comparable.PUZZLES]


def test_a_reward_model_in_training_is_the_method_and_one_that_measures_is_not() -> None:
    exact, trained, itself = (
        comparable.learning(*settings_of(*words))
        for words in (["recipe=hras_tiny"], ["recipe=cora_tiny"], ["recipe=cora_tiny", "faithful_rl.judges.heldout=same"])
    )
    assert comparable.differences(exact, trained) == []
    assert comparable.differences(exact, itself) == [comparable.HELDOUT_JUDGES]
    assert itself[comparable.HELDOUT_JUDGES].startswith("consistency: classifier ")


def test_a_check_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: pytest.fail("started"))
    looked: list[tuple[str, str]] = []
    monkeypatch.setattr(compare.preflight, "check_static", lambda config, typed: looked.append((typed.recipe, typed.output_dir)))
    monkeypatch.setattr(compare.preflight, "warnings", lambda config, typed: ["short"] if typed.recipe == "design_mixture_tiny" else [])
    words = ["recipes=[design_vanilla_tiny,design_mixture_tiny]", "seeds=[0,1]", f"out={tmp_path / 'c'}", "mode=check"]
    assert main(words) == 0
    assert looked == [(recipe, str(tmp_path / "c" / f"{recipe}-seed0")) for recipe in ("design_vanilla_tiny", "design_mixture_tiny")]
    printed = capsys.readouterr().out
    assert "design_vanilla_tiny: checked" in printed
    assert "design_mixture_tiny: warning: short" in printed
    assert f"4 runs would go into {tmp_path / 'c'}; nothing was started." in printed
    assert not (tmp_path / "c").exists()


def test_allowed_differences_stand_below_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def results(run_dirs: list[Path], out: Path, figure: Path | None) -> None:
        (out / "comparison.md").write_text("a table\n")

    monkeypatch.setattr(subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(compare, "write_results", results)
    monkeypatch.setattr(compare.comparison, "markdown", lambda found: "")
    assert main(["recipes=[grpo_tiny,design_vanilla_tiny]", "seeds=[0]", f"out={tmp_path}", "differences=allow"]) == 0
    line = "actor_rollout_ref.actor.use_kl_loss: False in design_vanilla_tiny, True in grpo_tiny"
    assert (tmp_path / "comparison.md").read_text().startswith("a table\n")
    assert f"- {line}\n" in (tmp_path / "comparison.md").read_text()
    assert f"warning: {line}" in capsys.readouterr().err


def test_finished_runs_are_kept_and_the_rest_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def fake_run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["timeout"] > 0
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake_run)
    monkeypatch.setattr(compare, "write_results", lambda *arguments: None)
    monkeypatch.setattr(compare.comparison, "markdown", lambda found: "")
    done = run_dir_of(tmp_path, "grpo_tiny", 0)
    done.mkdir()
    told = ["recipe=grpo_tiny", "faithful_rl.seed=0", f"faithful_rl.output_dir={done}", "trainer.total_training_steps=4"]
    (done / RUN).write_text(json.dumps({"status": "finished", "command": ["python", "-m", "faithful_rl.main", *told]}))
    assert main(["recipes=[grpo_tiny,hras_tiny]", "seeds=[0,1]", f"out={tmp_path}", "trainer.total_training_steps=4"]) == 0
    given = [[word for word in command[3:] if not word.startswith("faithful_rl.output_dir")] for command in commands]
    assert given == [
        ["recipe=hras_tiny", "faithful_rl.seed=0", "trainer.total_training_steps=4", "faithful_rl.evaluation.at_start=false"],
        ["recipe=grpo_tiny", "faithful_rl.seed=1", "trainer.total_training_steps=4"],
        ["recipe=hras_tiny", "faithful_rl.seed=1", "trainer.total_training_steps=4", "faithful_rl.evaluation.at_start=false"],
    ]


def test_a_failed_run_ends_with_code_one_and_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        options["stdout"].write("error: data.train_files: found nothing.\n")
        options["stdout"].flush()
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(subprocess, "run", failing)
    assert main(["recipes=[grpo_tiny]", "seeds=[0]", f"out={tmp_path}"]) == 1
    printed = capsys.readouterr()
    assert "the same command continues them" in printed.err
    assert "exit code 2 after 0 s; error: data.train_files: found nothing." in printed.out


def test_a_run_without_an_end_is_ended_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", endless)
    assert main(["recipes=[grpo_tiny]", "seeds=[0]", f"out={tmp_path}"]) == 1
    assert "error: no end after 86400 s" in capsys.readouterr().out


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_dir_of(tmp_path, "grpo_tiny", 0)
    done.mkdir()
    told = ["recipe=grpo_tiny", "faithful_rl.seed=0", f"faithful_rl.output_dir={done}", "trainer.total_training_steps=80"]
    (done / RUN).write_text(json.dumps({"status": "finished", "command": ["python", "-m", "faithful_rl.main", *told]}))
    assert main(["recipes=[grpo_tiny]", "seeds=[0]", f"out={tmp_path}", "trainer.total_training_steps=4"]) == 2
    assert "was told otherwise: trainer.total_training_steps=4, trainer.total_training_steps=80" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes=[grpo_tiny]", "out=/dev/null/runs"]) == 2
    assert "out: found /dev/null/runs, which cannot be made (Not a directory)" in capsys.readouterr().err


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only-report", f"out={tmp_path}"]) == 2
    assert "without a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "label"),
    [("grpo_tiny", "GRPO"), ("additive_7b", "GRPO, additive reward"), ("fgrpo_pid_tiny", "FGRPO, PID"), ("mine", "mine")],
)
def test_a_method_has_one_name_at_every_size(recipe: str, label: str) -> None:
    assert method_label(recipe) == label
