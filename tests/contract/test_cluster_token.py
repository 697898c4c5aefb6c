"""A token that the machine has is shown to clusters: what we look at is what Ray looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faithful_rl.cluster_token import ray_command, show_token

pytest.importorskip("ray")
OUR_WORD = """
import json
from faithful_rl.cluster_token import ray_command, show_token
ours = show_token()
import ray
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode
has_token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
print(json.dumps([ours, ray_command(), get_authentication_mode() == AuthenticationMode.TOKEN, has_token]))
"""


@pytest.mark.parametrize(
    ("variables", "file", "shown"),
    [
        ({}, None, False),
        ({}, ".ray/auth_token", True),
        ({"RAY_AUTH_TOKEN": "0123456789abcdef"}, None, True),
        ({"RAY_AUTH_TOKEN_PATH": "HOME/elsewhere"}, "elsewhere", True),
        ({"RAY_AUTH_MODE": "disabled"}, ".ray/auth_token", False),
    ],
)
def test_ray_sees_it_alike(variables: dict[str, str], file: str | None, shown: bool, tmp_path: Path) -> None:
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("0123456789abcdef")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "FAITHFUL_RL_SHOWS"))}
    given = {name: value.replace("HOME", str(tmp_path)) for name, value in variables.items()}
    environment = {**plain, **given, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OUR_WORD], env=environment, capture_output=True, text=True, timeout=120, check=True)
    ours, command, found, has_token = json.loads(done.stdout.splitlines()[-1])
    assert (ours, found) == (shown, shown)
    assert has_token == (file is not None or "RAY_AUTH_TOKEN" in given)
    assert command == ("RAY_AUTH_MODE=token ray" if shown else "ray")


def test_a_process_that_has_imported_ray_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "FAITHFUL_RL_SHOWS"))}
    program = "import ray, os\nfrom faithful_rl.cluster_token import show_token\nprint(show_token(), os.environ.get('RAY_AUTH_MODE'))"
    environment = {**plain, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "None"]


def test_what_the_user_set_is_left_alone() -> None:
    environment = {"RAY_AUTH_MODE": "token", "HOME": "/nowhere"}
    assert show_token(environment)
    assert environment == {"RAY_AUTH_MODE": "token", "HOME": "/nowhere"}
    assert ray_command(environment) == "ray"
