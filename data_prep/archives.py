"""Zip archives of the hub (MindCube, OmniSpatial), unpacked once into a folder that is complete or absent.

An archive is a stranger's: names that leave the folder, links, encrypted entries, names that come twice and sizes beyond any of the
known sets are refused before the first byte is written.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.writers.parquet import need_room
from faithful_rl.config import ConfigError

MAX_ENTRIES = 500_000
MAX_BYTES = 64 * 2**30  # unpacked, of one archive; the largest known set has 8.5 GB
MAX_RATIO = 200  # unpacked to packed, of one archive: photographs hardly shrink, JSON by ten to twenty
_SMALL = 2**20  # an entry below it may shrink by any ratio


def unpacked(archive: Path, place: Path, key: str) -> Path:
    """`place` with the content of `archive`; made beside it and renamed into it whole. An existing one is left as it is.

    Raises:
        ConfigError: the archive is damaged or refused (`key` names the setting at fault), or the disk is full.
    """
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        _unpack(archive, temporary, key)
        temporary.chmod(0o755)  # mkdtemp makes it private
        try:
            os.replace(temporary, place)
        except OSError:
            if not place.is_dir():  # else another process was quicker: the same archive, the same content
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def _unpack(archive: Path, folder: Path, key: str) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
            problem = _problem(entries, archive.stat().st_size)
            if problem:
                fix = "Do not use this archive, or unpack it yourself and give the folder's path."
                raise ConfigError(key, f"{archive.name} {problem}", "an archive that is safe to unpack", fix)
            need_room(folder, sum(entry.file_size for entry in entries))
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(entry) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    # NotImplementedError is zipfile's for a compression that it does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, NotADirectoryError, FileExistsError) as error:
        fix = "Remove the file from the hub's cache and run the same command again."
        raise ConfigError(key, f"{archive}, which cannot be unpacked ({error})", "a zip archive", fix) from error


def _problem(entries: Sequence[zipfile.ZipInfo], packed: int) -> str | None:
    """Why an archive is refused; None where nothing speaks against it. Sizes are those that its directory states: zipfile reads no more."""
    if len(entries) > MAX_ENTRIES:
        return f"with {len(entries)} files, at most {MAX_ENTRIES}"
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        return f"with {total} bytes unpacked, at most {MAX_BYTES}"
    if total > max(_SMALL, MAX_RATIO * packed):
        return f"with {total} bytes unpacked from {packed}, at most {MAX_RATIO} times as many"
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            return f"with the name {name!r}, which leaves the folder"
        if stat.S_ISLNK(entry.external_attr >> 16):
            return f"with the link {name!r}"
        if entry.flag_bits & 0x1:
            return f"with the encrypted file {name!r}"
        plain = str(PurePosixPath(name))
        if plain in seen:
            return f"with {name!r} twice"
        seen.add(plain)
    return None
