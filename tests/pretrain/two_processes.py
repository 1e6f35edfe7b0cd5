"""One of two processes of `test_pretrain_processes.py`: trains with DDP, then with FSDP2, and leaves what came out.

python two_processes.py BASE INSTANCES VECTORS OUTPUT     (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are set)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ernie.conversion import ernie_from_bert
from ernie.entity_table import EntityTable
from ernie.training import ExampleBatches, TrainingConfig, TrainingResult, train
from ernie.training.checkpointing import weights_of
from ernie.training.processes import gathered
from pretrain.collate import PretrainingCollate
from pretrain.dataset import Instances
from pretrain.evaluation import heldout_evaluator
from pretrain.masking import Masking
from pretrain.model import PretrainingModel
from pretrain.objectives import Objectives, ObjectiveWeights


def go(folders: list[str], output: Path, *, batch_size: int, parallel: str = "ddp") -> TrainingResult:
    """Six steps in fp64 without dropout; weights and history go to `output`."""
    base, instances, vectors = folders
    torch.manual_seed(0)
    ernie = ernie_from_bert(base, entity_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ernie.attach_entity_table(EntityTable.open(vectors))
    model = PretrainingModel(ernie, replacement=True).double()
    train_set, dev_set = (Instances(Path(instances) / split) for split in ("train", "dev"))
    objectives = Objectives(ObjectiveWeights(nsp=0.0, replacement=0.5))
    collate = PretrainingCollate(train_set, seed=1, weigh_links=True)
    evaluate = heldout_evaluator(
        dev_set, words=collate.words, objectives=objectives, masking=Masking(), limit=20, seed=0, text_only=False
    )
    result = train(
        model,
        batches=ExampleBatches(
            train_set,
            lengths=train_set.lengths,
            batch_size=batch_size,
            seed=0,
            collate=collate,
            whole_batch=True,
        ),
        compute_losses=objectives.measure,
        config=TrainingConfig(
            max_steps=6,
            batch_size=batch_size,
            learning_rate=1e-2,
            save_every=3,
            log_every=2,
            eval_every=3,
            precision="fp32",
            parallel=parallel,
        ),
        seed=0,
        checkpoint_folder=output / "checkpoints",
        evaluate=evaluate,
        count_targets=objectives.count,
        loss_weights=objectives.weights,
        trainable_from=lambda name: 2 if "word_embeddings" in name else 0,
        keep_best="mlm_loss",
        best_is_lowest=True,
    )
    weights = gathered(weights_of(model))
    if int(torch.distributed.is_initialized() and torch.distributed.get_rank()) == 0:
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, output / "end.safetensors")
        (output / "result.json").write_text(json.dumps([result.history, result.evaluations]))
    return result


if __name__ == "__main__":
    *given, place = sys.argv[1:]
    for kind in ("ddp", "fsdp2"):
        (Path(place) / kind).mkdir(parents=True, exist_ok=True)
        go(given, Path(place) / kind, batch_size=8, parallel=kind)
    torch.distributed.destroy_process_group()
