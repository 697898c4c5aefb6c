"""How long a step waits for judges: each rollout carries when its text was there and when its reward was, in seconds since the epoch.

Times come from the agent loop workers; where these run on several machines, their clocks' difference goes into the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faithful_rl.metrics import JUDGE_EXPOSED, JUDGE_SECONDS

TIMES_KEY = "judged_between"  # in a rollout's extra fields: (text was generated, reward was there)


def step_metrics(fields: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of a step from the extra fields of its rollouts; {} where none carries times.

    Exposed: from the last generated text to the last reward. With judges that answer at once, the step would have been shorter by
    this and no more. It is at least 0, because every reward comes after its own text.
    """
    times = [one[TIMES_KEY] for one in fields if one.get(TIMES_KEY)]
    if not times:
        return {}
    last_text, last_reward = max(began for began, _ in times), max(ended for _, ended in times)
    return {JUDGE_EXPOSED: float(last_reward - last_text), JUDGE_SECONDS: float(sum(ended - began for began, ended in times))}
