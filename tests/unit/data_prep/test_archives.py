"""Archives of strangers: unpacked whole or not at all, and never outside of their folder."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import archives
from data_prep.archives import unpacked
from faithful_rl.config import ConfigError


def archive(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def test_it_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.zip", ("data/raw/x.jsonl", b"{}"), ("data/empty/", b""), ("data/1.png", b"png"))
    place = tmp_path / "cache" / "a"
    assert unpacked(file, place, "in") == place
    assert {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()} == {
        "data/raw/x.jsonl": b"{}", "data/1.png": b"png",
    }  # fmt: skip
    file.write_bytes(b"gone")
    assert unpacked(file, place, "in") == place
    assert [path.name for path in place.parent.iterdir()] == ["a"]


def link(path: Path) -> Path:
    entry = zipfile.ZipInfo("data/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(entry, "/etc/passwd")
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(path, ("a.txt", b"1"), ("a.txt", b"2"))


def cut(path: Path) -> Path:
    data = archive(path, ("a.txt", bytes(range(256)) * 50)).read_bytes()
    path.write_bytes(data[:100] + bytes(40) + data[140:])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: archive(path, ("../evil.txt", b"x")), r"'\.\./evil\.txt', which leaves the folder"),
        (lambda path: archive(path, ("data/../../evil.txt", b"x")), "which leaves the folder"),
        (lambda path: archive(path, ("/tmp/evil.txt", b"x")), "which leaves the folder"),
        (lambda path: archive(path, ("C:/evil.txt", b"x")), "which leaves the folder"),
        (lambda path: archive(path, ("..\\evil.txt", b"x")), "which leaves the folder"),
        (link, "with the link 'data/link'"),
        (twice, "'a.txt' twice"),
        (lambda path: archive(path, ("bomb.txt", bytes(3 * 2**20))), "bytes unpacked from .*at most 200 times as many"),
        (cut, "which cannot be unpacked"),
        (lambda path: archive(path, ("a", b"1"), ("a/b", b"2")), "which cannot be unpacked"),
    ],
    ids=["up", "up later", "absolute", "drive", "backslash", "link", "twice", "bomb", "damaged", "file as folder"],
)
def test_what_is_refused_leaves_nothing_behind(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    file = make(tmp_path / "a.zip")
    with pytest.raises(ConfigError, match=message) as caught:
        unpacked(file, tmp_path / "cache" / "a", "mindcube.in")
    assert caught.value.key == "mindcube.in"
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "evil.txt").exists()


def test_sizes_and_numbers_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archive(tmp_path / "a.zip", ("a", b"12345"), ("b", b"67890"))
    with monkeypatch.context() as patched:
        patched.setattr(archives, "MAX_BYTES", 9)
        with pytest.raises(ConfigError, match="with 10 bytes unpacked, at most 9"):
            unpacked(file, tmp_path / "x", "in")
    with monkeypatch.context() as patched:
        patched.setattr(archives, "MAX_ENTRIES", 1)
        with pytest.raises(ConfigError, match="with 2 files, at most 1"):
            unpacked(file, tmp_path / "x", "in")


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match="which cannot be unpacked"):
        unpacked(tmp_path / "a.zip", tmp_path / "x", "in")
