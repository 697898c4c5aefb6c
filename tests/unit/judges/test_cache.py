"""The cache of verdicts: what a key is made of, bounds, persistence, sharing, and entries that are not what they should be."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judges.cache import VerdictCache, build_cache, content_key

MESSAGES = [{"role": "system", "content": "rules"}, {"role": "user", "content": "text"}]


def with_image(url: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "t"}]}]


def test_a_key_depends_on_everything_that_decides_an_answer() -> None:
    plain = content_key("v", "m", "k", MESSAGES, {"temperature": 0})
    others = [
        content_key("w", "m", "k", MESSAGES, {"temperature": 0}),
        content_key("v", "n", "k", MESSAGES, {"temperature": 0}),
        content_key("v", "m", "l", MESSAGES, {"temperature": 0}),
        content_key("v", "m", "k", MESSAGES[::-1], {"temperature": 0}),
        content_key("v", "m", "k", MESSAGES, {"temperature": 1}),
        content_key("v", "m", "k", [*MESSAGES, {"role": "user", "content": ""}], {"temperature": 0}),
        content_key("vm", "", "k", MESSAGES, {"temperature": 0}),
    ]
    assert content_key("v", "m", "k", [dict(one) for one in MESSAGES], {"temperature": 0}) == plain
    assert len({plain, *others}) == len(others) + 1
    assert len(plain) == 64


def test_an_image_counts_by_its_content_and_its_place() -> None:
    first, second = with_image("data:a"), with_image("data:b")
    both = [{"role": "user", "content": [*first[0]["content"][:1], *second[0]["content"]]}]  # type: ignore[index]
    swapped = [{"role": "user", "content": [*second[0]["content"][:1], *first[0]["content"]]}]  # type: ignore[index]

    keys = {content_key("v", "m", "k", messages, {}) for messages in (first, second, both, swapped)}
    assert len(keys) == 4
    known = content_key("v", "m", "k", first, {}, {"data:a": "digest"})
    assert known == content_key("v", "m", "k", with_image("data:other"), {}, {"data:other": "digest"})


def test_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    cache = VerdictCache(memory_entries=2)
    for key in ("a", "b"):
        cache.put(key, key.upper())
    assert cache.get("a") == "A"
    cache.put("c", "C")

    assert [cache.get(key) for key in "abc"] == ["A", None, "C"]


def test_without_memory_and_directory_nothing_is_kept() -> None:
    cache = VerdictCache(memory_entries=0)
    cache.put("a", "A")
    assert cache.get("a") is None


def test_a_directory_outlives_the_cache_and_is_shared(tmp_path: Path) -> None:
    one, other = VerdictCache(10, tmp_path / "made" / "here"), VerdictCache(10, tmp_path / "made" / "here")
    one.put("a", "CORRECT \u2039\u203a")
    assert other.get("a") == "CORRECT \u2039\u203a"
    one.close()
    one.close()
    other.close()

    again = VerdictCache(0, tmp_path / "made" / "here")
    assert again.get("a") == "CORRECT \u2039\u203a"
    again.close()
    assert again.get("a") is None


def test_what_is_stored_in_the_background_is_on_disk_after_close(tmp_path: Path) -> None:
    async def use() -> list[str | None]:
        cache = VerdictCache(1, tmp_path)
        for number in range(50):
            cache.store(f"k{number}", str(number))
        found = [await cache.lookup(f"k{number}") for number in (0, 49, 50)]
        cache.close()
        return found

    assert asyncio.run(use()) == ["0", "49", None]
    cache = VerdictCache(10, tmp_path)
    assert [cache.get(f"k{number}") for number in range(50)] == [str(number) for number in range(50)]
    cache.close()


def test_the_directory_stays_small(tmp_path: Path) -> None:
    limit = 256 * 1024
    cache = VerdictCache(0, tmp_path, size_limit_bytes=limit)
    for number in range(3000):
        cache.put(f"{number:064d}", f"{number}" * 100)
    kept = sum(cache.get(f"{number:064d}") is not None for number in range(3000))
    assert cache.get(f"{2999:064d}") is not None  # the oldest go first
    assert cache.get(f"{0:064d}") is None
    cache.close()

    assert 0 < kept < 3000
    assert (tmp_path / "cache.db").stat().st_size <= limit * 1.2


def test_several_processes_write_into_one_directory(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom faithful_rl.judges import cache as module\n"
        "module.BUSY_SECONDS = 60.0  # a write that is left out because the others hold the lock is no failure, but would be missed below\n"
        "cache = module.VerdictCache(0, sys.argv[1])\n"
        "for number in range(100): cache.put(f'{sys.argv[2]}-{number}', sys.argv[2]); cache.put('same', 'YES')\n"
        "assert cache.disk_failures == 0\ncache.close()\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in ("p", "q", "r")]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]

    cache = VerdictCache(0, tmp_path)
    assert all(cache.get(f"{name}-{number}") == name for name in "pqr" for number in range(100))
    assert cache.get("same") == "YES"
    cache.close()


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


@pytest.mark.parametrize("damage", ["text", "number", "pickle", "null", "json_number", "file", "deep"])
def test_a_damaged_entry_is_a_miss_and_can_be_replaced(tmp_path: Path, damage: str) -> None:
    trap = tmp_path / "trap"
    value: tuple[int, object] = {
        "text": (3, "not compressed"),
        "number": (1, 7),
        "pickle": (4, pickle.dumps(Trap(trap))),
        "null": (1, None),
        "file": (2, b""),
        "deep": (1, zlib.compress(b"[" * 100_000)),
        "json_number": (1, zlib.compress(b"1")),
    }[damage]
    cache = VerdictCache(0, tmp_path / "cache")
    cache.put("a", "CORRECT")
    with sqlite3.connect(tmp_path / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = ?, value = ? WHERE key = (SELECT key FROM Cache)", value)
    database.close()

    assert cache.get("a") is None
    assert not trap.exists()
    cache.put("a", "SKIP")
    assert cache.get("a") == "SKIP"
    cache.close()


def test_a_lost_directory_costs_hits_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = VerdictCache(10, tmp_path)
    cache.put("a", "A")
    with sqlite3.connect(tmp_path / "cache.db") as database:
        database.execute("DROP TABLE Cache")
    database.close()
    cache.put("b", "B")

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", "B", None)
    assert cache.disk_failures == 2
    assert [record.getMessage() for record in caplog.records] == [
        "cache of verdicts: OperationalError: no such table: Cache (1 failures so far)"
    ]
    cache.close()


def test_a_file_that_is_no_database_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError) as caught:
        VerdictCache(10, tmp_path)
    assert str(caught.value) == (
        f"cache.directory: found {tmp_path}, which cannot be used (DatabaseError: file is not a database), "
        "expected a writable directory on a local disk. Choose another directory, empty this one, or leave it out."
    )


def test_a_file_where_the_directory_should_be_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache.directory: found .*file, which cannot be used \(FileExistsError"):
        VerdictCache(10, tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_entries": -1}, "cache.memory_entries: found -1, expected a whole number >= 0. Change cache.memory_entries."),
        ({"memory_entries": True}, "cache.memory_entries: found True, expected a whole number >= 0. Change cache.memory_entries."),
        ({"size_limit_mb": 0}, "cache.size_limit_mb: found 0, expected a whole number >= 1. Change cache.size_limit_mb."),
        ({"directory": ""}, "cache.directory: found '', expected a directory, or null. Change cache.directory."),
        (
            {"size_limit": 3},
            "cache.size_limit: found an unknown key, expected one of directory, memory_entries, size_limit_mb. Did you mean size_limit_mb?",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_cache(settings)
    assert str(caught.value) == message


def test_defaults_keep_in_memory() -> None:
    cache = build_cache({"directory": None})
    cache.put("a", "A")
    assert cache.get("a") == "A"
    cache.close()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diskcache", None)
    with pytest.raises(ConfigError, match=r"cache.directory: found no usable package diskcache .* expected the extra `judges`"):
        VerdictCache(10, tmp_path)
