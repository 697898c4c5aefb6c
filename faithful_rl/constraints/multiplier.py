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
    def limit(self) -> float | None:
        """Upper bound to which violations can drive the value, > 0; None where no violation moves it."""

    @property
    def saturated(self) -> bool:
        """The value is at `limit`, so that further violation has no effect."""

    def update(self, violation: float) -> None:
        """One step after a batch with this violation: how far the score is on the wrong side of its threshold, < 0 where it holds."""

    def advance(self, step: int) -> None:
        """Training step `step` (counted from 1) ends, measured or not: the value becomes that of step + 1."""

    def state_dict(self) -> State:
        """Everything that `load_state_dict` needs to continue bit for bit; contains `kind`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: another kind, or a value out of range.
        """


class BoundedMultiplier:
    """What every multiplier has: a value in [0, maximum] and the number of rollouts below which the caller leaves it alone.

    Raises:
        ValueError: a start outside [0, maximum], a maximum that is not finite and above 0, or a negative minimum.
    """

    kind: ClassVar[str] = ""

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

    @property
    def limit(self) -> float | None:
        return self._maximum

    @property
    def saturated(self) -> bool:
        return self.limit is not None and self._value >= self.limit

    def advance(self, step: int) -> None:
        """Only kinds that follow a schedule care about the step."""

    def bounded(self, value: float) -> float:
        """`value` moved into [0, maximum]."""
        return min(self._maximum, max(0.0, value))

    def state_dict(self) -> State:
        return {"kind": self.kind, "value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("kind") != self.kind:
            raise ValueError(f"multiplier.kind is {self.kind!r} in the recipe and {state.get('kind')!r} in the checkpoint")
        self._value = checked_number(state, "value", 0.0, self._maximum, "multiplier.maximum")


class FixedMultiplier(BoundedMultiplier):
    """lambda_k stays at its start: scalarisation with a constant weight."""

    kind: ClassVar[str] = "fixed"

    def __init__(self, start: float = 1.0, maximum: float = 5.0, min_applicable: int = 0) -> None:
        super().__init__(start, maximum, min_applicable)

    @property
    def limit(self) -> float | None:
        return None

    def update(self, violation: float) -> None:
        """Nothing moves; a violation that is not finite is still refused."""
        check_violation(violation)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        mine = self._value
        super().load_state_dict(state)
        if self._value != mine:
            theirs, self._value = self._value, mine
            raise ValueError(
                f"fixed multiplier was {theirs} in the checkpoint and is {mine} in the recipe: set multiplier.start={theirs} to resume"
            )


class DualAscent(BoundedMultiplier):
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
        self._step_size = checked_step_size(step_size)

    def update(self, violation: float) -> None:
        """Eq. 4 with violation = tau_k - c_k.

        Raises:
            ValueError: the violation is not finite.
        """
        check_violation(violation)
        self._value = self.bounded(self._value + self._step_size * violation)


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
    """A multiplier of a registered kind. One node serves every kind: settings of another kind may be there with their neutral value.

    Raises:
        ValueError: an unknown kind, an unknown setting, one that this kind does not have, or one out of its range.
    """
    if kind not in _KINDS:
        raise ValueError(f"multiplier.kind is {kind!r}, expected one of {list(kinds())}")
    try:
        return _KINDS[kind](**settings)
    except TypeError as error:
        raise ValueError(f"multiplier of kind {kind!r} got settings {sorted(settings)}: {error}") from error


NEUTRAL: dict[str, Any] = {"proportional": 0.0, "derivative": 0.0, "damping": 0.0, "schedule": None}


def without_neutral(kind: str, settings: Mapping[str, Any], *, keep: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """`settings` less those of other kinds.

    Args:
        keep: settings of `NEUTRAL` that this kind has.
        ignore: settings that this kind does not need, whatever their value.

    Raises:
        ValueError: a setting of another kind has been given a value.
    """
    foreign = [name for name, neutral in NEUTRAL.items() if name not in keep and settings.get(name, neutral) != neutral]
    if foreign:
        raise ValueError(
            f"multiplier.{foreign[0]} is set, but multiplier.kind is {kind!r}, which has none: leave it out, or change the kind"
        )
    return {name: value for name, value in settings.items() if name not in ignore and (name not in NEUTRAL or name in keep)}


register(DualAscent.kind, lambda **settings: DualAscent(**without_neutral("dual_ascent", settings)))
# A fixed multiplier takes no steps.
register(FixedMultiplier.kind, lambda **settings: FixedMultiplier(**without_neutral("fixed", settings, ignore=("step_size",))))


def checked_step_size(step_size: float) -> float:
    """eta, finite and above 0.

    Raises:
        ValueError: it is not.
    """
    if not (math.isfinite(step_size) and step_size > 0.0):
        raise ValueError(f"multiplier.step_size must be finite and above 0, got {step_size}")
    return float(step_size)


def check_violation(violation: float) -> None:
    """Refuse a violation that is not finite."""
    if not math.isfinite(violation):
        raise ValueError(f"violation must be finite, got {violation}: leave the dual step out when a batch has no score")


def checked_number(state: Mapping[str, Any], name: str, low: float, high: float, bound: str = "") -> float:
    """A number of a saved state, in [low, high].

    Raises:
        ValueError: it is missing, no number, or out of range.
    """
    value = state.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        what = "multiplier value" if name == "value" else f"multiplier {name}"
        raise ValueError(f"{what} in the checkpoint must lie in [{low:g}, {high}]{f' ({bound})' if bound else ''}, found {value!r}")
    return float(value)


def _check_range(start: float, maximum: float, min_applicable: int) -> None:
    if not (math.isfinite(maximum) and maximum > 0.0):
        raise ValueError(f"multiplier.maximum must be finite and above 0, got {maximum}")
    if not 0.0 <= start <= maximum:
        raise ValueError(f"multiplier.start must lie in [0, {maximum}] (multiplier.maximum), got {start}")
    if min_applicable < 0:
        raise ValueError(f"multiplier.min_applicable must be at least 0 rollouts, got {min_applicable}")
