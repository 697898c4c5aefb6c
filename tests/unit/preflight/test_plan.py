"""What one step asks for, and constraints that could never take effect."""

import pytest
from preflight_world import World, boxed, row, without_boxes, write_rows

LENGTH = "+faithful_rl.constraints.response_tokens"
CONSISTENCY = "faithful_rl.constraints.consistency"


def test_a_sound_world_passes_and_the_plan_names_what_one_step_asks_for(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run() == 0
    plan = capsys.readouterr().out
    assert "16 prompts x 5 rollouts = 80 rollouts, at most 17,920 tokens, at most 160 judge requests" in plan  # 80 * (128 + 96)
    assert "constraints consistency >= 0.95 (dual_ascent), semantic_grounding >= 0.95 (dual_ascent), spatial_grounding >= 0.65" in plan
    assert "together" in plan
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["constraints=none", "faithful_rl.method=grpo"], "at most 160 judge requests"),  # asked for the metrics' sake
        (["constraints=consistency", "faithful_rl.judges.grounding_in_training=false"], "at most 80 judge requests"),
        (["trainer.total_training_steps=null", "trainer.total_epochs=4"], "steps      12 (trainer.total_epochs: 4)"),
        (["trainer.total_training_steps=4"], "lr_warmup_steps is 5, the run has 4 updates: its rate stays below optim.lr."),
    ],
)
def test_the_plan_counts_requests_and_steps(words: list[str], line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run(*words) == 0
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            f"{CONSISTENCY}.multiplier.first_step=81",
            "faithful_rl.constraints.consistency.multiplier.first_step: found 81, expected at most 79: an update acts in the step after it, "
            "and the run has 80 steps. Lower it, or raise trainer.total_training_steps.",
        ),
        (f"{CONSISTENCY}.multiplier={{first_step:80,update_every:20}}", "multiplier.first_step: found 80, expected at most 79"),
        (
            f"{CONSISTENCY}.multiplier.update_every=79",
            "multiplier.update_every: found 79, expected at most 78, so that a second update (after the one at step 1) acts in the run's 80",
        ),
        (
            f"{CONSISTENCY}.threshold_schedule={{kind:relative,share:0.5,measure:79}}",
            "threshold_schedule.measure: found 79 batches, after which the first update comes at step 80, expected a first update before",
        ),
        (
            f"{CONSISTENCY}={{threshold_schedule:{{kind:relative,share:0.5,measure:40}},multiplier:{{update_every:50}}}}",
            "multiplier.update_every: found 50, expected at most 28, so that a second update (after the one at step 51) acts",
        ),
        (
            f"{CONSISTENCY}.multiplier.min_applicable=81",
            "multiplier.min_applicable: found 81, expected at most the 80 rollouts of a step: with more the multiplier never moves. Lower it, "
            "or raise data.train_batch_size.",
        ),
        (
            f"{CONSISTENCY}.threshold_schedule={{kind:linear,start:0.5,begin:50,steps:50}}",
            "faithful_rl.constraints.consistency.threshold_schedule: found a change that ends at step 100, expected an end within the run's 80 "
            "steps. Shorten it, or raise trainer.total_training_steps.",
        ),
        (
            f"{CONSISTENCY}.multiplier={{kind:schedule,schedule:{{kind:linear,start:0,end:1,steps:200}}}}",
            "faithful_rl.constraints.consistency.multiplier.schedule: found a change that ends at step 200",
        ),
        (
            f"{LENGTH}={{threshold:300,mask:none,direction:at_most}}",
            "faithful_rl.constraints.response_tokens.threshold: found 300.0, expected at most data.max_response_length = 96 tokens",
        ),
        (
            f"+{CONSISTENCY}.by_source={{sat:0.5}}",
            "faithful_rl.constraints.consistency.by_source: found 'sat', expected one of the data's sources: scenes. Correct the name",
        ),
    ],
)
def test_constraints_that_would_never_take_effect_are_refused(
    world: World, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run(override) == 2
    assert message in capsys.readouterr().err


def test_steps_are_counted_from_epochs_where_nobody_says_how_many(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trainer.total_training_steps=null", "trainer.total_epochs=3", f"{CONSISTENCY}.multiplier.first_step=10"]
    assert world.run(*words) == 2  # 48 rows in batches of 16 are 3 steps an epoch
    assert "and the run has 9 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [f"{CONSISTENCY}.multiplier={{first_step:79}}"],
        [f"{CONSISTENCY}.multiplier.update_every=78"],  # steps 1 and 79
        [f"{CONSISTENCY}.multiplier={{first_step:40,update_every:38}}"],  # steps 40 and 78
        [f"{CONSISTENCY}.threshold_schedule={{kind:relative,share:0.5,measure:78}}"],  # first held against a threshold in step 79
        [f"{CONSISTENCY}.multiplier.min_applicable=80"],
        [f"{CONSISTENCY}.multiplier={{kind:fixed,min_applicable:500}}"],  # nothing moves it anyway
        ["trainer.total_training_steps=1"],  # a run of one step is how one tries a recipe
        [f"{CONSISTENCY}.by_source.scenes=0.9"],
    ],
)
def test_what_acts_in_the_last_step_is_taken(world: World, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("actor_rollout_ref.actor.optim.lr_warmup_steps=0", *words) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ([f"{CONSISTENCY}.multiplier.window=80"], "multiplier.window is 80, and the last update that acts has seen 79 batches"),
        (["faithful_rl.constraint_patience=81"], "constraint_patience is 81, the run has 80 steps"),
        ([f"{LENGTH}={{threshold:96,mask:none,direction:<=}}"], "response_tokens is always at most 96, so at_most 96 never binds."),
        ([f"{CONSISTENCY}.multiplier={{kind:fixed,start:0}}"], "consistency.multiplier is fixed at 0: the constraint has no part in the"),
        ([f"{LENGTH}={{threshold:0,mask:none}}"], "response_tokens is always at least 0, so at_least 0 never binds."),
        (
            [f"{CONSISTENCY}={{multiplier:{{kind:fixed}},threshold_schedule:{{kind:linear,start:0.5,steps:9}}}}"],
            "threshold_schedule moves the threshold that is reported and nothing else: a multiplier of kind fixed answers no violation.",
        ),
    ],
)
def test_what_does_less_than_it_says_is_told(world: World, words: list[str], warning: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run(*words) == 0
    assert warning in capsys.readouterr().out


def test_a_mask_that_holds_for_no_row_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    without_boxes(world)
    assert world.run() == 2
    told = capsys.readouterr().err
    assert "faithful_rl.constraints.spatial_grounding: found a constraint on spatial_grounding with the mask has_reference_boxes" in told
    assert "expected columns that this data gives a value: task, accuracy, format, consistency, semantic_grounding, sentence_count" in told
    assert "leave it out: ~faithful_rl.constraints.spatial_grounding." in told
    assert world.run("~faithful_rl.constraints.spatial_grounding") == 0


@pytest.mark.parametrize(
    ("advantage", "warning"),
    [
        ("additive", "no row of data.train_files has ground-truth boxes: spatial_grounding will have no part in the advantage (additive)."),
        (
            "gdpo",
            "judges are asked about right answers only (faithful_rl.judges.ask_masked=false): consistency, semantic_grounding will be",
        ),
    ],
)
def test_a_signal_that_nobody_will_measure_is_told(advantage: str, warning: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"advantage={advantage}", "constraints=none", "faithful_rl.method=grpo", "faithful_rl.judges.ask_masked=false"]
    without_boxes(world)
    assert world.run(*words) == 0
    assert warning in capsys.readouterr().out
    write_rows(world.data, [row(), *(boxed() for _ in range(47))])
    assert world.run(*words[:3]) == 0
    assert "warning" not in capsys.readouterr().out


def test_more_steps_than_the_epochs_hold_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("trainer.total_epochs=26") == 2  # 48 rows in batches of 16: 78 of the 80 steps
    assert capsys.readouterr().err == (
        "error: trainer.total_training_steps: found 80, expected at most the 78 steps of trainer.total_epochs = 26, after which verl ends "
        "without a word. Set trainer.total_epochs=27, or train for fewer steps.\n"
    )
    assert world.run("trainer.total_epochs=27") == 0
