"""Calibration: how far a judge's verdicts can be trusted, measured on labelled cases, and what that means for a constraint's threshold."""

from __future__ import annotations

from collections.abc import Sequence

from faithful_rl.judges.calibration.records import CalibrationRecord, calibration_of, uncalibrated_warning

__all__ = ["CalibrationRecord", "calibration_of", "main", "uncalibrated_warning"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `faithful_rl.judges.calibration.command`."""
    from faithful_rl.judges.calibration import command

    return command.main(argv)
