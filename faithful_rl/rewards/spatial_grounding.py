"""R_G: do the boxes that the reasoning cites match the reference boxes? (Eq. 1)"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.optimize import linear_sum_assignment

from faithful_rl.geometry import as_array, ciou_matrix
from faithful_rl.types import Box, Reason, Score


def matched_ciou(predicted: Sequence[Box], reference: Sequence[Box]) -> float:
    r"""Eq. 1 before clipping: the best one-to-one matching of N predicted to M reference boxes.

    $$R_G = \frac{1}{\max(N, M)} \max_{\sigma} \sum_{i} \mathrm{CIoU}(p_i, r_{\sigma(i)})$$

    The matching pairs min(N, M) boxes, as the Hungarian algorithm does, even where a CIoU is negative. Missing, extra and
    repeated boxes all cost, because the divisor is max(N, M).

    Args:
        predicted, reference: boxes in one frame, each possibly empty.

    Returns:
        In (-2, 1]; 0.0 when either side is empty.
    """
    if not predicted or not reference:
        return 0.0
    agreement = ciou_matrix(as_array(predicted), as_array(reference))
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    return float(agreement[rows, columns].sum() / max(len(predicted), len(reference)))


def spatial_grounding_score(predicted: Sequence[Box], reference: Sequence[Box]) -> Score:
    """R_G in [0, 1]: `matched_ciou` clipped, since a single CIoU can be negative while Eq. 5 averages values in [0, 1].

    No reference box: unscored, NO_REFERENCE. No predicted box: 0.
    """
    if not reference:
        return Score(None, Reason.NO_REFERENCE)
    return Score(min(1.0, max(0.0, matched_ciou(predicted, reference))))
