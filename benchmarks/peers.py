"""Training speed of TransE beside other libraries, in one run: one JSON line a system, then ratios.

python benchmarks/peers.py --triples FOLDER --seconds 60 --peers pykeen=VENV/bin/python pyg=VENV/bin/python

FOLDER holds train.tsv, valid.tsv, test.tsv. A peer is named with the Python of an environment of its own, in which it
is installed (`pip install` pykeen, torch_geometric, or torchbiggraph with setuptools<80; DGL-KE wants Python 3.8 with
dglke 0.1.2, dgl 0.4.3.post2, torch 1.12.1, numpy<1.24, scipy<1.11, networkx<3); else it is left out. Every
system trains in its own process on the same numbered triples, with the same width and threads, for the same time after
a warm-up that is not counted, and says how many negatives a triple met. Vectors are then ranked here, filtered, with
realistic ties, on the first 2,000 validation triples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kg.ranking import KnownAnswers, fitting_batch_size, rank_triples
from kg.transe import NORMS, TransE

RANKED = 2000
OURS = {
    "ours, cross-entropy, L2": {"loss": "cross_entropy", "norm": "l2", "learning_rate": 0.2, "reciprocal": True},
    "ours, self-adversarial, L1": {"loss": "self_adversarial", "norm": "l1", "learning_rate": 0.1, "reciprocal": False},
}

OUR_CHILD = """
import json, resource, sys, time
import numpy as np, torch
from kg.trainer import Trainer
from kg.transe import TransE
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
triples = torch.from_numpy(np.load(job["triples"]))
generator = torch.Generator().manual_seed(0)
model = TransE.initialised(num_entities=job["entities"], num_relations=job["relations"], dim=job["dim"], scale=0.1,
    generator=generator, norm=job["norm"], reciprocal=job["reciprocal"])
trainer = Trainer(model, triples, loss=job["loss"], margin=3.0, temperature=2.0, learning_rate=job["learning_rate"],
    num_negatives=job["negatives"] // 2, batch_size=1024, chunk_size=64, generator=generator, engine=job["engine"])
trainer._steps(torch.arange(trainer.batch_size).view(1, -1))
started, seen, epochs = time.perf_counter(), 0, 0
while time.perf_counter() - started < job["seconds"] and epochs < job["epochs"]:
    trainer.epoch(); epochs += 1; seen += trainer.steps_per_epoch * trainer.batch_size
seconds = time.perf_counter() - started
np.savez(job["output"], entities=model.entities.numpy(), relations=model.relations.numpy())
print(json.dumps({"triples_per_second": seen / seconds, "seconds": seconds, "epochs": epochs,
    "negatives_per_triple": job["negatives"] // 2 * 2,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""
PYKEEN_CHILD = """
import json, resource, sys, time
import numpy as np, torch
from pykeen.losses import NSSALoss
from pykeen.models import TransE
from pykeen.sampling import BasicNegativeSampler
from pykeen.triples import CoreTriplesFactory
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
triples = torch.from_numpy(np.load(job["triples"]) - np.array([1, 0, 1]))
factory = CoreTriplesFactory(triples, num_entities=job["entities"], num_relations=job["relations"])
torch.manual_seed(0)
model = TransE(triples_factory=factory, embedding_dim=job["dim"], scoring_fct_norm=1,
    loss=NSSALoss(margin=9.0, adversarial_temperature=1.0))
optimiser = torch.optim.Adam(model.get_grad_params(), lr=0.001)
sampler = BasicNegativeSampler(mapped_triples=factory.mapped_triples, num_negs_per_pos=job["negatives"])
def step(batch):
    optimiser.zero_grad()
    negatives, mask = sampler.sample(batch)
    positive, negative = model.score_hrt(batch), model.score_hrt(negatives.view(-1, 3))
    loss = model.loss.process_slcwa_scores(positive, negative.view(len(batch), -1))
    loss.backward(); optimiser.step(); model.post_parameter_update()
started = seen = 0
order, number, warm = torch.randperm(len(triples)), 0, 10
while True:
    if number == warm:
        started = time.perf_counter()
    if number >= warm and time.perf_counter() - started > job["seconds"]:
        break
    rows = order[torch.arange(number * 1024, (number + 1) * 1024) % len(order)]
    step(factory.mapped_triples[rows]); number += 1
    seen += 1024 * (number > warm)
seconds = time.perf_counter() - started
entities = model.entity_representations[0](None).detach().numpy()
relations = model.relation_representations[0](None).detach().numpy()
np.savez(job["output"], entities=np.concatenate([np.zeros((1, entities.shape[1]), np.float32), entities]),
    relations=relations)
print(json.dumps({"triples_per_second": seen / seconds, "seconds": seconds, "epochs": seen / len(triples),
    "negatives_per_triple": job["negatives"], "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "norm": "l1", "version": __import__("importlib.metadata").metadata.version("pykeen")}))
"""
PYG_CHILD = """
import json, resource, sys, time
import numpy as np, torch
from torch_geometric.nn import TransE
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
head, relation, tail = torch.from_numpy(np.load(job["triples"]) - np.array([1, 0, 1])).unbind(1)
torch.manual_seed(0)
model = TransE(job["entities"], job["relations"], job["dim"], margin=1.0, p_norm=1.0, sparse=True)
optimiser = torch.optim.SparseAdam(list(model.parameters()), lr=0.01)
loader = model.loader(head, relation, tail, batch_size=1024, shuffle=True)
def batches():
    while True:
        yield from loader
started = seen = 0
for number, (h, r, t) in enumerate(batches()):
    if number == 10:
        started = time.perf_counter()
    if number > 10 and time.perf_counter() - started > job["seconds"]:
        break
    optimiser.zero_grad(); loss = model.loss(h, r, t); loss.backward(); optimiser.step()
    seen += len(h) * (number >= 10)
seconds = time.perf_counter() - started
entities = model.node_emb.weight.detach().numpy()
np.savez(job["output"], entities=np.concatenate([np.zeros((1, entities.shape[1]), np.float32), entities]),
    relations=model.rel_emb.weight.detach().numpy())
print(json.dumps({"triples_per_second": seen / seconds, "seconds": seconds, "epochs": seen / len(head),
    "negatives_per_triple": 1, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "norm": "l1", "version": __import__("importlib.metadata").metadata.version("torch_geometric")}))
"""
PBG_CHILD = """
import io, json, logging, re, resource, sys, tempfile, time
from pathlib import Path
import h5py, numpy as np
from torchbiggraph.config import parse_config
from torchbiggraph.train import train
job = json.loads(sys.argv[1])
if __name__ == "__main__":
    triples = np.load(job["triples"]) - np.array([1, 0, 1])
    work = Path(tempfile.mkdtemp(dir=Path(job["output"]).parent))
    (work / "edges").mkdir()
    (work / "entity_count_all_0.txt").write_text(str(job["entities"]))
    (work / "dynamic_rel_count.txt").write_text(str(job["relations"]))
    with h5py.File(work / "edges" / "edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for column, name in enumerate(("lhs", "rel", "rhs")):
            file[name] = triples[:, column]
    half = job["negatives"] // 4
    config = dict(entity_path=str(work), edge_paths=[str(work / "edges")], checkpoint_path=str(work / "model"),
        entities={"all": {"num_partitions": 1}}, dynamic_relations=True,
        relations=[{"name": "all", "lhs": "all", "rhs": "all", "operator": "translation"}],
        dimension=job["dim"], global_emb=False, comparator="l2", loss_fn="softmax", lr=0.1, batch_size=1024,
        num_batch_negs=half, num_uniform_negs=half, eval_fraction=0, workers=job["threads"], verbose=0, num_epochs=4)
    log = io.StringIO()
    logging.getLogger("torchbiggraph").addHandler(logging.StreamHandler(log))
    logging.getLogger("torchbiggraph").setLevel(logging.INFO)
    for epochs in range(4, 1000, 4):
        started = time.perf_counter()
        train(parse_config(config | {"num_epochs": epochs}))
        times = [(int(edges), float(seconds)) for edges, seconds in
            re.findall(r"Processed (\\d+) edges in ([0-9.]+) s", log.getvalue())]
        if sum(seconds for _, seconds in times) > job["seconds"]:
            break
    warm = times[1:]
    version = (work / "model" / "checkpoint_version.txt").read_text().strip()
    with h5py.File(work / "model" / f"embeddings_all_0.v{version}.h5") as file:
        entities = file["embeddings"][:]
    with h5py.File(work / "model" / f"model.v{version}.h5") as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    relations = next(value for name, value in found.items() if "rhs" in name and value.ndim == 2)
    np.savez(job["output"], entities=np.concatenate([np.zeros((1, entities.shape[1]), np.float32), entities]),
        relations=-relations)
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"triples_per_second": sum(e for e, _ in warm) / sum(s for _, s in warm),
        "seconds": sum(s for _, s in times), "epochs": len(times), "negatives_per_triple": 4 * half,
        "peak_mb": usage // 1024, "norm": "l2",
        "version": __import__("importlib.metadata").metadata.version("torchbiggraph")}))
"""
DGLKE_CHILD = """
import glob, json, os, re, resource, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
job = json.loads(sys.argv[1])
work = Path(tempfile.mkdtemp(dir=Path(job["output"]).parent))
triples = np.load(job["triples"])
np.savetxt(work / "train.tsv", triples, fmt="%d", delimiter="\\t")
batch = 1024
def train(steps):
    command = [Path(sys.executable).with_name("dglke_train"), "--model_name", "TransE_l2", "--dataset", "made",
        "--data_path", work, "--format", "raw_udd_hrt", "--data_files", "train.tsv", "--save_path", work / "saved",
        "--batch_size", batch, "--neg_sample_size", job["negatives"], "--hidden_dim", job["dim"], "--gamma", 12.0,
        "--lr", 0.25, "-adv", "--regularization_coef", 1e-9, "--num_proc", job["threads"], "--num_thread", 1,
        "--max_step", steps, "--log_interval", 100000]
    alone = dict(os.environ, OMP_NUM_THREADS="1")  # its processes are its threads
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, env=alone)
    return max(float(of) for of in re.findall(r"proc \\d+ takes ([0-9.]+) seconds", done.stdout))
seconds = train(100)
steps = max(100, int(100 * job["seconds"] / seconds))
seconds = train(steps)
saved = Path(glob.glob(str(work / "saved" / "*" / "*_entity.npy"))[0])
def table(found, names):
    rows = np.zeros((max(names) + 1, found.shape[1]), np.float32)
    rows[names] = found
    return rows
names = [[int(line.split("\\t")[1]) for line in (work / f).read_text().splitlines()]
    for f in ("entities.tsv", "relations.tsv")]
entities = table(np.load(saved), names[0])
short = np.zeros((job["entities"] + 1 - len(entities), entities.shape[1]), np.float32)
np.savez(job["output"], entities=np.concatenate([entities, short]),
    relations=table(np.load(str(saved).replace("_entity", "_relation")), names[1]))
seen = steps * batch * job["threads"]
usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"triples_per_second": seen / seconds, "seconds": seconds, "epochs": seen / len(triples),
    "negatives_per_triple": job["negatives"], "peak_mb": usage // 1024, "norm": "l2", "version": "0.1.2"}))
"""
CHILDREN = {"pykeen": PYKEEN_CHILD, "pyg": PYG_CHILD, "pbg": PBG_CHILD, "dglke": DGLKE_CHILD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=Path, required=True)
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help=f"of {', '.join(CHILDREN)}")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--negatives", type=int, default=64, help="a triple; ours: half of them a side")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training that is counted, each")
    parser.add_argument("--epochs", type=int, default=60, help="of ours, at most")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    parts, num_entities, num_relations = numbered(arguments.triples)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "train.npy", parts[0])
        job = {
            "triples": f"{folder}/train.npy",
            "output": f"{folder}/vectors.npz",
            "entities": num_entities,
            "relations": num_relations,
            **{name: getattr(arguments, name) for name in ("dim", "negatives", "seconds", "epochs", "threads")},
        }
        lines = [
            measured(name, sys.executable, OUR_CHILD, job | settings | {"engine": "fused"}, parts)
            for name, settings in OURS.items()
        ]
        for name, python in (text.split("=", 1) for text in arguments.peers):
            lines.append(measured(name, python, CHILDREN[name], job, parts))
    ours = [line for line in lines if line["system"].startswith("ours") and "triples_per_second" in line]
    for line in lines[len(OURS) :]:
        if "triples_per_second" in line:
            ratios = {o["system"]: round(o["triples_per_second"] / line["triples_per_second"], 1) for o in ours}
            print(json.dumps({"benchmark": "peers", "times_as_fast_as": line["system"], **ratios}), flush=True)


def numbered(folder: Path) -> tuple[list[np.ndarray], int, int]:
    """Train, validation and test triples by row (entities from 1), and how many entities and relations there are."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    parts = []
    for name in ("train", "valid", "test"):
        lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [
            (
                entities.setdefault(head, len(entities) + 1),
                relations.setdefault(relation, len(relations)),
                entities.setdefault(tail, len(entities) + 1),
            )
            for head, relation, tail in (line.split("\t") for line in lines)
        ]
        parts.append(np.array(rows, np.int64))
    return parts, len(entities), len(relations)


def measured(name: str, python: str, code: str, job: dict[str, Any], parts: list[np.ndarray]) -> dict[str, Any]:
    """Trains in a child process, ranks what it wrote, prints and returns the line; a crash is a line too."""
    line: dict[str, Any] = {"benchmark": "peers", "system": name, "dim": job["dim"], "threads": job["threads"]}
    script = Path(job["output"]).with_name("child.py")
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [python, str(script), json.dumps(job)], capture_output=True, text=True, timeout=600 + 4 * job["seconds"]
    )
    if done.returncode:
        line["failed"] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
    else:
        line |= json.loads(done.stdout.strip().splitlines()[-1])
        line["validation_mrr"] = ranked(job, line.get("norm", job.get("norm", "l2")), parts)
    print(json.dumps(line), flush=True)
    return line


def ranked(job: dict[str, Any], norm: str, parts: list[np.ndarray]) -> float:
    """Filtered MRR of the written vectors on validation triples."""
    with np.load(job["output"]) as file:
        entities, relations = (torch.from_numpy(np.ascontiguousarray(file[name])) for name in ("entities", "relations"))
    assert norm in NORMS, "ranked by the norm it was trained with"
    model = TransE(entities, relations, norm=norm, reciprocal=len(relations) == 2 * job["relations"])
    known = KnownAnswers(np.concatenate(parts), num_relations=job["relations"])
    size = fitting_batch_size(job["entities"])
    return rank_triples(parts[1][:RANKED], model.score_all, known, batch_size=size).metrics()["mrr"]


if __name__ == "__main__":
    main()
