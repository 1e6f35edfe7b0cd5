"""TransE's closed-form gradients against autograd, its filter and its optimiser against plain loops."""

import itertools

import pytest
import torch

from kg.engines import ENGINES, RowAdagrad
from kg.losses import LOSSES
from kg.negatives import KnownQueries
from kg.trainer import Diverged, Trainer
from kg.transe import NORMS, TransE

NUM_ENTITIES, NUM_RELATIONS, DIM = 12, 3, 5


def made_model(norm="l2", reciprocal=False, dtype=torch.float64):
    return TransE.initialised(
        num_entities=NUM_ENTITIES,
        num_relations=NUM_RELATIONS,
        dim=DIM,
        scale=1.0,
        generator=torch.Generator().manual_seed(3),
        norm=norm,
        reciprocal=reciprocal,
        dtype=dtype,
    )


def made_triples(count, seed=5):
    generator = torch.Generator().manual_seed(seed)
    columns = [(1, NUM_ENTITIES + 1), (0, NUM_RELATIONS), (1, NUM_ENTITIES + 1)]
    return torch.stack([torch.randint(*bounds, (count,), generator=generator) for bounds in columns], 1)


def oracle_score(model, head, relation, tail, side):
    entities, relations = model.entities, model.relations
    if side == 1 and model.reciprocal:
        difference = entities[tail] + relations[relation + NUM_RELATIONS] - entities[head]
    else:
        difference = entities[head] + relations[relation] - entities[tail]
    return -(difference.abs().sum() if model.norm is NORMS["l1"] else difference.square().sum().sqrt())


def oracle_query_loss(name, positive, negatives, margin, temperature):
    logsigmoid = torch.nn.functional.logsigmoid
    if name == "cross_entropy":
        return -torch.log_softmax(torch.cat([positive.view(1), negatives]), 0)[0]
    if name == "margin":
        return torch.relu(margin - positive + negatives).sum()
    weights = torch.softmax(temperature * negatives.detach(), 0)
    return -logsigmoid(margin + positive) - (weights * logsigmoid(-margin - negatives)).sum()


def oracle_loss(model, triples, negatives, name, *, known, margin, temperature):
    """One query after the other, one score at a time."""
    blocks, num_negatives = negatives.shape
    chunk = 2 * len(triples) // blocks
    total = torch.zeros((), dtype=torch.float64)
    for side, (i, (h, r, t)) in itertools.product((0, 1), enumerate(triples.tolist())):
        drawn = negatives[side * blocks // 2 + i // chunk].tolist()
        made = [(h, r, n) if side == 0 else (n, r, t) for n in drawn]
        scores = [oracle_score(model, *triple, side) for triple in made if triple not in known]
        positive = oracle_score(model, h, r, t, side)
        loss = oracle_query_loss(name, positive, torch.stack(scores) if scores else torch.zeros(0), margin, temperature)
        total = total + (loss / num_negatives if name == "margin" else loss)
    return total


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_equal_autograd_of_the_equations(name, norm, reciprocal, filtered):
    """A wrong factor in one side's gradient still lowers the loss, only to a worse table."""
    model, triples = made_model(norm, reciprocal), made_triples(6)
    negatives = torch.randint(1, NUM_ENTITIES + 1, (4, 7), generator=torch.Generator().manual_seed(8))
    settings = {"margin": 2.5, "temperature": 0.7}
    known = KnownQueries(triples, num_entities=NUM_ENTITIES, num_relations=NUM_RELATIONS) if filtered else None
    found = model.gradient(triples, negatives, loss=LOSSES[name], known=known, **settings)
    model.entities.requires_grad_()
    model.relations.requires_grad_()
    true = {tuple(triple) for triple in triples.tolist()} if filtered else set()
    loss = oracle_loss(model, triples, negatives, name, known=true, **settings)
    loss.backward()
    entities = torch.zeros_like(model.entities).index_add_(0, found.entity_rows, found.entity_gradients)
    relations = torch.zeros_like(model.relations).index_add_(0, found.relation_rows, found.relation_gradients)
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(entities, model.entities.grad)
    torch.testing.assert_close(relations, model.relations.grad)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_query_without_any_negative_left_adds_no_nan(name):
    """On a tiny graph every entity may answer a question; a softmax over nothing is NaN."""
    every = [(1, 0, n) for n in range(1, NUM_ENTITIES + 1)] + [(n, 0, 1) for n in range(1, NUM_ENTITIES + 1)]
    triples = torch.tensor(every)
    known = KnownQueries(triples, num_entities=NUM_ENTITIES, num_relations=1)
    negatives = torch.arange(1, NUM_ENTITIES + 1).repeat(2, 1)
    found = made_model().gradient(triples[:1], negatives, loss=LOSSES[name], margin=1.0, temperature=1.0, known=known)
    assert torch.isfinite(found.loss)
    assert torch.isfinite(found.entity_gradients).all()
    assert not found.entity_gradients[2:].any()


def test_true_negatives_are_those_a_plain_loop_finds():
    """A filter that misses some false negatives, or hits a neighbour's column, only costs quality."""
    triples, batch = made_triples(60), made_triples(60)[[0, 1, 2, 0, 7, 8, 9, 10]]
    negatives = torch.randint(1, NUM_ENTITIES + 1, (4, 9), generator=torch.Generator().manual_seed(1))
    known = KnownQueries(triples, num_entities=NUM_ENTITIES, num_relations=NUM_RELATIONS)
    found = set(zip(*(axis.tolist() for axis in known.true_negatives(batch, negatives)), strict=True))
    true = {tuple(triple) for triple in triples.tolist()}
    expected = set()
    for side, i, j in itertools.product((0, 1), range(8), range(9)):
        block, (h, r, t) = side * 2 + i // 4, batch[i].tolist()
        n = int(negatives[block, j])
        if ((h, r, n) if side == 0 else (n, r, t)) in true:
            expected.add((block, i % 4, j))
    assert expected
    assert found == expected


def test_adagrad_sums_repeated_rows_and_leaves_the_others_alone():
    """With repeats applied one by one, or the last one winning, hubs learn at another rate than leaves."""
    table = torch.arange(12, dtype=torch.float64).view(4, 3)
    before, gradients = table.clone(), torch.tensor([[1.0, 2, 3], [4, 5, 6], [1, 1, 1]], dtype=torch.float64)
    optimiser = RowAdagrad(table, learning_rate=0.5)
    state = torch.zeros(4, dtype=torch.float64)
    expected = before.clone()
    for _ in range(2):
        optimiser.step(torch.tensor([2, 2, 1]), gradients)
        for row, summed in ((2, gradients[0] + gradients[1]), (1, gradients[2])):
            state[row] += summed.square().mean()
            expected[row] -= 0.5 * summed / state[row].sqrt()
    torch.testing.assert_close(table, expected)
    torch.testing.assert_close(optimiser.accumulated, state)


def made_trainer(seed=0, learning_rate=0.1, count=50, **settings):
    model = made_model(dtype=torch.float32)
    defaults = {"loss": "cross_entropy", "margin": 2.0, "temperature": 1.0, "num_negatives": 4}
    return Trainer(
        model,
        made_triples(count),
        learning_rate=learning_rate,
        batch_size=16,
        chunk_size=8,
        generator=torch.Generator().manual_seed(seed),
        **(defaults | settings),
    )


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("loss", list(LOSSES))
def test_training_lowers_the_loss_and_leaves_padding_zero(loss, engine):
    """A sign error in the optimiser, or a gradient on row 0, both leave a table that looks like one."""
    trainer = made_trainer(loss=loss, engine=engine)
    losses = [trainer.epoch() for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert not trainer.model.entities[0].any()


def test_a_seed_decides_every_number():
    """Runs that differ in the last digit cannot be compared or resumed."""
    first, same, other = (made_trainer(seed) for seed in (1, 1, 2))
    assert [first.epoch() for _ in range(3)] == [same.epoch() for _ in range(3)]
    other.epoch()
    assert torch.equal(first.model.entities, same.model.entities)
    assert not torch.equal(first.model.entities, other.model.entities)


@pytest.mark.parametrize("count", [1, 7, 16, 17])
def test_a_batch_larger_than_the_graph_and_a_short_last_batch_work(count):
    """Other engines hang or crash here; every triple must be seen at least once an epoch."""
    trainer, seen = made_trainer(count=count), []
    original = trainer.engine.steps

    def steps(batches, negatives, weights):
        seen.extend(batches)
        return original(batches, negatives, weights)

    trainer.engine.steps = steps
    trainer.epoch()
    assert {tuple(t) for b in seen for t in b.tolist()} == {tuple(t) for t in trainer.triples.tolist()}
    assert {len(batch) for batch in seen} == {trainer.batch_size}


@pytest.mark.parametrize("engine", list(ENGINES))
def test_training_goes_on_exactly_from_its_state(engine):
    """A resumed training that forgets the accumulators or the generator still learns, to other numbers."""
    whole, first = made_trainer(engine=engine), made_trainer(engine=engine)
    losses = [whole.epoch() for _ in range(4)]
    begun = [first.epoch() for _ in range(2)]
    state = {name: value.clone() for name, value in first.state_dict().items()}
    resumed = made_trainer(seed=9, engine=engine)
    resumed.model.entities.copy_(first.model.entities)
    resumed.model.relations.copy_(first.model.relations)
    resumed.load_state_dict(state)
    assert begun + [resumed.epoch() for _ in range(2)] == losses
    assert torch.equal(resumed.model.entities, whole.model.entities)


def test_the_learning_rate_can_be_changed_between_epochs():
    """A schedule whose rate never reaches the optimiser goes unseen."""
    for engine in ENGINES:
        trainer = made_trainer(engine=engine)
        trainer.set_learning_rate(0.0)
        before = trainer.model.entities.clone()
        trainer.epoch()
        assert torch.equal(trainer.model.entities, before)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_loss_that_is_no_number_stops_training(engine):
    """Training goes on happily over NaN and writes it all over the table."""
    trainer = made_trainer(engine=engine)
    trainer.model.entities[3] = torch.nan
    with pytest.raises(Diverged, match="lower the learning rate"):
        trainer.epoch()


@pytest.mark.parametrize(("norm", "reciprocal"), list(itertools.product(NORMS, (False, True))))
def test_score_all_holds_the_score_of_each_entity(norm, reciprocal):
    """The evaluator asks `score_all`, training never does: they must mean the same distance."""
    model, triples = made_model(norm, reciprocal), made_triples(4)
    for side in (0, 1):
        scores = model.score_all(triples, side)
        for i, (h, r, t) in enumerate(triples.tolist()):
            for entity in range(1, NUM_ENTITIES + 1):
                asked = (h, r, entity) if side == 0 else (entity, r, t)
                expected = oracle_score(model, *asked, side)
                torch.testing.assert_close(scores[i, entity], expected, atol=1.1e-3, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_stays_on_the_device_of_the_tables(norm):
    """No machine of the tests has a graphics card: a tensor made on the default device would fail on the first that
    has. Here that default is `meta`, on which nothing can be computed with the CPU's."""
    generator = torch.Generator().manual_seed(0)
    triples = torch.tensor([[1, 0, 2], [2, 1, 3], [3, 0, 4], [1, 1, 4]])
    model = TransE.initialised(
        num_entities=5, num_relations=2, dim=4, scale=1.0, generator=generator, norm=norm, reciprocal=True
    )
    settings = {"margin": 1.0, "temperature": 1.0, "learning_rate": 0.1, "num_negatives": 3}
    sizes = {"batch_size": 4, "chunk_size": 2, "generator": generator, "negatives": "bernoulli"}
    trainer = Trainer(model, triples, loss="self_adversarial", **settings, **sizes)
    negatives, weights = torch.randint(1, 6, (1, 4, 3), generator=generator), torch.ones(1, 4, 2)
    before = model.entities.clone()
    with torch.device("meta"):
        loss = trainer.engine.steps(triples.unsqueeze(0), negatives, weights)
        scores = model.score_all(triples, 1)
    assert loss > 0
    assert scores.device == torch.device("cpu")
    assert not torch.equal(before, model.entities)
    assert model.to("cpu") is model
