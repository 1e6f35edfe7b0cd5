"""What each kind of vector index reaches, one JSON line a kind: recall@10, microseconds a query, size, build time.

python benchmarks/index.py                              100,000 made vectors of 100 numbers
python benchmarks/index.py --num 400000 --kinds hnsw ivf_sq8
python benchmarks/index.py --vectors FOLDER             the entity vectors of a `kg embed` artifact

The made vectors hardly cluster, as those of TransE do not: Gaussian, with a spectrum that falls slowly.
Queries are vectors with noise of 0.3 times their length, other than those the index was tuned on.
"""
# ruff: noqa: E402 (a file beside this one is named `kg` too: the folder leaves sys.path before the package is imported)

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from safetensors.numpy import load_file

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from kg.index import VectorIndex
from kg.index_kinds import KINDS, RECALL_NOISE, choose_kind

NUM_QUERIES, K = 1_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100_000, help="vectors")
    parser.add_argument("--dim", type=int, default=100, help="numbers in a vector")
    parser.add_argument("--vectors", type=Path, help="folder with entity_embeddings.safetensors, instead of made ones")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--threads", type=int, default=0, help="0 = every usable core")
    arguments = parser.parse_args()
    vectors = stored(arguments.vectors) if arguments.vectors else made(arguments.num, arguments.dim)
    queries = perturbed(vectors)
    exact = VectorIndex.build(vectors, names(vectors), kind="flat", threads=arguments.threads).search(queries, K)[0]
    for kind in arguments.kinds:
        print(json.dumps(measured(vectors, queries, exact, kind, arguments.threads)), flush=True)


def made(num_vectors: int, dim: int) -> np.ndarray:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((num_vectors, dim), dtype=np.float32)
    return vectors / np.sqrt(1 + np.arange(dim, dtype=np.float32) / 20)


def stored(folder: Path) -> np.ndarray:
    """Entity vectors without the rows that are zero."""
    vectors = load_file(folder / "entity_embeddings.safetensors")["entity_embeddings"]
    return vectors[vectors.any(axis=1)].astype(np.float32)


def perturbed(vectors: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(12345)
    own = vectors[random.choice(len(vectors), min(NUM_QUERIES, len(vectors)), replace=False)]
    noise = random.standard_normal(own.shape, dtype=np.float32)
    lengths = np.linalg.norm(own, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return own + RECALL_NOISE * lengths * noise


def names(vectors: np.ndarray) -> list[str]:
    return [f"Q{row}" for row in range(len(vectors))]


def measured(
    vectors: np.ndarray, queries: np.ndarray, exact: list[list[str]], kind: str, threads: int
) -> dict[str, object]:
    started = time.perf_counter()
    index = VectorIndex.build(vectors, names(vectors), kind=kind, threads=threads)
    build_seconds = time.perf_counter() - started
    started = time.perf_counter()
    found, _ = index.search(queries, K)
    microseconds = (time.perf_counter() - started) / len(queries) * 1e6
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)])
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        size = (Path(folder) / "index.faiss").stat().st_size
        started = time.perf_counter()
        VectorIndex.load(folder, mmap=True, threads=threads).search(queries[:1], K)
        first_answer = time.perf_counter() - started
    return {
        "benchmark": "kg index",
        "kind": kind,
        "num_vectors": len(vectors),
        "dim": vectors.shape[1],
        "recall@10": round(float(recall), 4),
        "recall@10_at_build": round(index.recall, 4),
        "effort": index.effort,
        "microseconds_per_query": round(microseconds, 1),
        "megabytes": round(size / 1e6, 1),
        "build_seconds": round(build_seconds, 2),
        "mapped_first_answer_seconds": round(first_answer, 4),
        "threads": index.threads,
        "auto_chooses": choose_kind(*vectors.shape, 4096),
        "faiss": faiss.__version__,
    }


if __name__ == "__main__":
    main()
