"""Lagrange multipliers lambda_k: how they move, what is saved of them, and the registry of their kinds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

State = dict[str, Any]  # JSON-able; JSON writes floats so that they read back bit for bit


class Multiplier(Protocol):
    """What the constrained problem needs of a multiplier. Implement it and `register` the class to add a kind."""

    kind: ClassVar[str]

    @property
    def value(self) -> float:
        """lambda_k, finite and >= 0."""

    @property
    def min_applicable(self) -> int:
        """Fewest rollouts that must count before `update` may be called."""

    @property
    def saturated(self) -> bool:
        """The value is at its upper bound, so that further violation has no effect."""

    def update(self, violation: float) -> None:
        """One step after a batch with this violation, threshold minus score."""

    def state_dict(self) -> State:
        """Everything that `load_state_dict` needs to continue bit for bit; contains `kind`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: another kind, or a value out of range.
        """


class _Bounded:
    """What every multiplier has: a value in [0, maximum] and the number of rollouts below which the caller leaves it alone."""

    def __init__(self, start: float, maximum: float, min_applicable: int) -> None:
        _check_range(start, maximum, min_applicable)
        self._value = float(start)
        self._maximum = float(maximum)
        self._min_applicable = int(min_applicable)

    @property
    def value(self) -> float:
        return self._value

    @property
    def min_applicable(self) -> int:
        return self._min_applicable


class FixedMultiplier(_Bounded):
    """lambda_k stays at its start: scalarisation with a constant weight."""

    kind: ClassVar[str] = "fixed"

    def __init__(self, start: float = 1.0, maximum: float = 5.0, min_applicable: int = 0) -> None:
        super().__init__(start, maximum, min_applicable)

    @property
    def saturated(self) -> bool:
        return False

    def update(self, violation: float) -> None:
        """Nothing moves; a violation that is not finite is still refused."""
        _check_violation(violation)

    def state_dict(self) -> State:
        return {"kind": self.kind, "value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        value = _checked_state(state, self.kind, self._maximum)
        if value != self._value:
            raise ValueError(
                f"fixed multiplier was {value} in the checkpoint and is {self._value} in the recipe: set multiplier.start={value} to resume"
            )


class DualAscent(_Bounded):
    r"""Projected dual ascent (Eq. 4).

    $$\lambda_k \leftarrow \mathrm{clip}\left(\lambda_k + \eta\,(\tau_k - c_k),\ 0,\ \lambda_{\max}\right)$$

    Args:
        start: first value, in [0, maximum].
        step_size: eta, > 0.
        maximum: lambda_max, > 0.
        min_applicable: rollouts, >= 0; with fewer the caller leaves the multiplier alone.

    Raises:
        ValueError: a setting out of its range.
    """

    kind: ClassVar[str] = "dual_ascent"

    def __init__(self, start: float = 1.0, step_size: float = 0.05, maximum: float = 5.0, min_applicable: int = 8) -> None:
        super().__init__(start, maximum, min_applicable)
        if not (math.isfinite(step_size) and step_size > 0.0):
            raise ValueError(f"multiplier.step_size must be finite and above 0, got {step_size}")
        self._step_size = float(step_size)

    @property
    def saturated(self) -> bool:
        return self._value >= self._maximum

    def update(self, violation: float) -> None:
        """Eq. 4 with violation = tau_k - c_k.

        Raises:
            ValueError: the violation is not finite.
        """
        _check_violation(violation)
        self._value = min(self._maximum, max(0.0, self._value + self._step_size * violation))

    def state_dict(self) -> State:
        return {"kind": self.kind, "value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._value = _checked_state(state, self.kind, self._maximum)


_KINDS: dict[str, Callable[..., Multiplier]] = {}


def register(kind: str, build: Callable[..., Multiplier]) -> None:
    """Make `kind` known to `build_multiplier`; `build` takes the settings of the recipe's `multiplier` node as keywords.

    Raises:
        ValueError: the kind is taken.
    """
    if kind in _KINDS:
        raise ValueError(f"multiplier kind {kind!r} is already registered")
    _KINDS[kind] = build


def kinds() -> tuple[str, ...]:
    """Registered kinds, sorted."""
    return tuple(sorted(_KINDS))


def build_multiplier(kind: str, **settings: Any) -> Multiplier:
    """A multiplier of a registered kind.

    Raises:
        ValueError: an unknown kind, an unknown setting, or a setting out of its range.
    """
    if kind not in _KINDS:
        raise ValueError(f"multiplier.kind is {kind!r}, expected one of {list(kinds())}")
    try:
        return _KINDS[kind](**settings)
    except TypeError as error:
        raise ValueError(f"multiplier of kind {kind!r} got settings {sorted(settings)}: {error}") from error


def _build_fixed(start: float = 1.0, maximum: float = 5.0, min_applicable: int = 0, step_size: float | None = None) -> Multiplier:
    del step_size  # one recipe node serves every kind; a fixed multiplier takes no steps
    return FixedMultiplier(start, maximum, min_applicable)


register(DualAscent.kind, DualAscent)
register(FixedMultiplier.kind, _build_fixed)


def _check_range(start: float, maximum: float, min_applicable: int) -> None:
    if not (math.isfinite(maximum) and maximum > 0.0):
        raise ValueError(f"multiplier.maximum must be finite and above 0, got {maximum}")
    if not 0.0 <= start <= maximum:
        raise ValueError(f"multiplier.start must lie in [0, {maximum}] (multiplier.maximum), got {start}")
    if min_applicable < 0:
        raise ValueError(f"multiplier.min_applicable must be at least 0 rollouts, got {min_applicable}")


def _check_violation(violation: float) -> None:
    if not math.isfinite(violation):
        raise ValueError(f"violation must be finite, got {violation}: leave the dual step out when a batch has no score")


def _checked_state(state: Mapping[str, Any], kind: str, maximum: float) -> float:
    if state.get("kind") != kind:
        raise ValueError(f"multiplier.kind is {kind!r} in the recipe and {state.get('kind')!r} in the checkpoint")
    value = state.get("value")
    if not isinstance(value, (int, float)) or not 0.0 <= value <= maximum:
        raise ValueError(f"multiplier value in the checkpoint must lie in [0, {maximum}] (multiplier.maximum), found {value!r}")
    return float(value)
