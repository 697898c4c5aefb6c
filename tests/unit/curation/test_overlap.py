"""Duplicates and benchmark items, on images that are changed as the world changes them."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_pictures import encoded, open_record, picture, record
from PIL import Image as Pillow

from data_prep.curation.hashes import Row, normalised_question, perceptual_hash, row_of, table
from data_prep.curation.overlap import BenchmarkIndex, duplicates, hamming
from data_prep.record import Image
from data_prep.writers import write_rl
from faithful_rl.config import ConfigError


def test_a_duplicate_has_the_same_pixels_and_question_whatever_its_file() -> None:
    png, webp = encoded(picture(1)), encoded(picture(1), "WEBP", lossless=True, quality=100)
    first = [row_of(record("a", png)), row_of(record("b", png, "Which two?")), row_of(record("c", encoded(picture(2))))]
    second = [
        row_of(record("d", webp, " which ONE ")),
        row_of(record("e", png, gold=1)),
        row_of(record("f", png, options=("two", "one"), gold=1)),
    ]
    found = duplicates({"x": first, "y": second})
    assert found == {"x": {}, "y": {0: "duplicate", 1: "duplicate_with_other_answer", 2: "duplicate"}}


def test_option_order_makes_no_new_question() -> None:
    one, two = (record("u", encoded(picture(1)), options=options) for options in (("left", "Right."), ("right", "left")))
    assert normalised_question(one) == normalised_question(two) == "which one | left | right"


def test_perceptual_hashes_survive_scaling_and_recompression_and_tell_pictures_apart() -> None:
    for seed in range(20):
        original = perceptual_hash(picture(seed))
        smaller = perceptual_hash(picture(seed).resize((80, 60), Pillow.Resampling.BICUBIC))
        jpeg = perceptual_hash(Pillow.open(io.BytesIO(encoded(picture(seed), "JPEG", quality=60).data or b"")))
        assert (original ^ smaller).bit_count() <= 4
        assert (original ^ jpeg).bit_count() <= 4
        assert (original ^ perceptual_hash(picture(seed + 100))).bit_count() > 10


def test_benchmark_images_and_items_are_told_from_mere_questions() -> None:
    benchmark = [row_of(record("b0", encoded(picture(1)))), row_of(record("b1", encoded(picture(2)), "How many cups?"))]
    index = BenchmarkIndex({"bench": benchmark})
    assert len(index) == 2
    rows = [
        row_of(record("same item, recompressed", encoded(picture(1, (120, 90)), "JPEG", quality=70))),
        row_of(record("same image, other question", encoded(picture(2)), "What colour is it?")),
        row_of(record("same question, other image", encoded(picture(3)), "How many cups?")),
        row_of(record("nothing of it", encoded(picture(4)), "Where is it?")),
    ]
    found = index.matches(rows, 4)
    assert {number: (match.reason, match.item) for number, match in found.items()} == {
        0: ("benchmark_item", "b0"),
        1: ("benchmark_image", "b1"),
        2: ("benchmark_question", "b1"),
    }
    assert found[1].distance == 0
    assert found[2].distance == -1


def test_an_item_is_preferred_to_an_equally_near_image() -> None:
    benchmark = [row_of(record(f"b{n}", encoded(picture(1)), question)) for n, question in enumerate(("Q one?", "Q two?", "Q three?"))]
    (match,) = BenchmarkIndex({"bench": benchmark}).matches([row_of(record("x", encoded(picture(1)), "Q two?"))], 4).values()
    assert (match.reason, match.item) == ("benchmark_item", "b1")


LONG = "Where is the dog with respect to the red cat?"


def test_a_benchmarks_question_without_its_options_is_found() -> None:
    """The stem of a choice question, asked openly or with other options: with the benchmark's image whatever its length, about another
    image from eight words on."""
    benchmark = [row_of(record("long", encoded(picture(1)), LONG)), row_of(record("short", encoded(picture(2)), "What is this?"))]
    index = BenchmarkIndex({"bench": benchmark})
    inline = f"{LONG}\nA. left\nB. right"  # options that nobody took out of the text
    asked = [
        (open_record("same image", picture(1, (120, 90)), LONG), ("benchmark_stem", "long", False)),
        (open_record("same image, short", picture(2), "what is this"), ("benchmark_stem", "short", False)),
        (open_record("other image", picture(3), LONG), ("benchmark_stem", "long", True)),
        (open_record("other image, options inside", picture(4), inline), ("benchmark_stem", "long", True)),
        (record("other image, other options", encoded(picture(5)), LONG, options=("near", "far")), ("benchmark_stem", "long", True)),
        (record("other image, the question itself", encoded(picture(6)), LONG), ("benchmark_question", "long", True)),
        (open_record("other image, short", picture(7), "What is this?"), None),
        (open_record("other image, seven words", picture(8), "How many cars are in the image?"), None),
        (open_record("same image, other question", picture(1), "How many dogs?"), ("benchmark_image", "long", False)),
    ]
    found = index.matches([row_of(one) for one, _ in asked], 4)
    told = {number: (match.reason, match.item, match.text_alone) for number, match in found.items()}
    assert told == {number: wanted for number, (_, wanted) in enumerate(asked) if wanted}


def test_stems_are_long_enough_by_their_words() -> None:
    seven = [row_of(record("seven", encoded(picture(1)), "How many cars are in the image?"))]
    eight = [row_of(record("eight", encoded(picture(1)), "How many red cars are in the image?"))]
    for benchmark, count in ((seven, 0), (eight, 1)):
        asked = row_of(open_record("u", picture(9), "how many red cars are in the image" if count else "how many cars are in the image"))
        assert len(BenchmarkIndex({"bench": benchmark}).matches([asked], 4)) == count


def test_the_whole_question_is_preferred_to_its_stem() -> None:
    rows = [
        row_of(record("other options", encoded(picture(1)), LONG, options=("a", "b"))),
        row_of(record("item", encoded(picture(1)), LONG)),
    ]
    (match,) = BenchmarkIndex({"bench": rows}).matches([row_of(record("x", encoded(picture(1)), LONG))], 4).values()
    assert (match.reason, match.item) == ("benchmark_item", "item")


def test_a_table_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    write_rl([record("u", encoded(picture(1)))], tmp_path / "pool.parquet")
    rows = table(tmp_path / "pool.parquet", tmp_path / "kept.parquet")
    pq.write_table(pq.read_table(tmp_path / "kept.parquet").drop_columns(["stem"]), tmp_path / "kept.parquet")
    assert table(tmp_path / "pool.parquet", tmp_path / "kept.parquet") == rows


def test_an_empty_index_matches_nothing() -> None:
    assert BenchmarkIndex({}).matches([row_of(record("x", encoded(picture(1))))], 16) == {}


def test_hamming_by_hand() -> None:
    one, other = np.array([0, 0b1011], dtype=np.uint64), np.array([0, 0b0001, 2**64 - 1], dtype=np.uint64)
    assert hamming(one, other).tolist() == [[0, 1, 64], [3, 2, 61]]


def test_a_table_is_kept_and_made_anew_when_the_pool_changes(tmp_path: Path) -> None:
    pool, kept = tmp_path / "pool.parquet", tmp_path / "kept.parquet"
    write_rl([record(f"u{n}", encoded(picture(n))) for n in range(3)], pool)
    rows = table(pool, kept)
    assert [row.uid for row in rows] == ["u0", "u1", "u2"]
    before = kept.read_bytes()
    assert table(pool, kept) == rows
    assert kept.read_bytes() == before
    write_rl([record(f"u{n}", encoded(picture(n))) for n in range(4)], pool)
    assert [row.uid for row in table(pool, kept)] == ["u0", "u1", "u2", "u3"]
    kept.write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match="no table of hashes"):
        table(pool, kept)


def test_an_image_that_does_not_open_any_more_matches_nothing() -> None:
    gone = row_of(record("x", Image(None, "/nowhere/at/all.png", 5, 5)))
    assert gone.pixels == ("",)
    index = BenchmarkIndex({"bench": [Row("b", "q", "q", "g", ("",), (0,))]})
    assert index.matches([gone], 16) == {}
