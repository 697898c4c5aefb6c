"""Reading from and writing to verl's TransferQueue, the only place where its data types are taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_to_nested


def plain_list(column: Any) -> list[Any]:
    """A non-tensor column as a list of Python objects, whichever container the queue's backend chose."""
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [getattr(value, "data", value) if type(value).__name__ == "NonTensorData" else value for value in values]


def read_objects(keys: Sequence[str], partition: str, fields: Sequence[str]) -> dict[str, list[Any]]:
    """Non-tensor fields of some rows, in the order of `keys`; fields that the queue does not hold are absent."""
    if not keys:
        return {name: [] for name in fields}
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition, select_fields=list(fields))
    return {name: plain_list(data[name]) for name in fields if name in data.keys()}  # noqa: SIM118 (a TensorDict iterates over rows)


def read_responses(keys: Sequence[str], partition: str) -> list[list[int]]:
    """Token ids of the responses, in the order of `keys`."""
    if not keys:
        return []
    column = tq.kv_batch_get(keys=list(keys), partition_id=partition, select_fields=["responses"])["responses"]
    rows = column.unbind() if getattr(column, "is_nested", False) else list(column)
    return [row.tolist() for row in rows]


def write_advantages(batch: KVBatchMeta, values: np.ndarray) -> KVBatchMeta:
    """Give every response token of row i the advantage (and return) `values[i]`, (N,); tokens outside the mask get 0."""
    mask = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])["response_mask"]
    padded = torch.nested.to_padded_tensor(mask, 0.0) if mask.is_nested else mask
    tokens = torch.as_tensor(values, dtype=torch.float32).unsqueeze(1) * padded
    nested = response_to_nested(tokens, mask) if mask.is_nested else tokens
    fields = TensorDict({"advantages": nested, "returns": nested.clone()}, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
