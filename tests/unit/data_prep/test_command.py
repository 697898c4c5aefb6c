"""The command line and the sheet of rows."""

import io
import re
from pathlib import Path

import pytest
import training_sets as sets
from PIL import Image
from rich.console import Console

from data_prep.__main__ import main
from data_prep.inspection import inspect
from data_prep.prepare import Job, prepare
from faithful_rl.config import ConfigError


def test_one_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location, root = sets.viscot(tmp_path / "raw")
    arguments = ["viscot", f"in={location}", f"out={tmp_path / 'out'}", f"images={root}", "limit=3"]
    assert main(arguments) == 0
    assert "train.parquet: 3 rows" in capsys.readouterr().out.replace("\n", "")
    assert main(arguments) == 0  # already there


def test_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vgr, root = sets.vgr(tmp_path / "vgr")
    viscot, images = sets.viscot(tmp_path / "viscot")
    places = [f"sat.in={sets.sat(tmp_path / 'sat')}", f"vgr.in={vgr}", f"vgr.images={root}", f"viscot.in={viscot}", f"viscot.images={images}",
              f"treevgr_rl.in={sets.treevgr(tmp_path / 'tree')}"]  # fmt: skip
    assert main(["recipe=fgrpo_rl_49k", f"out={tmp_path / 'out'}", "limit=2", *places]) == 2
    assert "or say curation.contamination=none curation.difficulty=none" in capsys.readouterr().err
    left_out = ["curation.contamination=none", "curation.difficulty=none"]
    assert main(["recipe=fgrpo_rl_49k", f"out={tmp_path / 'out'}", "limit=2", *places, *left_out]) == 0
    told = capsys.readouterr().out.replace("\n", "")
    assert "val.parquet: 1 rows" in told
    assert "curation of sat: 2 of 2 rows" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sat"], "out"),
        (["sat", "out=x"], "in=PATH"),
        (["sat", "out=x", "in=/nowhere/at/all"], "does not exist"),
        (["sat", "out=x", "in=.", "limit=few"], "limit"),
        (["sat", "out=x", "in=.", "colour=red"], "colour"),
        (["sat", "out=x", "in=.", "format=csv"], "format"),
        (["sat", "out=x", "in=.", "reject_share=2"], "reject_share"),
        (["sat", "out=x", "in=.", "reject_share=none"], "reject_share"),
        (["sat", "out=x", "out=y", "in=."], "two values"),
        (["sat", "out"], "KEY=VALUE"),
        (["recipe=nothing", "out=x"], "fgrpo_rl_49k"),
        (["recipe=fgrpo_rl_49k", "out=x"], "sat.in=PATH"),
        (["inspect"], "no file"),
        (["inspect", "/nowhere.parquet"], "does not exist"),
        (["inspect", "/nowhere.parquet", "colour=1"], "colour"),
        (["inspect", "/nowhere.parquet", "out=x.pdf"], "html or .png"),
    ],
)
def test_mistakes_exit_with_2_and_say_what(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_too_many_rejects_print_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location = sets.treevgr(tmp_path / "raw", bad=True)
    assert main(["treevgr_rl", f"in={location}", f"out={tmp_path / 'out'}"]) == 2
    assert "image_missing" in capsys.readouterr().err


def test_help_names_every_source_and_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("scenes", "sat", "vgr", "viscot", "viscot_363k", "treevgr_rl", "fgrpo_rl_49k", "inspect"):
        assert word in out


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A data set whose texts are markup."""
    location = sets.treevgr(tmp_path / "raw")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = location / "vstar30k_visdrone6k_x1y1x2y2.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["problem"] = "<image>\n<script>alert(1)</script> [bold]what[/bold]?"
    rows[0]["target_instances"][0]["label"] = "</text><script>alert(2)</script>"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert main(["treevgr_rl", f"in={location}", f"out={tmp_path / 'out'}"]) == 0
    return tmp_path / "out"


def test_the_page_is_self_contained_and_escaped(hostile: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    page = inspect(hostile, out=tmp_path / "page.html", console=console)
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert set(re.findall(r"(?:src|href)=\"([a-z]+:)", text)) == {"data:"}
    assert text.count("<rect ") == 5
    assert 'x="1032.0" y="198.0" width="72.0" height="126.0"' in text
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]what[/bold]" in shown
    assert "1200x800" in shown


def test_boxes_sit_right_in_the_picture(hostile: Path, tmp_path: Path) -> None:
    page = inspect(hostile, rows=1, out=tmp_path / "sheet.png", console=Console(file=io.StringIO()))
    pixels = Image.open(page).convert("RGB")
    # the tile starts at (16, 16) and its image is 440 wide: 1200 pixels scaled by 0.3667; the box starts at (1032, 198)
    scale = 440 / 1200
    assert pixels.getpixel((16 + round(1068 * scale), 16 + round(260 * scale))) == (255, 255, 255)  # inside: white as in the image
    edge = pixels.getpixel((16 + round(1032 * scale), 16 + round(260 * scale)))
    assert edge == (0xE6, 0x19, 0x4B)


def test_responses_are_drawn_back_in_original_pixels(tmp_path: Path) -> None:
    location, root = sets.vgr(tmp_path / "raw")
    for form in ("sft", "llama_factory"):
        out = tmp_path / form
        assert main(["vgr", f"in={location}", f"out={out}", f"images={root}", "cot=short", f"format={form}"]) == 0
        page = inspect(out, out=tmp_path / f"{form}.html", console=Console(file=io.StringIO())).read_text()
        dashed = [
            [float(v) for v in found]
            for found in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"[^>]*dasharray', page)
        ]
        x, y, width, height = dashed[0]
        assert (x, y, x + width, y + height) == pytest.approx(sets.VGR_BOX, abs=1.0)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "b.json").write_text("{")
    for name in ("a.parquet", "b.json"):
        with pytest.raises(ConfigError, match="not readable"):
            inspect(tmp_path / name, console=Console(file=io.StringIO()))
    (tmp_path / "c.json").write_text('{"rows": []}')
    with pytest.raises(ConfigError, match="no list of rows"):
        inspect(tmp_path / "c.json", console=Console(file=io.StringIO()))


def test_a_folder_shows_its_data_and_not_its_settings(tmp_path: Path) -> None:
    """A directory of chains holds settings.json too, and a data set perhaps val.parquet before train.parquet."""
    location, options = sets.build("vgr", tmp_path / "in")
    prepare(Job("vgr", str(location), tmp_path / "out", format="sft", options=options))
    (tmp_path / "out" / "settings.json").write_text('{"search": {}}')
    (tmp_path / "out" / "a.parquet").write_bytes((tmp_path / "out" / "train.parquet").read_bytes()[:10])
    shown = io.StringIO()
    inspect(tmp_path / "out", rows=2, console=Console(file=shown, width=200))
    assert "<think>" in shown.getvalue()  # the chain, not only the answer
