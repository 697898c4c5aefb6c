"""`faithful_rl.crm`: the consistency reward model (`recipe=crm_tiny`, `recipe=crm_large`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from faithful_rl.config.checks import in_range, require


@dataclass
class CrmConfig:
    """How a consistency model is trained (`faithful_rl.method: crm`)."""

    base: str = "tiny"  # tiny: a small ModernBERT from scratch, for scenes | directory or name of a ModernBERT checkpoint
    pairs: list[str] = field(default_factory=list)  # parquet files of `python -m faithful_rl.crm pairs`; empty: synthetic scenes
    train_pairs: int = 60_000  # of synthetic scenes, >= 2; files are split by question, 80 : 10 : 10
    valid_pairs: int = 4_000  # temperature and threshold are fitted on them
    test_pairs: int = 6_000
    reading_epochs: float = 2.0  # >= 0; tiny only: first read the sentences of scene reasonings
    reading_learning_rate: float = 1e-3  # > 0
    epochs: float = 2.0  # > 0
    batch_size: int = 32  # pairs, >= 1
    learning_rate: float = 5e-4  # > 0; AdamW, cosine to 0
    weight_decay: float = 0.01  # >= 0
    warm_up: float = 0.05  # share of the steps, in [0, 1)
    max_length: int = 256  # tokens, >= 16
    bfloat16: bool = True  # autocast; weights stay float32
    threads: int = 2  # torch threads on a CPU, >= 1


def validate_crm(crm: CrmConfig) -> None:
    require(bool(crm.base.strip()), "crm.base", crm.base, "tiny, or a ModernBERT checkpoint", "Set faithful_rl.crm.base.")
    for name in ("train_pairs", "valid_pairs", "test_pairs"):
        in_range(f"crm.{name}", getattr(crm, name), 2)
    in_range("crm.reading_epochs", crm.reading_epochs, 0.0)
    in_range("crm.epochs", crm.epochs, 0.0, open_low=True)
    in_range("crm.batch_size", crm.batch_size, 1)
    in_range("crm.learning_rate", crm.learning_rate, 0.0, open_low=True)
    in_range("crm.reading_learning_rate", crm.reading_learning_rate, 0.0, open_low=True)
    in_range("crm.weight_decay", crm.weight_decay, 0.0)
    in_range("crm.warm_up", crm.warm_up, 0.0, 0.99)
    in_range("crm.max_length", crm.max_length, 16)
    in_range("crm.threads", crm.threads, 1)
