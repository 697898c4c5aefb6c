"""Every benchmark's source on its real layout: what a row becomes, what a bad row becomes, and what is pinned."""

from pathlib import Path

import benchmark_sets as sets
import pytest

from data_prep import sources
from data_prep.record import Record, Reject
from data_prep.sources import cvbench, sat_real
from data_prep.sources.pinned import Pinned, differences
from faithful_rl.config import ConfigError
from faithful_rl.evaluation.benchmarks import BENCHMARKS


def load(name: str, location: Path, **options: object) -> tuple[list[Record], list[Reject]]:
    items = list(sources.get(name).load(location, options=options))
    return [item for item in items if isinstance(item, Record)], [item for item in items if isinstance(item, Reject)]


@pytest.mark.parametrize("name", sets.BUILDERS)
def test_bad_rows_are_rejected_with_their_reason_and_good_ones_stay(name: str, tmp_path: Path) -> None:
    clean, none = load(name, sets.build(name, tmp_path / "clean"))
    assert none == []
    assert len({record.uid for record in clean}) == len(clean)
    records, rejects = load(name, sets.build(name, tmp_path / "bad", bad=True))
    assert [reject.reason for reject in rejects] == sets.BAD[name]
    assert [record.uid for record in records] == [record.uid for record in clean]


@pytest.mark.parametrize("name", sets.BUILDERS)
def test_an_absent_or_empty_place_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which does not exist"):
        load(name, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="without them"):
        load(name, tmp_path / "empty")


def test_cvbench_reads_letters_in_brackets_up_to_f(tmp_path: Path) -> None:
    records, _ = load("cvbench", sets.cvbench(tmp_path), part="2d")
    assert [(r.uid, r.options, r.gold_index, r.gold_text) for r in records[:2]] == [
        ("cvbench-2d-0", ("3", "2", "1", "0"), 2, "1"),
        ("cvbench-2d-1", ("6", "5", "4", "3", "2", "1"), 5, "1"),
    ]
    assert [r.metadata["source"] for r in records] == ["ADE20K", "COCO", "COCO", "ADE20K"]
    assert [r.task_type for r in records] == ["Count", "Count", "Relation", "Relation"]
    assert records[0].question == "How many organs are in the image?"
    both, _ = load("cvbench", tmp_path)
    assert [r.dataset for r in both] == ["cvbench_2d"] * 4 + ["cvbench_3d"] * 2
    with pytest.raises(ConfigError, match=r"cvbench\.part"):
        load("cvbench", tmp_path, part="4d")
    assert cvbench.SOURCE.count is not None
    assert cvbench.SOURCE.count(tmp_path, {"part": "both"}) == 6


def test_mindcube_splits_inline_options_and_keeps_the_order_of_views(tmp_path: Path) -> None:
    records, _ = load("mindcube", sets.mindcube(tmp_path))
    among, around, rotation = records
    assert among.options == ("Tv", "Dining table", "Light purple sofa", "Brown curtains")
    assert among.question.endswith("which object is to my right?")
    assert (among.gold_text, among.task_type) == ("Light purple sofa", "among")
    assert [Path(str(image.path)).stem for image in among.images] == ["front_007", "left_007", "back_007", "right_007"]
    # "A. Smith" is not where the options begin
    assert around.options == ("Yes", "No")
    assert "A. Smith's chair" in around.question
    assert rotation.options == ("Left 90 degrees", "Right 90 degrees", "I turned around", "Up", "Not at all")
    assert (rotation.gold_index, len(rotation.images)) == (4, 3)


def test_mmvp_reads_columns_by_position_and_can_mend_the_known_labels(tmp_path: Path) -> None:
    location = sets.mmvp(tmp_path)
    records, _ = load("mmvp", location)
    assert [(r.uid, r.gold_text, r.metadata["pair"]) for r in records] == [
        ("mmvp-1", "Open", 1), ("mmvp-2", "Closed", 1), ("mmvp-99", "Long", 50), ("mmvp-100", "Short", 50),
    ]  # fmt: skip
    mended, _ = load("mmvp", location, fix_labels=True)
    assert [r.gold_text for r in mended] == ["Open", "Closed", "Short", "Long"]


def test_omnispatial_ids_repeat_across_task_types(tmp_path: Path) -> None:
    records, _ = load("omnispatial", sets.omnispatial(tmp_path))
    assert [r.uid for r in records] == [
        "omnispatial-Dynamic_Reasoning-Motion_Analysis-0_0",
        "omnispatial-Complex_Logic-Pattern_Recognition-0_0",
        "omnispatial-Perspective_Taking-Egocentric-12_1",
    ]
    assert [r.gold_text for r in records] == ["2.7s", "B-shaped piece", "behind"]
    assert str(records[2].images[0].path).endswith("Perspective_Taking/12.png")


def test_realworldqa_takes_instructions_off_and_knows_free_answers(tmp_path: Path) -> None:
    records, _ = load("realworldqa", sets.realworldqa(tmp_path))
    assert [(r.question.splitlines()[0], r.options, r.gold_text, r.task_type) for r in records] == [
        (
            "In which direction is the front wheel of the car on the right side facing?",
            ("Left", "Straight", "Right"),
            "Right",
            "multiple_choice",
        ),
        ("Is the light green?", ("Yes", "No"), "No", "multiple_choice"),
        ("How many pedestrians are there?", (), "3", "open"),
        ("Is there a stop sign?", (), "Yes", "open"),
    ]
    assert all("Please answer" not in r.question for r in records)


def test_realworldqa_a_letter_without_options_is_no_open_answer(tmp_path: Path) -> None:
    """Options that are not recognised would make the gold "B" of an open question; where a word is asked for, a letter is a word."""
    rows = [
        ("Which way?\n1) left\n2) right\n" + sets.LETTER, "B"),
        ("Which way? left or right", "(b)"),
        ("Which letter is on the sign? " + sets.WORD, "B"),
        ("Which row of seats?\n" + sets.LETTER, "third"),
    ]
    table = [{"question": question, "answer": answer, "image": sets.embedded("x.webp")} for question, answer in rows]
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", table, "image", sets.EMBEDDED)
    records, rejects = load("realworldqa", tmp_path)
    assert [(record.uid, record.gold_text) for record in records] == [("realworldqa-2", "B")]
    assert [(reject.uid, reject.reason) for reject in rejects] == [
        (f"realworldqa-{row}", "answer_not_in_options") for row in (0, 1, 3)
    ]  # fmt: skip
    assert "shows no options" in rejects[0].detail


@pytest.mark.parametrize("builder", [sets.sat_real, sets.sat_real_v2])
def test_circular_evaluation_covers_every_order_once(builder, tmp_path: Path) -> None:
    records, _ = load("sat_real", builder(tmp_path))
    assert [r.uid for r in records] == [f"sat_real-{row}-{shift}" for row in range(3) for shift in range(2)]
    for row in range(3):
        orders = [r for r in records if r.row == row]
        assert {r.gold_index for r in orders} == {0, 1}
        assert {r.gold_text for r in orders} == {sets.SAT_REAL[row]["correct_answer"]}
    assert [len(r.images) for r in records] == [2, 2, 1, 1, 2, 2]
    once, _ = load("sat_real", tmp_path, circular=False)
    assert [r.gold_index for r in once] == [0, 0, 0]


def test_circular_orders_of_four_put_each_option_once_in_each_place() -> None:
    orders = sat_real.circular_orders(("a", "b", "c", "d"))
    assert len(set(orders)) == 4
    assert all(sorted(place) == ["a", "b", "c", "d"] for place in zip(*orders, strict=True))


def test_algopuzzlevqa_keeps_the_solution_as_text_and_picks_puzzles(tmp_path: Path) -> None:
    records, _ = load("algopuzzlevqa", sets.algopuzzlevqa(tmp_path))
    assert [(r.uid, r.task_type, r.gold_index) for r in records] == [
        ("algopuzzlevqa-board_tile_0000", "board_tile", 1),
        ("algopuzzlevqa-calendar_0000", "calendar", 1),
        ("algopuzzlevqa-calendar_0001", "calendar", 0),
    ]
    assert records[0].metadata["solution_json"] == '{"grid": [[0, 1], [1, 0]], "possible": false}'
    chosen, _ = load("algopuzzlevqa", tmp_path, puzzles="calendar")
    assert {r.task_type for r in chosen} == {"calendar"}
    with pytest.raises(ConfigError, match=r"nonesuch\.json"):
        load("algopuzzlevqa", tmp_path, puzzles="nonesuch")


def test_algopuzzlevqa_of_the_hub_holds_the_same_questions(tmp_path: Path) -> None:
    ours, _ = load("algopuzzlevqa", sets.algopuzzlevqa(tmp_path / "github"))
    hub, _ = load("algopuzzlevqa", sets.algopuzzlevqa_hub(tmp_path / "hub"))
    assert [(r.uid, r.task_type, r.question, r.options, r.gold_index) for r in hub] == [
        (r.uid, r.task_type, r.question, r.options, r.gold_index) for r in ours
    ]
    chosen, left_out = load("algopuzzlevqa", tmp_path / "hub", puzzles="calendar")
    assert [r.uid for r in chosen] == ["algopuzzlevqa-calendar_0000", "algopuzzlevqa-calendar_0001"]
    assert [reject.reason for reject in left_out] == ["filtered"]


def test_an_archive_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    with pytest.raises(ConfigError, match=r"with data\.zip, not unpacked.*unzip .*data\.zip -d DIR"):
        load("mindcube", tmp_path)


def test_pinned_figures_are_those_of_the_benchmarks_cards() -> None:
    assert {name: one.pinned.rows for name, one in BENCHMARKS.items()} == {
        "cvbench_2d": 1438, "cvbench_3d": 1200, "mindcube": 1050, "mmvp": 300, "omnispatial": 1533, "realworldqa": 765, "sat_real": 150,
        "algopuzzlevqa": 1800,
    }  # fmt: skip
    assert all(not one.pinned.by_type or sum(one.pinned.by_type.values()) == one.pinned.questions for one in BENCHMARKS.values())


def test_differences_name_rows_types_and_hashes(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(b"")  # SHA-256 e3b0c442...52b855
    pinned = Pinned(3, by_type={"a": 2, "b": 1}, sha256={"data.bin": ("e3b0c442", "52b855")})
    assert differences(pinned, 3, {"a": 2, "b": 1}, [file]) == []
    assert differences(pinned, 3, {}, [file]) == []
    file.write_bytes(b"x")
    assert differences(pinned, 2, {"a": 1, "c": 1}, [file]) == [
        "2 rows instead of 3",
        "1 of type a instead of 2",
        "0 of type b instead of 1",
        "1 of type c instead of 0",
        "data.bin has the SHA-256 2d711642...1a4881 instead of e3b0c442...52b855",
    ]
