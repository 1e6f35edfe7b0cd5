"""The compiled step against the torch step, its elementary functions against numpy's."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kg import fused
from kg.engines import FusedEngine, StepSettings, TorchEngine
from kg.losses import LOSSES
from kg.negatives import KnownQueries
from kg.transe import NORMS, TransE

NUM_ENTITIES, NUM_RELATIONS = 60, 4


def made_model(norm, reciprocal, dim, scale=0.3):
    return TransE.initialised(
        num_entities=NUM_ENTITIES,
        num_relations=NUM_RELATIONS,
        dim=dim,
        scale=scale,
        generator=torch.Generator().manual_seed(3),
        norm=norm,
        reciprocal=reciprocal,
    )


def made_triples(count, generator):
    columns = [(1, NUM_ENTITIES + 1), (0, NUM_RELATIONS), (1, NUM_ENTITIES + 1)]
    return torch.stack([torch.randint(*bounds, (count,), generator=generator) for bounds in columns], 1)


def both_engines(name, norm, reciprocal, filtered, weighted, *, dim, chunk, num_negatives):
    """The two engines' models, accumulators and losses after two steps on the same batches."""
    generator = torch.Generator().manual_seed(1)
    triples = made_triples(400, generator)
    known = KnownQueries(triples, num_entities=NUM_ENTITIES, num_relations=NUM_RELATIONS) if filtered else None
    batches = triples[torch.randint(0, len(triples), (2, 3 * chunk), generator=generator)]
    negatives = torch.randint(1, NUM_ENTITIES + 1, (2, 6, num_negatives), generator=generator)
    weights = torch.rand(2, 3 * chunk, 2, generator=generator) if weighted else None
    settings = StepSettings(name, 2.0, 0.7, known)
    found = []
    for engine_class in (TorchEngine, FusedEngine):
        model = made_model(norm, reciprocal, dim)
        engine = engine_class(model, settings, learning_rate=0.1)
        found.append((model, engine, engine.steps(batches, negatives, weights)))
    return found


@pytest.mark.parametrize(("filtered", "weighted"), [(True, False), (False, True)])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("name", list(LOSSES))
def test_both_engines_take_the_same_steps(name, norm, reciprocal, filtered, weighted):
    """An engine that differs learns too; only the comparison of its figures with the other's would be false."""
    (one, slow, loss), (two, quick, quick_loss) = both_engines(
        name, norm, reciprocal, filtered, weighted, dim=20, chunk=7, num_negatives=9
    )
    assert quick_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(two.entities, one.entities, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(two.relations, one.relations, atol=2e-5, rtol=1e-5)
    for mine, theirs in zip(quick.accumulated, slow.accumulated, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dim", "chunk", "num_negatives"), [(1, 1, 1), (16, 4, 4), (100, 5, 33), (17, 2, 6)])
def test_odd_sizes_are_padded_without_a_trace(dim, chunk, num_negatives):
    """Padding that leaks into a sum shows at some widths only."""
    (one, _, loss), (two, _, quick_loss) = both_engines(
        "self_adversarial", "l2", False, True, False, dim=dim, chunk=chunk, num_negatives=num_negatives
    )
    assert quick_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(two.entities, one.entities, atol=2e-5, rtol=1e-5)


def test_the_number_of_threads_changes_no_bit():
    """Lock-free engines give another table each time; this one must not, or a resumed run is another run."""
    tables, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tables.append(both_engines("cross_entropy", "l2", False, True, False, dim=32, chunk=8, num_negatives=16)[1])
    finally:
        torch.set_num_threads(before)
    assert tables[0][2] == tables[1][2]
    assert torch.equal(tables[0][0].entities, tables[1][0].entities)


def test_every_negative_true_leaves_the_query_to_its_positive():
    """On a tiny graph every entity may answer a question; a softmax over nothing is NaN."""
    every = [(1, 0, n) for n in range(1, NUM_ENTITIES + 1)] + [(n, 0, 1) for n in range(1, NUM_ENTITIES + 1)]
    known = KnownQueries(torch.tensor(every), num_entities=NUM_ENTITIES, num_relations=NUM_RELATIONS)
    negatives = torch.arange(1, NUM_ENTITIES + 1).repeat(1, 2, 1)
    for name in LOSSES:
        model = made_model("l2", False, 8)
        before = model.entities.clone()
        loss = FusedEngine(model, StepSettings(name, 1.0, 1.0, known), learning_rate=0.1).steps(
            torch.tensor([[[1, 0, 1]]]), negatives, None
        )
        assert np.isfinite(loss)
        changed = (model.entities != before).any(1).nonzero().view(-1).tolist()
        assert set(changed) <= {1}, name


def test_exponential_and_logarithm_hold_over_their_range():
    """The polynomials are ours: one wrong digit bends every gradient a little."""
    x = np.linspace(-90, 88, 4001).astype(np.float32)
    out, bits = np.empty_like(x), np.empty(len(x), np.int32)
    fused.exp_row(x, out, bits)
    np.testing.assert_allclose(out, np.exp(np.maximum(x, -87.0).astype(np.float64)), rtol=2e-6)
    x = np.exp(np.linspace(-80, 80, 4001)).astype(np.float32)
    fused.log_row(x, out, bits)
    np.testing.assert_allclose(out, np.log(x.astype(np.float64)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("k", "m"), list(itertools.product((1, 5), (1, 8))))
def test_hidden_negatives_are_those_a_plain_loop_finds(k, m):
    """A hash chain that ends early misses a false negative now and then."""
    generator = torch.Generator().manual_seed(k * 10 + m)
    triples = made_triples(300, generator) % torch.tensor([8, 2, 8]) + torch.tensor([1, 0, 1])
    known = KnownQueries(triples, num_entities=NUM_ENTITIES, num_relations=2)
    true = {tuple(t) for t in triples.tolist()}
    batch, drawn = triples[:k], torch.randint(1, 9, (m,), generator=generator)
    asked = (batch[:, 0] * 2 + batch[:, 1]).numpy()
    far, heads, following = np.zeros((k, m), np.float32), np.empty(32, np.int32), np.empty(k, np.int32)
    fused._hide_true(far, asked, drawn.numpy(), 0, known.questions.numpy(), known.starts.numpy(), heads, following)
    expected = [[(h, r, n) in true for n in drawn.tolist()] for h, r, _ in batch.tolist()]
    assert (far > 0).tolist() == expected


def _trained_in_a_process(cache: Path, *, first: str) -> bytes:
    """The entity table after some steps in a process of its own, whose kernels lie in `cache`.

    first: a line of Python that has `fused`, before the engine is made.
    """
    program = """
import sys, torch
from kg import fused
from kg.engines import FusedEngine, StepSettings
from kg.transe import TransE
exec(sys.argv[1])
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(3)
model = TransE.initialised(num_entities=50, num_relations=4, dim=20, scale=0.3, generator=draw)
engine = FusedEngine(model, StepSettings("cross_entropy", 2.0, 1.0, None), learning_rate=0.1)
rows = torch.randint(1, 51, (30, 16, 3), generator=draw)
rows[..., 1] %= 4
engine.steps(rows, torch.randint(1, 51, (30, 4, 24), generator=draw), None)
sys.stdout.buffer.write(model.entities.numpy().tobytes())
"""
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, first]
    found = subprocess.run(command, env=variables, capture_output=True, check=True, timeout=300)
    return found.stdout


@pytest.mark.slow
def test_the_process_that_compiles_rounds_as_those_that_read_the_cache(tmp_path: Path) -> None:
    """Those that read it do so for tables of every kind: what was compiled ahead has the types of a training."""
    compiling = _trained_in_a_process(tmp_path, first="fused.compile_ahead = fused.compile_here")
    assert len(list(tmp_path.rglob("*run_steps*.nbc"))) == 1
    assert len(compiling) == 51 * 20 * 4
    assert _trained_in_a_process(tmp_path, first="del fused.compile_here, fused.subprocess") == compiling
    assert len(list(tmp_path.rglob("*run_steps*.nbc"))) == 1


def test_what_is_not_compiled_yet_is_compiled_by_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Compiling takes more memory than training, and keeps it; nothing but the peak of a first run would show it."""
    begun = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: begun.append(command))
    monkeypatch.setattr(fused.run_steps._cache, "_cache_path", str(tmp_path))
    assert fused.run_steps.stats.cache_path == str(tmp_path)
    fused.compile_ahead()
    assert [command[:2] for command in begun] == [[sys.executable, "-c"]]
    assert begun[0][2].endswith("from kg.fused import compile_here; compile_here()")
    (tmp_path / "fused.run_steps-1.py311.nbi").touch()
    fused.compile_ahead()
    assert len(begun) == 1
