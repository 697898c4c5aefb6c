"""All tests run as a CPU run does: the platform is chosen before anything imports verl, whichever test is collected first.
The folder of the data sets' fixtures is importable."""

import logging
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from faithful_rl.cluster_token import make_token

make_token()  # tests start clusters of their own, two at a time
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ["COLUMNS"] = "80"  # where printed lines break, and that they are plain, is no matter of the terminal
os.environ.pop("FORCE_COLOR", None)
sys.path.insert(0, str(Path(__file__).resolve().parent / "data_fixtures"))

# The same examples in every run, of every test file, and no limit on time: a busy machine is not a defect.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

INTEGRATION = Path(__file__).resolve().parent / "integration"
# Minutes each, longest first: with two files at a time, one that starts last would have a core to itself for as long.
# (xdist would take files with many tests first, which are the quick ones, hence `--no-loadscope-reorder` in the Makefile.)
LONGEST = (
    "test_training_modes",
    "test_training_resume",
    "test_ray_job",
    "test_judge_vllm",
    "test_stock_verl",
    "test_stages",
    "test_two_nodes",
    "test_evaluation_ray",
)


@pytest.fixture(autouse=True)
def fresh_log_levels() -> None:
    """What a test reads in `caplog` does not depend on which libraries the tests before it have imported or run.

    Some configure the whole process. What vLLM's server imports (`model_hosting_container_standards`) raises the root logger to ERROR, and
    every handler that stands there at this moment, pytest's own among them.
    """
    logging.disable(logging.NOTSET)
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        handler.setLevel(logging.NOTSET)
    for name in ["faithful_rl", *logging.root.manager.loggerDict]:
        if name.split(".")[0] == "faithful_rl":
            own = logging.getLogger(name)
            own.disabled, own.propagate = False, True
            own.setLevel(logging.NOTSET)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real runs first, the longest of them before the others, where several files are tested at once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return

    def place(item: pytest.Item) -> int:
        if item.path.parent != INTEGRATION:
            return len(LONGEST) + 1
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)  # stable: within a file, and among the others, the order stays
