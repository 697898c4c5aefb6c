"""The scene generator: exact truth in every row, disjoint splits, the same bytes from the same settings."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.scenes import dataset
from data_prep.scenes.dataset import SceneDataSettings, scene_rows, write_scenes
from data_prep.scenes.questions import FAMILIES, LEARNABLE, Sample, draw_sample
from data_prep.scenes.splits import SPLITS, split_of
from data_prep.scenes.world import SIDE, Shape, random_scene, render, scene_image
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.judges.scene_language import Located, read_question, read_sentence, write_claim, write_conclusion, write_question
from faithful_rl.judges.scene_world import read_scene, write_scene
from faithful_rl.types import Verdict

SMALL = SceneDataSettings(seed=3, train=40, val=8, test=12)


def samples(family: str, count: int = 60, shuffle: bool = False) -> list[Sample]:
    rng = Random(f"{family}/{shuffle}")
    return [draw_sample(rng, family, shuffle) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_full_true_trace_is_judged_true_in_every_family(family: str, shuffle: bool) -> None:
    judge = SceneJudge()
    for sample in samples(family, shuffle=shuffle):
        places = [write_claim(Located(shape.name, shape.quarter, (shape.box,))) for shape in sample.relevant]
        if len(sample.scenes) == 2:
            places = [f"In the first image, the{text[3:]}" for text in places]
        reasoning = " ".join([*places, write_claim(sample.fact), write_conclusion(sample.options[sample.gold_index])])
        request = JudgeRequest(
            uid="u",
            question=write_question(sample.question),
            options=sample.options,
            reasoning=reasoning,
            answer=sample.letter,
            scene_json=write_scene(map(scene_image, sample.scenes)),
        )
        assert [verdict.verdict for verdict in judge.grounding(request)] == [Verdict.CORRECT] * (len(places) + 1)
        assert judge.consistency(request).value == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_option_is_right(family: str) -> None:
    """The fact with each other option in its place is judged false."""
    judge = SceneJudge()
    for sample in samples(family):
        true = write_claim(sample.fact)
        for index, option in enumerate(sample.options):
            text = true.replace(sample.options[sample.gold_index], option)
            text = text.replace("is 1", "are 1") if family == "count" else text
            request = JudgeRequest("u", "", sample.options, text, "A", scene_json=write_scene(map(scene_image, sample.scenes)))
            (judged,) = judge.grounding(request)
            assert (judged.verdict is Verdict.CORRECT) == (index == sample.gold_index), (text, judged.why)


@pytest.mark.parametrize("family", LEARNABLE)
def test_answers_are_balanced(family: str) -> None:
    drawn = samples(family, 600)
    share = 1 / len(drawn[0].options)
    for index in range(len(drawn[0].options)):
        found = sum(sample.gold_index == index for sample in drawn) / len(drawn)
        assert abs(found - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5


def test_shuffled_letters_carry_no_meaning() -> None:
    letters = {sample.letter for sample in samples("left_right", shuffle=True) if sample.options[sample.gold_index] == "left"}
    assert letters == {"A", "B"}


def test_questions_and_claims_read_back_as_written() -> None:
    for family in FAMILIES:
        for sample in samples(family, 20):
            assert read_question(write_question(sample.question)) == sample.question
            assert read_sentence(write_claim(sample.fact)) == (None, sample.fact)


def test_boxes_bound_the_painted_pixels_exactly() -> None:
    for seed in range(20):
        shape = random_scene(Random(seed), 1)[0]
        changed = np.argwhere((np.asarray(render([shape])) != np.asarray(render([]))).any(axis=2))
        (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0) + 1
        assert [left, top, right, bottom] == shape.box.as_list()


def test_scene_json_round_trip_is_canonical() -> None:
    scene = random_scene(Random(5), 4)
    text = write_scene([scene_image(scene)])
    assert write_scene(read_scene(text)) == text == write_scene([scene_image(scene[::-1])])


def test_the_split_is_a_function_of_the_scene_alone() -> None:
    scenes = [random_scene(Random(seed)) for seed in range(400)]
    found = [split_of(scene) for scene in scenes]
    assert found == [split_of(scene[::-1]) for scene in scenes]
    assert {split: found.count(split) > 10 for split in SPLITS} == dict.fromkeys(SPLITS, True)
    # Must never change: shipped models rely on it.
    assert split_of((Shape("red", "circle", 0, 0, 24), Shape("blue", "square", 0, 3, 16))) == "train"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(directory, SMALL)
    return directory


def rows(directory: Path, split: str) -> list[dict]:
    return pq.read_table(directory / f"{split}.parquet").to_pylist()


def test_rows_are_in_verls_format(data: Path) -> None:
    for split, count in (("train", 40), ("val", 8), ("test", 12)):
        table = rows(data, split)
        assert len(table) == count
        for index, row in enumerate(table):
            info = row["extra_info"]
            text = "".join(message["content"] for message in row["prompt"])
            assert text.count("<image>") == len(row["images"]) == len(info["img_wh"])
            assert all(Image.open(io.BytesIO(image["bytes"])).size == (SIDE, SIDE) for image in row["images"])
            assert all((image["min_pixels"], image["max_pixels"]) == (SIDE**2, SIDE**2) for image in row["images"])
            assert (info["split"], info["index"], info["dataset"], row["data_source"]) == (split, index, "scenes", "scenes")
            assert row["reward_model"]["ground_truth"] == "ABCD"[info["gold_index"]]
            assert f"{row['reward_model']['ground_truth']}) {info['options'][info['gold_index']]}" in text
            assert len(info["gt_boxes"]) == len(info["box_labels"]) >= 1
            (image,) = read_scene(info["scene_json"])
            assert [image.find(name).box.as_list() for name in info["box_labels"]] == info["gt_boxes"]
            json.loads(info["meta_json"])


def test_splits_share_no_image_and_no_question(data: Path) -> None:
    images = {split: {row["images"][0]["bytes"] for row in rows(data, split)} for split in SPLITS}
    uids = [row["extra_info"]["uid"] for split in SPLITS for row in rows(data, split)]
    assert not images["train"] & (images["val"] | images["test"])
    assert not images["val"] & images["test"]
    assert len(set(uids)) == len(uids) == 60


def test_two_image_rows_hold_two_tags_and_two_images() -> None:
    row = next(scene_rows(SceneDataSettings(train=1, families=("change",), system_prompt="Think first."), "train"))
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"].count("<image>") == len(row["images"]) == 2


def test_same_settings_same_bytes(data: Path, tmp_path: Path) -> None:
    manifest = write_scenes(tmp_path / "again", SMALL)
    for name in ("train.parquet", "val.parquet", "test.parquet", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (data / name).read_bytes()
    assert manifest == json.loads((data / "manifest.json").read_text())


def test_another_seed_gives_other_questions() -> None:
    first, second = ({row["extra_info"]["uid"] for row in scene_rows(SceneDataSettings(seed=seed, train=20), "train")} for seed in (0, 1))
    assert not first & second


def test_writing_again_is_free_and_other_settings_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "d", SMALL)
    before = (tmp_path / "d" / "train.parquet").stat().st_mtime_ns
    write_scenes(tmp_path / "d", SMALL)
    assert (tmp_path / "d" / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="other settings"):
        write_scenes(tmp_path / "d", SceneDataSettings(seed=4, train=1, val=1, test=1))
    (tmp_path / "d" / "val.parquet").write_bytes(b"damaged")
    with pytest.raises(FileExistsError, match=r"val\.parquet"):
        write_scenes(tmp_path / "d", SMALL)
    (tmp_path / "d" / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match="no manifest"):
        write_scenes(tmp_path / "d", SMALL)


def test_files_of_the_version_before_are_left_as_they_are(data: Path, tmp_path: Path) -> None:
    """They hold the same rows; a run that trains on them continues."""
    shutil.copytree(data, tmp_path / "d")
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest.pop("columns_version") == 2
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    assert write_scenes(tmp_path / "d", SMALL) == manifest
    with pytest.raises(FileExistsError, match="other settings"):
        write_scenes(tmp_path / "d", SceneDataSettings(seed=4, train=1, val=1, test=1))


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_prep.scenes.dataset.pq.write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_scenes(tmp_path / "d", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "source"),
        (["photos"], "photos"),
        (["scenes"], "out=DIR"),
        (["scenes", "out=x", "trian=3"], "trian"),
        (["scenes", "out=x", "train=many"], "many"),
        (["scenes", "out=x", "train=-1"], "-1"),
        (["scenes", "out=x", "families=left_right,maze"], "maze"),
        (["scenes", "out=x", "seed=1", "seed=2"], "twice"),
        (["scenes", "out"], "key=value"),
    ],
)
def test_bad_command_lines_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scenes", f"out={tmp_path / 'd'}", "train=4", "val=1", "test=1", "shuffle_options=true"]
    assert main(arguments) == 0
    assert "train.parquet: 4 rows" in capsys.readouterr().out
    assert main([*arguments[:2], "train=5", "val=1", "test=1"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_two_processes_that_make_the_same_data_set_at_once_end_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "scenes"
    finished = []

    def rows_while_another_finishes(settings: SceneDataSettings, split: str) -> object:
        if not finished:
            finished.append(split)
            write_scenes(directory, settings)
        return scene_rows(settings, split)

    monkeypatch.setattr(dataset, "scene_rows", rows_while_another_finishes)
    manifest = write_scenes(directory, SMALL)
    assert manifest == json.loads((directory / "manifest.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"], "the second copy is gone"


def test_a_place_that_is_taken_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "scenes"

    def rows_while_another_writes(settings: SceneDataSettings, split: str) -> object:
        directory.mkdir(exist_ok=True)
        (directory / "notes.txt").write_text("mine")
        return scene_rows(settings, split)

    monkeypatch.setattr(dataset, "scene_rows", rows_while_another_writes)
    with pytest.raises(FileExistsError, match="not empty"):
        write_scenes(directory, SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["scenes", "notes.txt"]
