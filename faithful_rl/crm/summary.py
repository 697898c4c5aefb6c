"""What a trained consistency model is worth, as text; reads its manifest only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faithful_rl.crm.files import MANIFEST


def table(model_dir: Path) -> str:
    """A few lines for the terminal: quality on held-out pairs, in all and by origin, and how to use the model."""
    manifest = json.loads((model_dir / MANIFEST).read_text(encoding="utf-8"))
    metrics = manifest["metrics"]
    lines = [
        f"{manifest['recipe']}, seed {manifest['seed']}: {metrics['pairs']} held-out pairs, {manifest['parameters']:,} parameters",
        "",
        f"{'':<24}{'pairs':>7}{'accuracy':>10}{'AUROC':>8}{'ECE':>8}{'kappa':>8}  95% interval",
        _line("all", metrics),
        *(_line(origin, found) for origin, found in metrics["by_origin"].items()),
        "",
        f"ECE before temperature scaling {metrics['calibration_error_before']:.3f}; temperature {manifest['temperature']:.3f}, "
        f"threshold {manifest['threshold']:.2f}",
        f"Model: {model_dir}",
        f"As a judge: faithful_rl.judges.consistency.backend=classifier +faithful_rl.judges.consistency.options.model={model_dir}",
    ]
    return "\n".join(lines)


def _line(name: str, found: dict[str, Any]) -> str:
    value, low, high = found["kappa"]
    interval = "" if low is None or high is None else f"  {low:.3f} to {high:.3f}"
    return (
        f"{name:<24}{found['pairs']:>7}{found['accuracy']:>10.3f}{_number(found['auroc']):>8}{found['calibration_error']:>8.3f}"
        f"{_number(value):>8}{interval}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
