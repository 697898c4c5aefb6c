"""Training in miniature: it learns, repeats itself to the last bit, and leaves a manifest that says what it is worth."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
from faithful_rl.config import ConfigError, CrmConfig
from faithful_rl.crm import __main__ as command
from faithful_rl.crm import pairs, summary, training
from faithful_rl.crm.files import check
from faithful_rl.crm.pairs import Pair

SMALL = CrmConfig(train_pairs=64, reading_epochs=1.0, valid_pairs=32, test_pairs=32, epochs=1.0, batch_size=16, max_length=128, threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    training.run(SMALL, seed=3, recipe="crm_tiny", output_dir=folder)
    return folder


def test_the_manifest_says_what_was_made_and_what_it_is_worth(trained: Path) -> None:
    manifest = json.loads((trained / "manifest.json").read_text())
    assert (manifest["recipe"], manifest["seed"], manifest["max_length"]) == ("crm_tiny", 3, 128)
    assert manifest["data"]["train"]["pairs"] == 64
    assert len(manifest["data"]["train"]["sha256"]) == 64
    assert set(manifest["metrics"]) == {
        "pairs", "accuracy", "auroc", "calibration_error_before", "calibration_error", "kappa", "by_origin",
    }  # fmt: skip
    assert len(manifest["metrics"]["kappa"]) == 3
    assert 0.05 <= manifest["threshold"] <= 0.95
    assert manifest["temperature"] > 0
    assert list(manifest["weights_sha256"]) == ["model.safetensors"]
    found = check(str(trained), "model")
    assert found.temperature == manifest["temperature"]
    assert "32 held-out pairs" in summary.table(trained)


def test_the_same_seed_gives_the_same_weights_and_a_finished_model_is_kept(trained: Path, tmp_path: Path) -> None:
    again = training.run(SMALL, seed=3, recipe="crm_tiny", output_dir=tmp_path / "again")
    assert again["weights_sha256"] == json.loads((trained / "manifest.json").read_text())["weights_sha256"]
    with pytest.raises(FileExistsError, match="already holds a model"):
        training.run(SMALL, seed=3, recipe="crm_tiny", output_dir=trained)


def test_files_of_pairs_are_split_by_question_and_learnt_from(tmp_path: Path) -> None:
    """A rule that any model learns: consistent pairs conclude, inconsistent ones do not."""
    made = [
        Pair(f"q{number}", "Left or right?\nA) left\nB) right", text, "A) left", label, "own")
        for number in range(200)
        for text, label in (("So the answer is left.", 1.0), ("The red circle is at the top.", 0.0))
    ]
    file = pairs.write_pairs(made, tmp_path / "pairs.parquet")
    settings = replace(SMALL, pairs=[str(file)], epochs=4.0)
    manifest = training.run(settings, seed=0, recipe="crm_large", output_dir=tmp_path / "model")
    assert sum(manifest["data"][name]["pairs"] for name in ("train", "valid", "test")) == 400
    assert manifest["metrics"]["accuracy"] == 1.0
    assert manifest["metrics"]["kappa"][0] == 1.0
    result = command.evaluate({"model": str(tmp_path / "model"), "data": str(file)})
    assert (result["pairs"], result["accuracy"]) == (400, 1.0)


def test_pairs_of_one_class_are_refused(tmp_path: Path) -> None:
    file = pairs.write_pairs([Pair(f"q{number}", "?", "t", "a", 1.0) for number in range(100)], tmp_path / "pairs.parquet")
    with pytest.raises(ConfigError, match="1 class"):
        training.load_splits(replace(SMALL, pairs=[str(file)]), 0, lambda *_: None)


def test_a_base_that_does_not_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"faithful_rl.crm.base: found .* which does not load"):
        training.base_model(replace(SMALL, base=str(tmp_path)), 0)


def test_a_trained_model_can_be_trained_on(trained: Path) -> None:
    model, tokenizer = training.base_model(replace(SMALL, base=str(trained)), 0)
    assert model.config.num_labels == 2
    assert tokenizer.cls_token == "[CLS]"


def test_pairs_that_leave_nothing_to_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length.*reading_epochs=0"):
        training.run(replace(SMALL, max_length=24), seed=0, recipe="crm_tiny", output_dir=tmp_path / "cut")
