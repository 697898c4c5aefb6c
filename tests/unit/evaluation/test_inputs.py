"""Bad settings, benchmarks and prediction files: named, counted, and refused before anything is generated."""

import json
from pathlib import Path
from typing import Any

import benchmark_sets as sets
import crafted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import benchmarks, servers
from faithful_rl.evaluation.judging import Judging
from faithful_rl.evaluation.settings import EvaluationSettings, parse

BASE = ("model=m", "out=o")


def settings(*words: str) -> EvaluationSettings:
    return parse([*BASE, *words])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.build_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=o"], r"^model: found nothing"),
        (["model=m", "benchmarks=[scenes]"], r"^out: found nothing"),
        ([*BASE], r"^benchmarks: found none"),
        ([*BASE, "benchmarks=[scenes,scenes]"], r"each benchmark once"),
        ([*BASE, "benchmarks=scenes", "mode=loud"], r"^mode: found 'loud', expected one of reasoning, no_reasoning, text_instead_of_image"),
        ([*BASE, "benchmarks=scenes", "prompt=loud"], r"^prompt: found 'loud'"),
        ([*BASE, "benchmarks=scenes", "limit=0"], r"^limit: found 0"),
        ([*BASE, "benchmarks=scenes", "max_new_tokens=9", "context=9"], r"less than the context"),
        ([*BASE, "benchmarks=scenes", "min_pixels=null"], r"^min_pixels, max_pixels"),
        ([*BASE, "benchmarks=scenes", "limits=3"], r"^limits: found a problem"),
        ([*BASE, "benchmarks=scenes", "limit=many"], r"^limit: found a problem"),
        ([*BASE, "benchmarks=scenes", "locations.mmvp=x"], r"^locations\.mmvp: found no such benchmark here"),
        ([*BASE, "benchmarks=[scenes,mmvp]", "predictions=f.jsonl"], r"^predictions: found one file for 2 benchmarks"),
        ([*BASE, "benchmarks=[scenes,mmvp]", "predictions.mmvp=f.jsonl"], r"^predictions\.scenes: found nothing"),
        ([*BASE, "benchmarks=scenes", "columns.text=x"], r"^columns\.text: found an unknown column"),
        ([*BASE, "benchmarks"], r"^command line: found 'benchmarks', expected key=value"),
    ],
)
def test_settings_that_cannot_be_meant(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(words)


def test_one_name_stands_for_a_list_and_judges_may_be_a_word_or_settings() -> None:
    found = settings("benchmarks=scenes", "base_url=http://127.0.0.1:1/v1", "gpus=[0,1]", "judges.backend=fake", "judges.grounding.seed=3")
    assert (found.benchmarks, found.base_url, found.gpus) == (["scenes"], ["http://127.0.0.1:1/v1"], ["0", "1"])
    assert found.judges == {"backend": "fake", "grounding": {"seed": 3}}
    assert settings("benchmarks=scenes").judges == "none"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("loud", r"^backend: found 'loud'"),
        (3, r"^judges: found 3"),
        ({"pool": "p", "mode": "x"}, r"^judges\.mode: found a setting beside judges\.pool"),
        ({"backend": "scene", "grounding": 3}, r"^judges\.grounding: found 3"),
        ({"backend": "openai", "model": "m"}, r"^openai\.base_url"),
        ("absent.yaml", r"^judges: found absent\.yaml"),
    ],
)
def test_judges_that_cannot_be_built(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Judging(config, 10.0)


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_a_benchmark_that_differs_from_its_pins_is_refused_or_noted(name: str, data: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^benchmarks\.{name}: found \d+ rows instead of \d+"):
        benchmarks.inspect(name, settings(f"benchmarks={name}", f"data={data}"))
    found = benchmarks.inspect(name, settings(f"benchmarks={name}", f"data={data}", "pins=note"))
    assert found.remarks[0].startswith("not the pinned benchmark: ")
    assert found.total == benchmarks.BENCHMARKS[name].pinned.questions, "the rows that are not there are questions that nobody asked"
    assert (found.pinned, len(found.remarks)) == (False, 1), "one note, however many task types differ"
    assert len(found.uids) == len(list(benchmarks.questions(found, settings(f"benchmarks={name}", f"data={data}"))))
    assert found.licence


def test_the_two_parts_of_cvbench_are_two_benchmarks(data: Path) -> None:
    chosen = settings("benchmarks=[cvbench_2d,cvbench_3d]", f"data={data}", "pins=note")
    flat, deep = (benchmarks.inspect(name, chosen) for name in chosen.benchmarks)
    assert (len(flat.uids), len(deep.uids)) == (4, 2)
    assert [question.stratum for question in benchmarks.questions(flat, chosen)] == ["ADE20K", "COCO", "COCO", "ADE20K"]


def test_unusable_rows_are_counted_with_their_ids(tmp_path: Path) -> None:
    found = benchmarks.inspect("mmvp", settings("benchmarks=mmvp", f"locations.mmvp={sets.mmvp(tmp_path, bad=True)}", "pins=note"))
    assert (found.total, len(found.uids)) == (300, 4)
    assert found.remarks[1:] == (
        "1 row(s) that cannot be asked (image_missing): mmvp-5",
        "1 row(s) that cannot be asked (missing_field): mmvp-4",
    )


def test_a_limit_keeps_groups_whole_and_says_so(data: Path) -> None:
    chosen = settings("benchmarks=sat_real", f"data={data}", "pins=note", "limit=4")
    found = benchmarks.inspect("sat_real", chosen)
    assert found.uids == ("sat_real-0-0", "sat_real-0-1", "sat_real-1-0", "sat_real-1-1")
    assert found.total == 300
    assert "limited to 4 of 6 questions (limit=4)" in found.remarks
    assert [question.group for question in benchmarks.questions(found, chosen)] == ["sat_real-0", "sat_real-0", "sat_real-1", "sat_real-1"]


def test_a_mode_that_needs_descriptions_is_refused_where_there_are_none(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mode: found text_instead_of_image for mmvp, whose question mmvp-1 has none"):
        benchmarks.inspect("mmvp", settings("benchmarks=mmvp", f"data={data}", "pins=note", "mode=text_instead_of_image"))
    benchmarks.inspect("scenes", settings("benchmarks=scenes", "scenes.questions=4", "mode=text_instead_of_image"))


def test_unknown_names_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean mindcube\?"):
        benchmarks.inspect("mindcub", settings("benchmarks=mindcub"))
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match="which cannot be read"):
        benchmarks.inspect(str(file), settings(f"benchmarks={file}"))
    rows = [crafted.row("q0"), crafted.row("q0"), {**crafted.row("q1"), "images": []}]
    pq.write_table(pa.Table.from_pylist(rows), file)
    found = benchmarks.inspect(str(file), settings(f"benchmarks={file}"))
    assert [(reject.uid, reject.reason) for reject in found.rejects] == [("q0", "duplicate_uid"), ("q1", "bad_type")]
    assert (found.name, found.total, found.uids) == ("x", 3, ("q0",))


def model(folder: Path, positions: int = 4096, template: str | None = "{{ messages }}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": positions}}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_models_files_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    def check(folder: Path, *words: str) -> None:
        servers.check_model(parse([f"model={folder}", "out=o", "benchmarks=scenes", *words]))

    good = model(tmp_path / "good")
    check(good, "context=4096", "max_new_tokens=100")
    with pytest.raises(ConfigError, match=r"^context: found 32768 for a model of 4096 positions"):
        check(good)
    with pytest.raises(ConfigError, match="without a chat template"):
        check(model(tmp_path / "bare", template=None))
    with pytest.raises(ConfigError, match="with a chat template that is none"):
        check(model(tmp_path / "broken", template="{% for x in %}"))
    with pytest.raises(ConfigError, match=r"^server\.model: found /nowhere/model, which is not a directory"):
        check(Path("/nowhere/model"))


def test_pixel_limits_come_from_the_settings_or_the_model(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {"size": {"shortest_edge": 784, "longest_edge": 12544}}}))
    own = (f"model={folder}", "out=o", "benchmarks=scenes")
    assert servers.pixel_limits(parse([*own, "min_pixels=null", "max_pixels=null"])) == (784, 12544)
    assert servers.pixel_limits(parse(own)) == (3136, 1003520)
    assert servers.pixel_limits(parse([*own, "base_url=http://127.0.0.1:1/v1", "min_pixels=null", "max_pixels=null"])) is None


def test_servers_get_their_share_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    chosen = settings("benchmarks=scenes", "replicas=2", "server.tensor_parallel_size=2", "server.dtype=bfloat16")
    assert servers.shares(chosen, on_cpu=False) == ["4,5", "6,7"]
    assert servers.shares(chosen, on_cpu=True) == ["", ""]
    with pytest.raises(ConfigError, match=r"^gpus: found 1 devices, expected 4 for 2 replicas of 2"):
        servers.shares(settings("benchmarks=scenes", "replicas=2", "server.tensor_parallel_size=2", "gpus=[0]"), on_cpu=False)
    made = servers.vllm_settings(chosen, 4, Path("logs"), "6,7")
    assert made.environment == {"CUDA_VISIBLE_DEVICES": "6,7"}
    assert made.limit_mm_per_prompt == {"image": 4, "video": 0}
    assert made.extra_args == ["--mm-processor-kwargs", '{"min_pixels": 3136, "max_pixels": 1003520}']
    assert (made.max_model_len, made.dtype) == (32768, "bfloat16")
    with pytest.raises(ConfigError, match=r"^server\.nonsense: found an unknown key"):
        servers.vllm_settings(settings("benchmarks=scenes", "server.nonsense=1"), 1, Path("logs"))
    with pytest.raises(ConfigError, match=r"^server\.max_model_len: found a second value"):
        servers.vllm_settings(settings("benchmarks=scenes", "server.max_model_len=1"), 1, Path("logs"))
