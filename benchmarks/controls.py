"""What the knowledge in pre-training is worth: the same steps with it, and with it taken away in several ways.

python benchmarks/controls.py --instances FOLDER --vectors FOLDER --output FOLDER --base BERT

true            the vectors as they are.
zero            vectors of 0: where an entity is stays known, which one it is does not.
shuffled        entities exchange their vectors: still one vector each, but neighbours in the graph are no longer near.
random          vectors of noise.
shuffled_links  every mention's link drawn anew from all links.
absent          no entities at all, MLM and NSP only: the text-only twin.
joint           true, and an entity is hidden wherever a piece of its mention is masked.

One JSON line an arm: held-out figures at every evaluation. All arms share seed, instances, order and masks. Each
writes a model folder under --output; a finished one is read, not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ernie.training import TrainingConfig
from kg.artifact import MANIFEST, fingerprint, read_manifest
from pretrain.objectives import ObjectiveWeights
from pretrain.run import STAGE, PretrainConfig, run

ARMS: dict[str, dict[str, Any]] = {
    "true": {},
    "shuffled": {"entity_control": "shuffled"},
    "absent": {"entity_control": "absent", "objectives": ObjectiveWeights(dea=0.0)},
    "shuffled_links": {"entity_control": "shuffled_links"},
    "zero": {"entity_control": "zero"},
    "random": {"entity_control": "random"},
    "joint": {"entity_masking": "joint"},
}
SHOWN = (
    "mlm_loss", "mlm_accuracy", "mlm_mention_loss", "mlm_mention_accuracy", "dea_loss", "dea_accuracy", "dea_mrr",
    "dea_chance", "dea_hidden_accuracy", "dea_hidden_mrr",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("instances", "vectors", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    base = PretrainConfig(
        instances=arguments.instances,
        vectors=arguments.vectors,
        base=arguments.base,
        output=arguments.output,
        training=TrainingConfig(
            max_steps=arguments.steps,
            batch_size=arguments.batch_size,
            learning_rate=2e-4,
            eval_every=arguments.steps // 4,
            log_every=25,
        ),
        heldout_instances=384,
        tracker="none",
        seed=arguments.seed,
    )
    for name in arguments.arms:
        print(json.dumps(train(name, base)), flush=True)


def train(name: str, base: PretrainConfig) -> dict[str, Any]:
    """Figures of one arm."""
    config = dataclasses.replace(base, **ARMS[name], output=base.output / name)
    done = (config.output / MANIFEST).exists()
    if not done or read_manifest(config.output).data["fingerprint"] != fingerprint(STAGE, config):
        run(config)
    figures = read_manifest(config.output).figures
    curve = [
        {"step": entry["step"], **{figure: round(entry[figure], 4) for figure in SHOWN if figure in entry}}
        for entry in figures["heldout_curve"]
    ]
    return {
        "benchmark": "controls",
        "arm": name,
        "seed": config.seed,
        "seconds": round(figures["training_seconds"], 1),
        "precision": figures["precision"],
        "heldout": curve,
    }


if __name__ == "__main__":
    main()
