"""Representative sampling: rows spread over clusters of question embeddings. Same rows, same settings, same sample."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faithful_rl.config import ConfigError

FloatArray = npt.NDArray[np.float64]

MAX_TERMS = 4096
DIMENSIONS = 64
_EXACT_UP_TO = 20_000  # rows; above it k-means works on mini-batches


def embed(questions: Sequence[str], seed: int) -> FloatArray:
    """TF-IDF of words and word pairs, reduced to at most 64 dimensions (latent semantic analysis), each row of length 1 (or 0)."""
    text, decomposition = _sklearn("feature_extraction.text"), _sklearn("decomposition")
    try:
        terms = text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=MAX_TERMS).fit_transform(questions)
    except ValueError:  # not one word in any question
        return np.zeros((len(questions), 1))
    size = min(DIMENSIONS, terms.shape[1] - 1, terms.shape[0] - 1)
    dense = terms.toarray() if size < 2 else decomposition.TruncatedSVD(size, random_state=seed).fit_transform(terms)
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    result: FloatArray = np.divide(dense, lengths, out=np.zeros_like(dense), where=lengths > 0)
    return result


def read_embeddings(path: str, rows: int, key: str) -> FloatArray:
    """Embeddings of a pool from a `.npy` file (no pickle). Raises ConfigError where they do not fit."""
    try:
        array = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(key, f"{path} ({error})", "a .npy file of numbers", "Correct the path.") from error
    if array.ndim != 2 or len(array) != rows or not np.all(np.isfinite(array)):
        raise ConfigError(
            key, f"shape {array.shape}", f"({rows}, dimensions) finite numbers, one row for each of the pool", "Make it again."
        )
    return np.asarray(array, dtype=np.float64)


def sample(embeddings: FloatArray, amount: int, clusters: int, seed: int) -> list[int]:
    """`amount` row numbers in ascending order, as evenly over at most `clusters` clusters as their sizes allow.

    Inside a cluster the rows are ordered by their distance from its centre and taken at even intervals, so that its core and its border
    are both there.

    Raises:
        ValueError: `amount` above the number of rows.
    """
    rows = len(embeddings)
    if amount > rows:
        raise ValueError(f"{amount} of {rows} rows")
    if amount in (0, rows):
        return list(range(amount))
    distinct = len(np.unique(embeddings, axis=0))
    labels, distances = _cluster(embeddings, min(clusters, amount, distinct), seed)
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    chosen: list[int] = []
    for rows_of, number in zip(members, shares([len(one) for one in members], amount), strict=True):
        ordered = rows_of[np.lexsort((rows_of, distances[rows_of]))]
        chosen += [int(ordered[(2 * place + 1) * len(ordered) // (2 * number)]) for place in range(number)]
    return sorted(chosen)


def shares(sizes: Sequence[int], amount: int) -> list[int]:
    """How many to take of each cluster: equal numbers, as far as the small ones reach; a remainder goes to the larger ones.

    `sum(shares) == amount`, for `0 <= amount <= sum(sizes)`.
    """
    taken = [0] * len(sizes)
    left, open_ones = amount, [index for index, size in enumerate(sizes) if size]
    while left:
        each = max(left // len(open_ones), 1)
        for index in sorted(open_ones, key=lambda one: (-sizes[one], one)):
            more = min(each, sizes[index] - taken[index], left)
            taken[index] += more
            left -= more
        open_ones = [index for index in open_ones if taken[index] < sizes[index]]
    return taken


def _cluster(embeddings: FloatArray, count: int, seed: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Labels (rows,) and distances (rows,) from the own centre."""
    cluster = _sklearn("cluster")
    if len(embeddings) <= _EXACT_UP_TO:
        model = cluster.KMeans(n_clusters=count, n_init=4, random_state=seed)
    else:
        model = cluster.MiniBatchKMeans(n_clusters=count, n_init=4, batch_size=4096, random_state=seed)
    distances = model.fit_transform(embeddings)
    labels = np.asarray(model.labels_, dtype=np.int64)
    own: FloatArray = distances[np.arange(len(labels)), labels]
    return labels, np.round(own, 9)  # rounding noise must not decide the order


def _sklearn(part: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise ConfigError(
            "curation", f"no package scikit-learn ({error})", "the extra `data`", "pip install 'faithful_rl[data]'."
        ) from error
