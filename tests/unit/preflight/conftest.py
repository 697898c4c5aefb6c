"""The folder of preflight's tests is importable: they share the world that is sound until a test spoils it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from preflight_world import World

from faithful_rl import main, preflight
from faithful_rl.preflight import stack


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(stack, "check", lambda *given: None)
    monkeypatch.setattr(preflight, "check_started", lambda config, typed: None)
    monkeypatch.setattr(main, "set_environment", lambda typed, run_dir: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return World(tmp_path)
