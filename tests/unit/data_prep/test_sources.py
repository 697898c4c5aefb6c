"""Every training source: records of the real layouts, and what each kind of bad row becomes."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_sets as sets

from data_prep import sources
from data_prep.record import REASONS, Record, Reject
from data_prep.rejects import line
from data_prep.sources.reading import parquet_rows
from faithful_rl.config import ConfigError


def load(name: str, location: Path, options: dict | None = None, **arguments) -> tuple[list[Record], list[Reject]]:
    items = list(sources.get(sets.source_of(name)).load(location, options=options or {}, **arguments))
    return [item for item in items if isinstance(item, Record)], [item for item in items if isinstance(item, Reject)]


@pytest.mark.parametrize("name", sets.SOURCES)
def test_a_clean_file_loses_no_row(name: str, tmp_path: Path) -> None:
    location, options = sets.build(name, tmp_path)
    records, rejects = load(name, location, options)
    assert rejects == []
    assert len(records) == sources.get(sets.source_of(name)).count(location, sources.get(sets.source_of(name)).resolved(options))
    assert len({record.uid for record in records}) == len(records)
    assert [record.row for record in records] == list(range(len(records)))


@pytest.mark.parametrize("name", sets.SOURCES)
def test_every_bad_row_is_rejected_with_its_reason_and_kept(name: str, tmp_path: Path) -> None:
    location, options = sets.build(name, tmp_path, bad=True)
    good, _ = load(name, *sets.build(name, tmp_path / "clean"))
    records, rejects = load(name, location, options)
    assert [reject.reason for reject in rejects] == sets.BAD[name]
    assert [record.uid for record in records] == [record.uid for record in good]
    assert all(reject.source_row for reject in rejects)
    assert all(reject.reason in REASONS for reject in rejects)


@pytest.mark.parametrize("name", sets.SOURCES)
def test_one_thread_and_many_give_the_same(name: str, tmp_path: Path) -> None:
    location, options = sets.build(name, tmp_path, bad=True)
    assert load(name, location, {**options, "workers": 1}) == load(name, location, {**options, "workers": 3})


@pytest.mark.parametrize("name", sets.SOURCES)
def test_limit_and_chosen_rows(name: str, tmp_path: Path) -> None:
    location, options = sets.build(name, tmp_path)
    everything, _ = load(name, location, options)
    assert load(name, location, options, limit=2)[0] == everything[:2]
    assert load(name, location, options, chosen=lambda row: row in (0, 2))[0] == [everything[0], everything[2]]


def test_sat_shuffles_options_by_seed_and_keeps_the_gold(tmp_path: Path) -> None:
    location = sets.sat(tmp_path, copies=20)
    first, _ = load("sat", location, seed=0)
    assert first == load("sat", location, seed=0)[0]
    other, _ = load("sat", location, seed=1)
    assert [record.options for record in first] != [record.options for record in other]
    for records in (first, other):
        for record in records:
            assert record.options[record.gold_index] == record.gold_text
            assert sorted(record.options) == sorted(
                answer.removesuffix(" in the first frame") for answer in record.metadata["answers_as_given"]
            )
    # the gold answer is always first in the file; a policy that says A must not win
    assert 0.2 < sum(record.gold_index == 0 for record in first if len(record.options) == 2) / 80 < 0.8


def test_sat_layouts_agree_and_details(tmp_path: Path) -> None:
    old, _ = load("sat", sets.sat(tmp_path / "a", "bytes"))
    new, _ = load("sat", sets.sat(tmp_path / "b", "v2"))
    assert old == new
    moved = next(record for record in old if record.task_type == "obj_movement")
    assert len(moved.images) == 2
    assert not any("in the first frame" in option for option in moved.options)
    kept, _ = load("sat", tmp_path / "a", {"strip_first_frame": "false"})
    assert "in the first frame" in next(record for record in kept if record.task_type == "obj_movement").gold_text
    file = pq.ParquetFile(tmp_path / "a" / "SAT_train.parquet")
    assert file.num_row_groups == 1


def test_sat_question_types_are_left_out_and_counted(tmp_path: Path) -> None:
    records, rejects = load("sat", sets.sat(tmp_path), {"question_types": "goal_aim,obj_movement"})
    assert {record.task_type for record in records} == {"goal_aim", "obj_movement"}
    assert [reject.reason for reject in rejects] == ["filtered"] * 3


def test_vgr_boxes_and_tags(tmp_path: Path) -> None:
    location, root = sets.vgr(tmp_path)
    records, _ = load("vgr", location, {"images": str(root), "cot": "short"})
    assert records[0].boxes == (tuple(map(float, sets.VGR_BOX)),)
    assert (
        records[0].response == "<think>The man is here <bbox>[320,120,480,360]</bbox>, holding a racket.</think><answer>A racket.</answer>"
    )
    assert (records[0].question, records[0].gold_text, records[0].task_type) == ("What is the man holding?", "A racket.", "coco")
    assert records[1].options == ("leaf", "stem", "root")
    assert records[1].gold_index == 1
    assert records[1].response.endswith("<answer>B</answer>")
    assert records[1].question == "Which label shows the stem?"
    assert "<" not in records[1].response.replace("<bbox>", "").replace("</bbox>", "")[len("<think>") : -len("</think><answer>B</answer>")]
    assert records[1].notes == ("orphan_tags_removed",)
    assert (records[2].boxes, records[2].notes) == (((320.0, 120.0, 640.0, 360.0),), ("box_clipped",))
    listed, root = sets.vgr(tmp_path / "lists", lists=True)
    assert [record.question for record in load("vgr", listed, {"images": str(root), "cot": "long"})[0]] == [
        record.question for record in records
    ]


@pytest.mark.parametrize(
    ("asked", "told", "question", "gold", "said"),
    [
        # reasoning may speak of its final answer too: the last one counts
        ("Which?", "<think>The final answer: must be short.</think> Final answer: red", "Which?", "red", "red"),
        # LLaVA's instructions would forbid the reasoning that is trained here
        ("How many?\nAnswer the question using a single word or phrase.", "<think>x</think> Final answer: 3", "How many?", "3", "3"),
        ("Which?\nA. leaf\nB. stem", "<think>x</think> Final answer: B. stem", "Which?", "stem", "B"),
        ("Which?\nA. leaf\nB. stem", "<think>x</think> Final answer: Stem.", "Which?", "stem", "B"),
        # an answer that is none of the options is an open one, and the options stay in the question
        ("Which?\nA. leaf\nB. stem", "<think>x</think> Final answer: root", "Which?\nA. leaf\nB. stem", "root", "root"),
    ],
)
def test_vgr_answers(asked: str, told: str, question: str, gold: str, said: str, tmp_path: Path) -> None:
    sets.put(tmp_path / "gqa" / "1.jpg", sets.jpeg(64, 48))
    turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": told}]
    pq.write_table(pa.Table.from_pylist([{"image": "gqa/1.jpg", "conversations": turns}]), tmp_path / "vgr_shortcot.parquet")
    (record,), _ = load("vgr", tmp_path)
    assert (record.question, record.gold_text) == (question, gold)
    assert record.response.endswith(f"</think><answer>{said}</answer>")


def test_vgr_never_mixes_its_two_files(tmp_path: Path) -> None:
    location, root = sets.vgr(tmp_path)
    with pytest.raises(ConfigError, match="cot=short or cot=long"):
        load("vgr", location, {"images": str(root)})
    with pytest.raises(ConfigError, match=r"vgr\.cot: found 'medium', expected one of nothing, short, long"):
        load("vgr", location, {"images": str(root), "cot": "medium"})
    alone, _ = load("vgr", location / "data" / "vgr_longcot.parquet", {"images": str(root)})
    assert {record.uid.split("-")[1] for record in alone} == {"long"}


def test_a_bad_box_may_be_dropped_with_a_note(tmp_path: Path) -> None:
    location, root = sets.vgr(tmp_path, bad=True)
    records, _ = load("vgr", location, {"images": str(root), "cot": "short", "bad_boxes": "drop"})
    text = next(record for record in records if record.uid == "vgr-short-4")
    assert (text.boxes, text.notes, text.response) == ((), ("box_degenerate_dropped",), "<think>x</think><answer>a</answer>")


@pytest.mark.parametrize(
    "told",
    [
        "<think>So <answer>b</answer>.</think> Final answer: a",
        "<think>See <bbox>[1,2,3,4]</bbox>.</think> Final answer: a",
        "<think>See < /BBox >.</think> Final answer: a",
        "<think>x</think> Final answer: <answer>a</answer>",
    ],
)
def test_vgr_chains_with_tags_of_our_format_are_no_targets(told: str, tmp_path: Path) -> None:
    sets.put(tmp_path / "gqa" / "1.jpg", sets.jpeg(64, 48))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": told}]
    pq.write_table(pa.Table.from_pylist([{"image": "gqa/1.jpg", "conversations": turns}]), tmp_path / "vgr_shortcot.parquet")
    records, rejects = load("vgr", tmp_path)
    assert (records, [reject.reason for reject in rejects]) == ([], ["reserved_tag"])


def test_vgr_drops_a_region_without_area_and_keeps_the_row(tmp_path: Path) -> None:
    """Such regions are known to be in the set; a region that is no four numbers is still a reject."""
    sets.put(tmp_path / "gqa" / "1.jpg", sets.jpeg(64, 48))
    told = "<think>Here <SOT>[0.5, 0.5, 0.5, 0.9]<EOT><image> and <SOT>[0.25, 0.5, 0.5, 0.75]<EOT><image>.</think> Final answer: a"
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": told}]
    pq.write_table(pa.Table.from_pylist([{"image": "gqa/1.jpg", "conversations": turns}]), tmp_path / "vgr_shortcot.parquet")
    (record,), rejects = load("vgr", tmp_path)
    assert rejects == []
    assert (record.boxes, record.notes) == (((16.0, 24.0, 32.0, 36.0),), ("box_degenerate_dropped",))
    assert record.response == "<think>Here and <bbox>[16,24,32,36]</bbox>.</think><answer>a</answer>"


def test_viscot_folders_clipping_and_further_columns(tmp_path: Path) -> None:
    location, root = sets.viscot(tmp_path)
    records, _ = load("viscot", location, {"images": str(root)})
    by_uid = {record.uid: record for record in records}
    assert len(by_uid["viscot-cub-1"].boxes) == 2
    dude = by_uid["viscot-dude-0"]
    assert (dude.gold_text, dude.boxes, dude.notes) == ("1996", ((450.0, 700.0, 600.0, 800.0),), ("box_clipped",))
    assert dude.metadata["full_answer"] == "The date is 1996."
    assert by_uid["viscot-textcap-0"].images[0].wh == (300, 200)  # found under textvqa
    assert load("viscot", location)[0] == records  # the image root beside the folder is found
    only, _ = load("viscot", location, {"images": str(root), "subsets": "dude"})
    assert [record.uid for record in only] == ["viscot-dude-0"]
    with pytest.raises(ConfigError, match="sroie"):
        load("viscot", location, {"subsets": "sroie"})
    short, left_out = load("viscot", location, {"max_answer_words": 3})
    assert len(short) == 3
    assert [reject.reason for reject in left_out] == ["filtered"]


def test_viscot_363k_unpads(tmp_path: Path) -> None:
    location, root = sets.viscot_363k(tmp_path)
    records, _ = load("viscot_363k", location, {"images": str(root)})
    assert [record.boxes[0] for record in records] == [
        (100.0, 200.0, 300.0, 400.0),
        (139.0, 30.0, 292.0, 294.0),
        (50.0, 50.0, 150.0, 120.0),
    ]
    assert [record.notes for record in records] == [("frame_padded",), ("frame_padded",), ("frame_plain",)]
    assert records[0].question == "What is on the table?"


def test_viscot_363k_without_the_suffix_uses_the_turn(tmp_path: Path) -> None:
    import json

    location, root = sets.viscot_363k(tmp_path)
    row = json.loads(location.read_text())[0]
    row["image"][1] = row["image"][0]
    location.write_text(json.dumps([row]))
    (record,), _ = load("viscot_363k", location, {"images": str(root)})
    assert record.notes == ("box_unpadded",)
    assert record.boxes[0] == pytest.approx(sets.GQA_BOX, abs=640 / 2000 + 1e-6)


def test_a_list_that_breaks_off_is_said(tmp_path: Path) -> None:
    location, root = sets.viscot_363k(tmp_path, cut=True)
    records, rejects = load("viscot_363k", location, {"images": str(root)})
    assert len(records) == 2
    assert [(reject.reason, reject.rows) for reject in rejects] == [("corrupt_file", 0)]


def test_treevgr_options_and_labels(tmp_path: Path) -> None:
    records, _ = load("treevgr_rl", sets.treevgr(tmp_path))
    assert [record.task_type for record in records] == ["vstar", "vstar", "visdrone", "visdrone"]
    assert records[1].box_labels == ("cup", "plate")
    assert (records[2].question, records[2].options, records[2].gold_text) == ("How many cars are there?", ("2", "3", "4"), "3")
    assert (records[3].question, records[3].options, records[3].gold_index) == ("What is the van doing?", ("parking", "driving"), 0)


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    location = sets.sat(tmp_path, copies=4)
    path = location / "SAT_train.parquet"
    data = bytearray(path.read_bytes())
    whole = path.read_bytes()
    data[4:200] = bytes(196)  # the beginning of the first column's pages
    path.write_bytes(data)
    records, rejects = load("sat", location)
    assert len(records) + len(rejects) == 20
    assert {reject.reason for reject in rejects} == {"corrupt_parquet"}
    path.write_bytes(whole[: len(whole) // 2])
    records, rejects = load("sat", location)
    assert (records, [(reject.reason, reject.rows) for reject in rejects]) == ([], [("corrupt_file", 0)])


def test_text_that_no_file_can_hold(tmp_path: Path) -> None:
    """Half of a character in JSON, bytes that are no UTF-8 in parquet, and a number that no float holds: rejects, never a crash."""
    sets.put(tmp_path / "cot_image_data" / "cub" / "a.jpg", sets.jpeg(50, 40))
    row = {"question": "Is it?", "answer": "Yes", "image": "a.jpg", "width": None, "height": None, "bboxs": [[1, 2, 30, 40]]}
    rows = [row, {**row, "question": "half \ud800"}, {**row, "thought": "\udfff"}, {**row, "bboxs": [[10**400, 0, 5, 5]]}]
    sets.put(tmp_path / "metadata" / "cub_cot_train.jsonl", "\n".join(json.dumps(one) for one in rows).encode())
    records, rejects = load("viscot", tmp_path / "metadata")
    assert [record.uid for record in records] == ["viscot-cub-0"]
    assert [reject.reason for reject in rejects] == ["not_unicode", "not_unicode", "bad_type"]
    assert json.loads(line(rejects[0]).encode())["source_row"]["question"] == "half \ud800"  # the row as it was
    strings = pa.array([b"left", b"\xff\xfe", b"right"]).view(pa.string())
    pq.write_table(pa.table({"question": strings}), tmp_path / "b.parquet")
    found = list(parquet_rows(tmp_path / "b.parquet", "b"))
    assert found[0] == {"question": "left"}
    assert (found[1].uid, found[1].reason) == ("b-b.parquet-0-1", "not_unicode")
    assert found[2] == {"question": "right"}


def test_a_folder_with_both_layouts_is_read_once(tmp_path: Path) -> None:
    sets.sat(tmp_path)
    sets.sat(tmp_path, "v2")
    records, _ = load("sat", tmp_path)
    assert len(records) == 5


def test_a_file_of_another_split_is_said(tmp_path: Path) -> None:
    """SAT_test.parquet is SAT-Real: it must not become a training set by being named."""
    sets.sat(tmp_path, split="test")
    with pytest.raises(
        ConfigError, match=r"sat\.split: found train for the file SAT_test\.parquet.*read it as sat_real, or say split=test"
    ):
        load("sat", tmp_path / "SAT_test.parquet")
    assert len(load("sat", tmp_path / "SAT_test.parquet", {"split": "test"})[0]) == 5
    location, root = sets.viscot(tmp_path / "viscot")
    file = (location / "cub_cot_train.jsonl").rename(location / "cub_cot_val.jsonl")
    with pytest.raises(ConfigError, match=r"viscot\.split: found train for the file cub_cot_val\.jsonl"):
        load("viscot", file, {"images": str(root)})


@pytest.mark.parametrize("name", ["sat", "viscot"])
def test_a_split_cannot_lead_out_of_the_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\.split: found '\.\./evil', expected one of train"):
        load(name, tmp_path, {"split": "../evil"})


def test_a_subset_cannot_lead_out_of_the_image_root(tmp_path: Path) -> None:
    location, root = sets.viscot_363k(tmp_path)
    row = json.loads(location.read_text())[0]
    row["image"] = [name.replace("cot/gqa/1.jpg", "cot/../elsewhere.jpg") for name in row["image"]]
    location.write_text(json.dumps([row]))
    records, rejects = load("viscot_363k", location, {"images": str(root)})
    assert (records, [reject.reason for reject in rejects]) == ([], ["image_outside_root"])


def test_nothing_there_and_unknown_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SAT_train\.parquet"):
        load("sat", tmp_path)
    with pytest.raises(ConfigError, match=r"sat\.colour"):
        load("sat", tmp_path, {"colour": 1})
    with pytest.raises(ConfigError, match=r"sat\.bad_boxes: found 'keep', expected one of reject, drop"):
        load("sat", tmp_path, {"bad_boxes": "keep"})
    for number in (-1, "-1", "few"):
        with pytest.raises(ConfigError, match=r"sat\.workers.*a whole number >= 0"):
            load("sat", tmp_path, {"workers": number})
    with pytest.raises(ConfigError, match=r"sat\.verify_images.*bool"):
        load("sat", tmp_path, {"verify_images": "perhaps"})
    with pytest.raises(ConfigError, match="treevgr_rl"):
        sources.get("treevgr")
