"""Records in the formats of three trainers: verl RL parquet, verl multi-turn SFT parquet, LLaMA-Factory JSON."""

from __future__ import annotations

from data_prep.writers.llama_factory import write_llama_factory
from data_prep.writers.parquet import Written
from data_prep.writers.rl import read_rl, rl_row, write_rl
from data_prep.writers.sft import sft_row, write_sft

__all__ = ["Written", "read_rl", "rl_row", "sft_row", "write_llama_factory", "write_rl", "write_sft"]
