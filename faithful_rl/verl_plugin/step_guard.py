"""What happens when a training step meets NaN or infinity: the update is skipped and named; several in a row end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

logger = logging.getLogger(__name__)

# verl's names after an update; a value that is not finite means that the gradient was not.
WATCHED = ("actor/grad_norm", "actor/pg_loss", "actor/kl_loss", "actor/loss")


class StepGuard:
    """Counts non-finite steps.

    verl's FSDP engine itself leaves the weights alone when a gradient norm is not finite, so a step that is found out only
    afterwards has done no harm either; it is counted all the same.

    Args:
        limit: steps in a row after which the run must stop, >= 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"faithful_rl.stop_after_nonfinite_steps must be at least 1, got {limit}")
        self.limit = limit
        self.in_a_row = 0
        self._reason = ""

    def begin_step(self) -> None:
        self._reason = ""

    def reject(self, reason: str) -> None:
        """This step must not update the policy; keeps the first reason."""
        self._reason = self._reason or reason

    @property
    def rejected(self) -> str:
        """Why this step was rejected; "" when it was not."""
        return self._reason

    def inspect(self, metrics: Mapping[str, float]) -> None:
        """Reject the step if verl reports a loss or gradient norm that is not finite."""
        for name in WATCHED:
            value = metrics.get(name)
            if value is not None and not math.isfinite(float(value)):
                self.reject(f"{name} is {float(value)}")
                return

    def end_step(self, step: int) -> dict[str, float]:
        """Close the step; returns its metrics."""
        self.in_a_row = self.in_a_row + 1 if self._reason else 0
        if self._reason:
            logger.error("step %d: update skipped, %s (%d in a row, the run stops at %d)", step, self._reason, self.in_a_row, self.limit)
        return {"guard/nonfinite_skipped": float(bool(self._reason)), "guard/nonfinite_in_a_row": float(self.in_a_row)}

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= self.limit
