"""Settings of `kg embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg.errors import InputError
from kg.sources import source_path


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    graph: Path
    """Graph artifact (`kg build`)."""
    output: Path
    """Folder of the vectors artifact."""
    leave_out: tuple[Path, ...] = ()
    """Task example folders (`finetune examples`), or files head<TAB>relation<TAB>tail: facts a task will ask for.
    No triple between the two entities of such a fact, and none with its head and relation, is trained on or ranked."""
    split: Literal["auto", "own", "published"] = "auto"
    """Which triples are held out: the source's own validation and test sets (published), or shares of all (own);
    auto = published where the graph has such a split."""
    warm_start: Path | None = None
    """An older vectors artifact: what it knows by the same id starts there, a new entity where its neighbours say."""
    inductive: str = ""
    """A text encoder's folder (`package:NAME/path` inside an installed package): an entity without a trained vector
    gets one from its label and description; such rows are listed in inductive_entities.parquet. Empty = they stay
    zero."""
    dim: int = 100
    """Numbers in a vector."""
    norm: Literal["l1", "l2"] = "l2"
    """Distance between head + relation and tail."""
    loss: Literal["cross_entropy", "self_adversarial", "margin"] = "cross_entropy"
    """cross_entropy: softmax over a true triple and its negatives; self_adversarial: RotatE's; margin: the paper's."""
    margin: float = 6.0
    """Gamma of self_adversarial and margin, in units of distance; cross_entropy has none."""
    temperature: float = 1.0
    """Alpha of self_adversarial: 0 weighs all negatives alike."""
    reciprocal: bool = False
    """Gives every relation a second vector, for the question "which head?"; written as inverse_relation_embeddings."""
    learning_rate: float = 0.2
    """Of row-wise Adagrad."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 over the epochs."""
    init_scale: float = 0.1
    """Standard deviation of the first vectors' numbers."""
    num_negatives: int = 512
    """Negatives of a chunk on each side: a triple meets twice as many."""
    negatives: Literal["uniform", "bernoulli", "typed", "degree"] = "uniform"
    """uniform; bernoulli: uniform, but the side with fewer true answers counts more; typed: entities seen on that side
    of the relation; degree: the more triples an entity has, the more often."""
    filtered: bool = True
    """Passes over negatives that are true training triples."""
    engine: Literal["auto", "torch", "fused"] = "auto"
    """fused: compiled by numba at first use; torch: plain tensor operations. Both take the same steps."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: the torch engine on a graphics card; not together with partitions."""
    chunk_size: int = 512
    """Triples that share their negatives."""
    batch_size: int = 512
    """Triples a step; less on a small graph, so that an epoch has at least about 20 steps."""
    epochs: int = 20
    """Passes over the training triples, at most."""
    valid: float = 0.02
    """Share of the triples held out for choosing the epoch."""
    test: float = 0.02
    """Share of the triples held out for the reported figures."""
    evaluate_every: int = 4
    """Epochs between validations."""
    max_ranked: int = 1000
    """Validation triples ranked each time, at most (both sides); the test ranks all."""
    rank_sample: int = 10_000
    """Above a million entities a true one is ranked among so many drawn ones, the same for every question, and the
    figures are called sampled_mrr@10000; 0 = always among all entities."""
    patience: int = 2
    """Validations in a row without a better MRR before training stops; 0 = never."""
    max_minutes: float = 0.0
    """Stops after the epoch in which this time is over; 0 = no limit. With one, the result depends on the machine."""
    save_every: int = 0
    """Epochs between checkpoints, from which a killed run goes on exactly; 0 = none are written. With partitions every
    visit ends in one."""
    memory_gb: float = 0.0
    """10^9 bytes that training may take, all processes together: the table lies in partitions on disk, two at a time in
    memory, and the fewest that fit are chosen; 0 = the table stays in memory, unless one of the next two is set."""
    partitions: int = 0
    """How many partitions, instead of the fewest that fit into memory_gb (4 where that is 0)."""
    processes: int = 1
    """Training processes of one thread each, which work on pairs of partitions that have none in common."""
    visits_per_commit: int = 1
    """Visits to a pair of partitions between two commits to disk; several processes commit after every round."""
    timeout_minutes: float = 60.0
    """How long a training process waits for the others at the end of a round."""
    index: Literal["auto", "flat", "hnsw", "ivf_sq8", "ivf_pq", "none"] = "auto"
    """Kind of the index of nearest vectors; auto = by size; none = no index is written."""
    index_memory_mb: int = 4096
    """What `index: auto` may spend on it, in 10^6 bytes."""
    threads: int = 0
    """Threads of torch and of faiss (never busy together); 0 = torch's own choice, which heeds OMP_NUM_THREADS."""
    seed: int = 0
    """Of the split, the first vectors, the order and the negatives."""

    def inputs(self) -> dict[str, Path]:
        named = {f"leave_out_{number}": path for number, path in enumerate(self.leave_out)}
        older = {} if self.warm_start is None else {"warm_start": self.warm_start}
        encoder = {"inductive": source_path(self.inductive)} if self.inductive else {}
        return {"graph": self.graph, **named, **older, **encoder}

    def __post_init__(self) -> None:
        positive = ("dim", "learning_rate", "init_scale", "num_negatives", "chunk_size", "batch_size", "epochs")
        positive += ("evaluate_every", "max_ranked", "processes", "visits_per_commit", "timeout_minutes")
        for name in (*positive, "index_memory_mb"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} above 0, got {getattr(self, name)}")
        least = ("margin", "temperature", "patience", "max_minutes", "save_every", "threads", "rank_sample")
        for name in (*least, "partitions", "memory_gb"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} of at least 0, got {getattr(self, name)}")
        if self.device == "cuda" and (self.engine == "fused" or self.out_of_core):
            other = "partitions, memory_gb and processes" if self.out_of_core else "engine fused"
            raise InputError(f"device cuda is the torch engine's, with the table in memory; leave {other} away")
        if self.inductive and self.out_of_core:
            raise InputError(
                "inductive reads the descriptions into memory, which partitions, memory_gb and processes are there to "
                "spare; leave it or them away"
            )

    @property
    def out_of_core(self) -> bool:
        """Whether training goes through partitions on disk."""
        return self.memory_gb > 0 or self.partitions > 0 or self.processes > 1

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        falling = self.learning_rate_schedule == "linear"
        return self.learning_rate * (1 - epoch / self.epochs) if falling else self.learning_rate
