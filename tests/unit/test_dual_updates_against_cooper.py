"""Our multipliers beside cooper's on small convex problems whose multipliers are known, step by step.

min x^2 + y^2  subject to  x + y >= 1,  x <= 5        solution x = y = 1/2, multipliers 1 and 0
min (x - 3)^2  subject to  x <= 1                     solution x = 1, multiplier 4
"""

import cooper
import pytest
import torch

from faithful_rl.constraints import build_multiplier

PRIMAL_RATE = 0.05


class Problem(cooper.ConstrainedMinimizationProblem):
    """One inequality constraint for each start value; `loss` and `violations` of the point."""

    def __init__(self, loss, violations, starts):
        super().__init__()
        self._loss, self._violations = loss, violations
        self._names = [f"constraint_{number}" for number in range(len(starts))]
        for name, start in zip(self._names, starts, strict=True):
            multiplier = cooper.multipliers.DenseMultiplier(init=torch.tensor([start], dtype=torch.float64), dtype=torch.float64)
            setattr(self, name, cooper.Constraint(constraint_type=cooper.ConstraintType.INEQUALITY, multiplier=multiplier))

    def compute_cmp_state(self, point):
        violations = self._violations(point)
        observed = {
            getattr(self, name): cooper.ConstraintState(violation=violation.reshape(1))
            for name, violation in zip(self._names, violations, strict=True)
        }
        return cooper.CMPState(loss=self._loss(point), observed_constraints=observed)

    def values(self):
        return [float(getattr(self, name).multiplier.weight.detach()[0]) for name in self._names]


def coopers(loss, violations, start_point, starts, dual, steps):
    """Trace of (point, multipliers) by cooper's simultaneous updates."""
    point = torch.nn.Parameter(torch.tensor(start_point, dtype=torch.float64))
    problem = Problem(loss, violations, starts)
    optimizer = cooper.optim.SimultaneousOptimizer(problem, torch.optim.SGD([point], lr=PRIMAL_RATE), dual(problem.dual_parameters()))
    trace = []
    for _ in range(steps):
        optimizer.roll(compute_cmp_state_kwargs={"point": point})
        trace.append((point.detach().tolist(), problem.values()))
    return trace


def ours(loss, violations, start_point, multipliers, steps):
    """The same with our multipliers, gradients by torch."""
    point = torch.tensor(start_point, dtype=torch.float64, requires_grad=True)
    trace = []
    for _ in range(steps):
        found = violations(point)
        lagrangian = loss(point) + sum(multiplier.value * violation for multiplier, violation in zip(multipliers, found, strict=True))
        (gradient,) = torch.autograd.grad(lagrangian, point)
        for multiplier, violation in zip(multipliers, found, strict=True):
            multiplier.update(violation.item())
        point = (point - PRIMAL_RATE * gradient).detach().requires_grad_()
        trace.append((point.tolist(), [multiplier.value for multiplier in multipliers]))
    return trace


def assert_same(left, right):
    for (point, multipliers), (other_point, others) in zip(left, right, strict=True):
        assert point == pytest.approx(other_point, abs=1e-12)
        assert multipliers == pytest.approx(others, abs=1e-12)


def test_dual_ascent_finds_the_known_multipliers_as_cooper_does():
    def loss(point):
        return (point**2).sum()

    def violations(point):
        return [1.0 - point.sum(), point[0] - 5.0]

    multipliers = [build_multiplier("dual_ascent", start=0.3, step_size=0.1, maximum=50.0) for _ in range(2)]
    mine = ours(loss, violations, [2.0, -1.0], multipliers, 800)
    theirs = coopers(loss, violations, [2.0, -1.0], [0.3, 0.3], lambda parameters: torch.optim.SGD(parameters, lr=0.1, maximize=True), 800)
    assert_same(mine, theirs)
    assert mine[-1][0] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert mine[-1][1] == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.3, 0.8])
def test_pi_finds_the_known_multiplier_as_coopers_nupi_does(damping):
    def loss(point):
        return ((point - 3.0) ** 2).sum()

    def violations(point):
        return [point[0] - 1.0]

    own = build_multiplier("pi", start=2.0, step_size=0.2, proportional=0.5, damping=damping, maximum=50.0)
    mine = ours(loss, violations, [2.0], [own], 600)

    def nupi(parameters):
        zeros = cooper.optim.nuPIInitType.ZEROS
        return cooper.optim.nuPI(
            parameters,
            lr=1.0,
            Kp=torch.tensor(0.5, dtype=torch.float64),
            Ki=torch.tensor(0.2, dtype=torch.float64),
            ema_nu=damping,
            init_type=zeros,
            maximize=True,
        )

    theirs = coopers(loss, violations, [2.0], [2.0], nupi, 600)
    assert_same(mine, theirs)
    assert mine[-1][0] == pytest.approx([1.0], abs=1e-6)
    assert mine[-1][1] == pytest.approx([4.0], abs=1e-5)
