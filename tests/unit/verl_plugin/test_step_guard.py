"""Steps with NaN: named, counted, and three in a row are the end."""

import pytest

from faithful_rl.verl_plugin.step_guard import StepGuard


def step(guard: StepGuard, number: int, metrics: dict[str, float], reject: str = "") -> dict[str, float]:
    guard.begin_step()
    if reject:
        guard.reject(reject)
    guard.inspect(metrics)
    return guard.end_step(number)


def test_a_clean_step_is_not_counted() -> None:
    guard = StepGuard(limit=3)
    assert step(guard, 1, {"actor/grad_norm": 1.0, "actor/pg_loss": 0.0}) == {
        "guard/nonfinite_skipped": 0.0,
        "guard/nonfinite_in_a_row": 0.0,
    }


@pytest.mark.parametrize("name", ["actor/grad_norm", "actor/pg_loss", "actor/kl_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_or_gradient_that_is_not_finite_is_named(name: str, value: float, caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(limit=3)
    assert step(guard, 7, {name: value})["guard/nonfinite_skipped"] == 1.0
    assert f"step 7: update skipped, {name} is {value}" in caplog.text


def test_only_steps_in_a_row_end_the_run() -> None:
    guard = StepGuard(limit=3)
    for number, broken in enumerate([True, True, False, True, True]):
        step(guard, number, {"actor/grad_norm": float("nan") if broken else 1.0})
        assert not guard.exhausted
    step(guard, 6, {}, reject="2 advantages are not finite")
    assert guard.exhausted


def test_the_first_reason_is_kept() -> None:
    guard = StepGuard(limit=3)
    guard.begin_step()
    guard.reject("first")
    guard.reject("second")
    assert guard.rejected == "first"


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="stop_after_nonfinite_steps"):
        StepGuard(limit=0)
