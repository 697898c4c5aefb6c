"""A small consistency model with random weights on disk, made once."""

from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from faithful_rl.crm import model
    from faithful_rl.crm.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("crm")
    tokenizer = train_tokenizer(128)
    model.tiny_model(model.tiny_config(tokenizer, 128), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
