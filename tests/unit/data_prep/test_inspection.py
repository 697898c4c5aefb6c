"""`inspect` on chains of a data set with limits of its own, and on rows that were not used."""

import io
import re
from pathlib import Path

import pytest
import training_sets as sets
from rich.console import Console

from data_prep.frames import Frame
from data_prep.inspection import inspect
from data_prep.mcts import command
from data_prep.prepare import Job, prepare
from data_prep.record import Reject
from data_prep.rejects import line
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl.config import ConfigError


def shown(path: Path, **options: int) -> str:
    console = Console(file=io.StringIO(), width=200)
    inspect(path, console=console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def drawn(page: str) -> tuple[list[list[float]], list[list[float]]]:
    """Solid and dashed boxes, as x, y, width and height in pixels of the original image."""
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"([^>]*)>', page)
    solid = [[float(value) for value in one[:4]] for one in found if "dasharray" not in one[4]]
    return solid, [[float(value) for value in one[:4]] for one in found if "dasharray" in one[4]]


def test_boxes_of_chains_are_drawn_in_the_frame_of_their_own_image(tmp_path: Path) -> None:
    """Scenes of 112 x 112 pixels, whose chains cite the reference boxes; the pinned limits give the same size, so the rows are made wide."""
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=4, val=1, test=1))
    arguments = [f"in={tmp_path / 'scenes'}", f"out={tmp_path / 'chains'}", "teacher=scene", "simulations=2", "quarter=0", "corrected=0"]
    assert command.main(arguments) == 0
    page = inspect(tmp_path / "chains", out=tmp_path / "page.html", console=Console(file=io.StringIO()))
    assert page is not None
    solid, dashed = drawn(page.read_text())
    assert dashed
    assert all(min(max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in solid) <= 1.0 for one in dashed)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_the_limits_of_the_image_say_the_frame_and_not_the_manifest(tmp_path: Path, with_manifest: bool) -> None:
    """640 x 480 under 200,704 pixels is 504 x 364 for the model; the default limits would leave it at 644 x 476."""
    location, options = sets.build("vgr", tmp_path / "raw")
    prepare(Job("vgr", str(location), tmp_path / "out", format="sft", options=options, frame=Frame(max_pixels=200_704)))
    manifest = tmp_path / "out" / "manifest.json"
    if with_manifest:  # as that of a tree search was: without a frame
        manifest.write_text(re.sub(r'"frame": \{[^}]*\}', '"frame": null', manifest.read_text()))
    else:
        manifest.unlink()
    page = inspect(tmp_path / "out", rows=1, out=tmp_path / "page.html", console=Console(file=io.StringIO()))
    assert page is not None
    _, ((x, y, width, height),) = drawn(page.read_text())
    assert (x, y, x + width, y + height) == pytest.approx(sets.VGR_BOX, abs=1.5)


def test_rejected_rows_are_shown_with_reason_and_raw_fields(tmp_path: Path) -> None:
    out, page = tmp_path / "rejects.jsonl", tmp_path / "page.html"
    rejects = [
        Reject("sat-7", {"question": "What is in <image> here?", "image_bytes": [b"12345"]}, "media_tag", "<image> in the question", row=7),
        Reject("cub-9", '{"question": "cut', "corrupt_json", "line 9", row=9),
    ]
    out.write_text("".join(f"{line(one)}\n" for one in rejects))
    text = shown(out)
    assert "media_tag: <image> in the question" in text
    assert "What is in <image> here?" in text
    assert "5 bytes" in text
    assert re.search(r"│ 9 +│ cub-9", text)
    assert inspect(out, out=page, console=Console(file=io.StringIO())) == page
    assert "What is in &lt;image&gt; here?" in page.read_text()
    assert inspect(out, rows=1, out=tmp_path / "sheet.png", console=Console(file=io.StringIO())) == tmp_path / "sheet.png"
    assert "cub-9" not in shown(out, rows=1)


def test_rejects_of_a_real_run_and_of_a_clean_one(tmp_path: Path) -> None:
    location = sets.treevgr(tmp_path / "raw", bad=True)
    prepare(Job("treevgr_rl", str(location), tmp_path / "out", reject_share=1.0))
    text = shown(tmp_path / "out" / "rejects.jsonl")
    assert all(reason in text for reason in sets.BAD["treevgr_rl"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="No row was rejected"):
        shown(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match="not readable"):
        shown(tmp_path / "broken.jsonl")
