"""The names that preflight knows are those that verl and vLLM take."""

from __future__ import annotations

from typing import get_args

import pytest

from faithful_rl.preflight import values

pytest.importorskip("verl")


def test_loggers_are_verls() -> None:
    from verl.utils.tracking import Tracking

    assert set(values.LOGGERS) == set(Tracking.supported_backend)


def test_verls_workers_take_every_type() -> None:
    from verl.utils.torch_dtypes import PrecisionType

    for name in values.TRAINING_TYPES:
        PrecisionType.to_dtype(name)
    with pytest.raises(RuntimeError):
        PrecisionType.to_dtype("bf17")


def test_vllm_takes_every_type() -> None:
    pytest.importorskip("vllm")
    from vllm.config.model import ModelDType

    assert set(values.SERVER_TYPES) == set(get_args(ModelDType))


def test_verl_has_removed_the_other_mode_of_rollout() -> None:
    from verl.workers.config import RolloutConfig

    RolloutConfig(name="vllm", mode="async")
    with pytest.raises(ValueError, match="'sync' has been removed"):
        RolloutConfig(name="vllm", mode="sync")
