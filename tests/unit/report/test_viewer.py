"""What the viewer's page holds: every rollout once, boxes in the image's frame, texts that cannot leave their place; and the local server."""

import base64
import gzip
import io
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic_run import picture, put_lines, put_run

from faithful_rl.report import viewer, viewer_data
from faithful_rl.report.__main__ import main
from faithful_rl.report.records import predicted_boxes, reference_boxes
from faithful_rl.report.serve import ViewerServer
from faithful_rl.report.viewer_data import ViewedRun, collect, data_uri, short

ATTACK = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_run(tmp_path_factory.mktemp("runs") / "run", questions=60, steps=6)


def unpacked(page: str) -> Any:
    payload = re.search(r'id="rollout-data">([A-Za-z0-9+/=]*)</script>', page)
    assert payload is not None
    return json.loads(gzip.decompress(base64.b64decode(payload[1])))


def test_every_rollout_is_there_and_every_image_once(run_dir: Path, tmp_path: Path) -> None:
    page = viewer.write([run_dir], tmp_path / "viewer.html").read_text()
    data = unpacked(page)
    lines = [json.loads(line) for file in sorted((run_dir / "rollouts").glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert data["rollouts"]["response"] == [line["response"] for line in lines]
    assert data["kept"] == data["found"] == len(lines)
    assert len(data["images"]) == len({line["image_png_base64"] for line in lines}) < len(lines)
    assert data["rollouts"]["advantage"] == [
        pytest.approx(line["advantage"], abs=1e-4) if line["advantage"] is not None else None for line in lines
    ]
    assert data["values"]["consistency"] == [line["columns"]["consistency"] for line in lines]
    assert data["advantages"]["consistency"][0] is None  # held-out answers have no advantage
    assert data["multipliers"][0]["1"] == [1, 1, 1]
    assert viewer.write([run_dir], tmp_path / "again.html").read_text() == page


def test_a_group_keeps_together_and_every_step_stays_when_there_are_too_many(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    (line,) = [json.loads(text) for text in (run / "rollouts" / "step_000003.jsonl").read_text().splitlines()[:1]]
    for step in (1, 2, 3):
        put_lines(run / "rollouts" / f"step_{step:06d}.jsonl", [{**line, "step": step, "group": f"g{number // 5}"} for number in range(40)])
    bundle = collect([ViewedRun("r", run)], limit=40)
    steps, groups = bundle.data["rollouts"]["step"], bundle.data["rollouts"]["group"]
    assert {1, 2, 3} <= set(steps)
    assert bundle.kept < bundle.found
    training = [
        group for group, where in zip(groups, bundle.data["rollouts"]["where"], strict=True) if bundle.data["wheres"][where] == "training"
    ]
    assert all(training.count(group) == 5 for group in training)


@pytest.mark.parametrize("field", ["response", "question", "uid", "ground_truth", "consistency_why", "group"])
def test_no_text_of_a_rollout_reaches_the_markup(tmp_path: Path, field: str) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    for path in (run / "rollouts").glob("*.jsonl"):
        put_lines(path, [{**json.loads(line), field: ATTACK} for line in path.read_text().splitlines()])
    page = viewer.write([run], tmp_path / "viewer.html").read_text()
    assert "alert" not in page
    assert page.count("<script") == page.count("</script>") == 2


def test_offsets_are_those_that_javascript_counts(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    record = {"uid": "u", "step": 1, "split": "train", "response": "<think>😀 One. Two.</think>", "sentences": [
        {"text": "😀 One.", "verdict": "CORRECT", "why": "w"}, {"text": "gone", "verdict": "SKIP"}, {"text": "Two.", "verdict": "INCORRECT"}]}  # fmt: skip
    put_lines(run / "rollouts" / "step_000001.jsonl", [record])
    data = collect([ViewedRun("r", run)]).data
    place = data["rollouts"]["step"].index(1)
    texts = data["texts"]
    assert data["rollouts"]["sentences"][place] == [[7, 7, 1, texts.index("w")], [15, 4, 0, texts.index("")]]


def test_boxes_are_in_the_frame_of_the_image() -> None:
    record = {
        "image_wh": [224, 112],
        "image_resized_wh": [112, 28],
        "boxes_predicted": [[10, 7, 20, 14], [1, 2, 3], [0, 0, float("nan"), 1]],
    }
    assert predicted_boxes(record) == [[20.0, 28.0, 40.0, 56.0]]
    assert predicted_boxes({"image_wh": [224, 112], "boxes_predicted": [[1, 2, 3, 4]]}) == [[1.0, 2.0, 3.0, 4.0]]
    assert reference_boxes({"boxes_reference": [[0, 0, 1, 1], [5, 5, 9, 9]], "boxes_reference_image": [1, 0]}) == [[5.0, 5.0, 9.0, 9.0]]


def test_images_are_kept_shrunk_or_left_out() -> None:
    small, _, _ = picture(0)
    assert data_uri(small) == f"data:image/png;base64,{small}"
    assert data_uri("no image") == data_uri(base64.b64encode(b"no image").decode()) == ""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, format="PNG")
    uri = data_uri(base64.b64encode(buffer.getvalue()).decode())
    shrunk = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (shrunk.format, shrunk.size) == ("JPEG", (512, 398))


def test_images_beyond_the_budget_are_counted(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_data, "IMAGE_BUDGET", 1)
    bundle = collect([ViewedRun("r", run_dir)])
    assert bundle.data["images"][0]
    assert not any(bundle.data["images"][1:])
    assert bundle.left_out == len(bundle.data["images"]) - 1


def test_numbers_are_short_and_finite() -> None:
    assert (short(None), short(float("nan")), short(3.0), short(0.123456)) == (None, None, 3, 0.1235)


def test_a_run_without_rollouts_has_a_page(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    for path in (run / "rollouts").glob("*.jsonl"):
        path.unlink()
    assert unpacked(viewer.write([run], tmp_path / "viewer.html").read_text())["kept"] == 0


def test_damage_is_named_and_a_torn_last_line_left_out(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    path = run / "rollouts" / "step_000003.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"uid": "torn')
    assert collect([ViewedRun("r", run)]).kept > 0
    path.write_text("nonsense\n" + whole)
    with pytest.raises(ValueError, match=r"step_000003\.jsonl:1 is not JSON"):
        collect([ViewedRun("r", run)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ViewerServer]:
    with ViewerServer([put_run(tmp_path / "run", questions=20, steps=3)]) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join(timeout=10)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_local_page_and_its_images(server: ViewerServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    status, page = get(server.url)
    assert status == 200
    data = unpacked(page.decode())
    assert data["images"] is None  # they stay in their files until somebody looks
    number = data["questions"][0]["image"]
    status, content = get(f"{server.url}image/{number}")
    assert (status, content[:4]) == (200, b"\x89PNG")
    assert get(f"{server.url}image/99999")[0] == 404
    assert get(f"{server.url}../run.json")[0] == 404
    assert get(server.url, Host="evil.example")[0] == 403


def test_a_reload_reads_new_rollouts(server: ViewerServer) -> None:
    before = unpacked(get(server.url)[1].decode())["kept"]
    folder = server.source.run_dirs[0] / "rollouts"
    lines = (folder / "step_000003.jsonl").read_text()
    (folder / "step_000004.jsonl").write_text(lines)
    assert unpacked(get(server.url)[1].decode())["kept"] == before + len(lines.splitlines())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    assert main(["view", f"run={run}", f"out={tmp_path / 'v.html'}"]) == 0
    assert (tmp_path / "v.html").exists()
    assert main(["view", f"run={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "report view run=DIR" in capsys.readouterr().out
