"""A token that the machine has is shown to clusters: what we look at is what Ray looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faithful_rl.cluster_token import make_token, ray_command, show_token

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


MANY = """
import multiprocessing, os
from pathlib import Path
from faithful_rl.cluster_token import make_token

def one(gate, seen):
    gate.wait()
    make_token()
    seen.put(Path(os.environ["HOME"], ".ray", "auth_token").read_text())

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    gate, seen = context.Barrier(8), context.Queue()
    processes = [context.Process(target=one, args=(gate, seen)) for _ in range(8)]
    [process.start() for process in processes]
    tokens = {seen.get(timeout=100) for _ in processes}
    [process.join(30) for process in processes]
    (token,) = tokens
    print(token)
"""


def test_first_clusters_that_start_at_once_find_one_token_and_ray_takes_it(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "FAITHFUL_RL_SHOWS"))}
    environment = {**plain, "HOME": str(tmp_path)}
    program = tmp_path / "many.py"
    program.write_text(MANY)
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120, check=True)
    file = tmp_path / ".ray" / "auth_token"
    assert done.stdout.strip() == file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert [one.name for one in file.parent.iterdir()] == ["auth_token"]
    done = subprocess.run([sys.executable, "-c", OUR_WORD], env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1])[3] is True


def test_a_token_is_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("0123456789abcdef")
    make_token({"HOME": str(tmp_path)})
    assert file.read_text() == "0123456789abcdef"


@pytest.mark.parametrize("variable", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0123"}, {"RAY_AUTH_TOKEN_PATH": "elsewhere"}])
def test_no_token_is_made_where_the_user_decides(variable: dict[str, str], tmp_path: Path) -> None:
    make_token({"HOME": str(tmp_path), **variable})
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_takes_no_file_is_left_to_ray(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("not a folder")
    make_token({"HOME": str(tmp_path)})
    assert (tmp_path / ".ray").read_text() == "not a folder"


def test_ray_still_overwrites_a_token_that_came_meanwhile() -> None:
    """Why `make_token` is there."""
    import inspect

    from ray._private.authentication import authentication_token_setup as setup

    assert 'open(token_path, "w")' in inspect.getsource(setup.generate_and_save_token)


FIRST_RAY = """
import ray
from ray._private.authentication import authentication_token_setup as setup
from faithful_rl.judge_pool import pool

def refuse():
    raise AssertionError("Ray makes a token of its own")

setup.generate_and_save_token = refuse
pool.connect("local")
print(ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote(), timeout=240))
"""


def test_the_first_ray_of_a_machine_works_with_the_token_that_is_there(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_A", "FAITHFUL_RL_SHOWS"))}
    environment = {**plain, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FIRST_RAY], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr[-2000:]
    assert (tmp_path / ".ray" / "auth_token").is_file()
