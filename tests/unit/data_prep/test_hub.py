"""Local paths, hub ids, pinned revisions, and what is said without a network. Nothing here goes online."""

import shutil
from pathlib import Path

import benchmark_sets as sets
import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from data_prep import hub
from data_prep.prepare import Job, prepare
from data_prep.sources import cvbench
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
    located = hub.locate(f"array/SAT-v2@{COMMIT}", files=["data/train-*.parquet"])
    assert asked == [("array/SAT-v2", "dataset", COMMIT, ["data/train-*.parquet"])]
    assert (located.origin, located.revision) == ("array/SAT-v2", COMMIT)
    assert hub.locate("array/SAT-v2", revision=COMMIT).revision == COMMIT
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(ConfigError, match="full commit") as caught:
            hub.locate("array/SAT-v2", revision=revision, key="sat.in")
        assert "Write array/SAT-v2@COMMIT" in caught.value.fix
        assert "https://huggingface.co/datasets/array/SAT-v2/commits/main" in caught.value.fix
    with pytest.raises(ConfigError, match="full commit"):
        hub.locate("array/SAT-v2@main")
    assert len(asked) == 2


def test_the_commits_that_are_known_hold_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(tmp_path))
    assert hub.locate("nyu-visionx/CV-Bench").revision == cvbench.PINNED["2d"].revision == "bc284db50d036958861cb60cdd7b77612052ce0d"
    assert hub.locate("MLL-Lab/MindCube").revision == COMMIT
    assert hub.locate("qizekun/OmniSpatial").revision == "6691f3288bb1ff207d6ead4d841b505de08a6fd8"
    assert hub.locate("qizekun/OmniSpatial", revision=COMMIT).revision == COMMIT  # another one may be asked for


def test_an_archive_of_the_hub_is_unpacked_once_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindCube and OmniSpatial are one zip each: what a hub id gives is their content, and the source reads it."""
    sets.mindcube(tmp_path / "set")
    snapshot = tmp_path / "hub" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.make_archive(str(snapshot / "data"), "zip", tmp_path / "set", "data")
    (snapshot / "other.zip").write_bytes(b"not asked for")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(snapshot))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    located = hub.locate("MLL-Lab/MindCube", files=["data.zip"])
    assert located == hub.Located(tmp_path / "cache" / "unpacked" / "MLL-Lab--MindCube" / COMMIT / "data", "MLL-Lab/MindCube", COMMIT)
    made = prepare(Job("mindcube", "MLL-Lab/MindCube", tmp_path / "out"))
    assert made["sources"]["mindcube"]["kept"] == 3
    assert list(made["sources"]["mindcube"]["files"]) == ["data/raw/MindCube_tinybench.jsonl"]
    assert made["settings"]["images"] == f"MLL-Lab/MindCube@{COMMIT}/data"  # wherever the cache lies
    (snapshot / "data.zip").write_bytes(b"damaged")
    assert hub.locate("MLL-Lab/MindCube", files=["data.zip"]) == located  # it is there already


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
