"""How fast `finetune predict` is beside its own encoder: one JSON line a round, and one with the median ratio.

    python benchmarks/finetuning.py --model RUN --examples FILE.jsonl --vectors VECTORS [--rounds 3]

`encoder`: batches made beforehand, the model alone, in the same order and sizes. `predict`: from the file's lines to
the lines of predictions.jsonl: reading, marks, word pieces, padding, the model, probabilities, writing. In turns,
examples a second; ratio is predict / encoder. On a machine of its own, one thread: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import torch

from finetune.data import collate, lengths_of
from finetune.pipeline import CHUNK, TaskPipeline
from finetune.tasks.schema import read_examples


def seconds_of_encoder(ready: TaskPipeline, batches: list[dict[str, torch.Tensor]]) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            ready.task.model(**batch)
    return time.perf_counter() - started


def seconds_of_predict(ready: TaskPipeline, path: Path) -> float:
    with tempfile.TemporaryFile() as file:
        started = time.perf_counter()
        for record in ready.predict(read_examples(path)):
            file.write(orjson.dumps(record) + b"\n")
        return time.perf_counter() - started


def prepared_batches(ready: TaskPipeline, path: Path) -> list[dict[str, torch.Tensor]]:
    """The batches `predict` runs, made beforehand."""
    examples = list(read_examples(path))
    batches = []
    for start in range(0, len(examples), CHUNK):
        features, _ = ready.answer(examples[start : start + CHUNK])
        order = np.argsort([-n for n in lengths_of(features)], kind="stable")
        for first in range(0, len(order), ready.batch_size):
            rows = order[first : first + ready.batch_size]
            batch = collate([features[row] for row in rows], pad_token_id=ready.task.tokenizer.pad_token_id)
            batch.pop("labels", None)
            batches.append(batch)
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args()
    ready = TaskPipeline.from_pretrained(given.model, vectors=given.vectors, batch_size=given.batch_size)
    ready.task.model.eval()
    batches = prepared_batches(ready, given.examples)
    count = sum(len(batch["input_ids"]) for batch in batches)
    ratios = []
    for number in range(given.rounds):
        encoder, predict = seconds_of_encoder(ready, batches), seconds_of_predict(ready, given.examples)
        ratios.append(encoder / predict)
        print(
            json.dumps(
                {
                    "round": number,
                    "examples": count,
                    "encoder_per_second": round(count / encoder, 1),
                    "predict_per_second": round(count / predict, 1),
                    "ratio": round(ratios[-1], 4),
                }
            ),
            flush=True,
        )
    print(json.dumps({"median_ratio": round(statistics.median(ratios), 4), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
