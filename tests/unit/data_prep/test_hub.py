"""Local paths, hub ids, pinned revisions, and what is said without a network. Nothing here goes online."""

from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from data_prep import hub
from faithful_rl.config import ConfigError

COMMIT = "9c941b46a6bd65b6914669ef7a579948fc9c8467"


def test_a_local_path_wins(tmp_path: Path) -> None:
    assert hub.locate(str(tmp_path)) == hub.Located(tmp_path, str(tmp_path), None)
    with pytest.raises(ConfigError, match="does not exist"):
        hub.locate(str(tmp_path / "absent.parquet"))


def test_a_hub_id_is_fetched_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def fetch(repo: str, **options: object) -> str:
        asked.append((repo, options["repo_type"], options["revision"], options["allow_patterns"]))
        return str(tmp_path / "snapshots" / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    located = hub.locate("array/SAT-v2@main", files=["data/train-*.parquet"])
    assert asked == [("array/SAT-v2", "dataset", "main", ["data/train-*.parquet"])]
    assert (located.origin, located.revision) == ("array/SAT-v2", COMMIT)
    assert hub.locate("array/SAT-v2", revision=COMMIT, pinned=True).revision == COMMIT
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(ConfigError, match="full commit"):
            hub.locate("array/SAT-v2", revision=revision, pinned=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("no network"), "cannot be reached.*it continues"),
        (httpx.ConnectTimeout("timed out"), "cannot be reached"),
        (
            RepositoryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "http://hub"))),
            "neither a local path nor",
        ),
        (RevisionNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "http://hub"))), "does not know"),
    ],
)
def test_failures_of_the_hub_are_told(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(repo: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=message):
        hub.locate(f"array/SAT-v2@{COMMIT}")


def test_offline_mode_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be reached"):
        hub.locate(f"array/SAT-v2@{COMMIT}")
