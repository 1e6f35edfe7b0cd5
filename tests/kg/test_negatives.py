"""What is drawn as a negative, and how much each side counts."""

import torch

from kg.negatives import SAMPLERS, bernoulli_weights

TRIPLES = torch.tensor([[1, 0, 5], [1, 0, 6], [2, 0, 5], [3, 1, 7], [4, 1, 7], [3, 1, 8]])
NUM_ENTITIES = 9


def drawn(name, batches, num_chunks=2, num_negatives=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SAMPLERS[name](TRIPLES, num_entities=NUM_ENTITIES)(batches, num_chunks, num_negatives, generator)


def test_every_sampler_draws_entity_rows_for_each_chunk_and_side():
    """Row 0 as a negative would train the padding row; rows past the table would crash far from the cause."""
    batches = TRIPLES[torch.tensor([[0, 1, 3, 4], [2, 0, 5, 3]])]
    for name in SAMPLERS:
        found = drawn(name, batches)
        assert found.shape == (2, 4, 400), name
        assert found.dtype == torch.int64
        assert found.min() >= 1
        assert found.max() <= NUM_ENTITIES
        assert torch.equal(found, drawn(name, batches)), name
        assert not torch.equal(found, drawn(name, batches, seed=1)), name


def test_uniform_reaches_every_entity():
    assert set(drawn("uniform", TRIPLES[None, :4]).view(-1).tolist()) == set(range(1, NUM_ENTITIES + 1))


def test_typed_negatives_fit_the_relations_of_their_chunk_and_side():
    """Heads drawn for tails are easy negatives: the figures get worse, nothing fails."""
    batches = TRIPLES[torch.tensor([[0, 1, 3, 4]])]  # chunk 0: relation 0; chunk 1: relation 1
    tails_0, tails_1, heads_0, heads_1 = (set(line.tolist()) for line in drawn("typed", batches)[0])
    assert (tails_0, tails_1, heads_0, heads_1) == ({5, 6}, {7, 8}, {1, 2}, {3, 4})
    mixed = drawn("typed", TRIPLES[torch.tensor([[0, 3]])], num_chunks=1)[0]
    assert set(mixed[0].tolist()) == {5, 6, 7, 8}


def test_degree_weighted_negatives_follow_the_power_of_the_degree():
    found = drawn("degree", TRIPLES[None, :4], num_negatives=20_000).view(-1)
    degrees = torch.bincount(TRIPLES[:, [0, 2]].reshape(-1), minlength=NUM_ENTITIES + 1)[1:]
    expected = degrees.double().pow(0.75) / degrees.double().pow(0.75).sum()
    shares = torch.bincount(found, minlength=NUM_ENTITIES + 1)[1:] / len(found)
    torch.testing.assert_close(shares.double(), expected, atol=0.01, rtol=0)
    assert shares[NUM_ENTITIES - 1] == 0, "an entity without triples was drawn"


def test_bernoulli_weighs_the_side_with_fewer_true_answers():
    """Swapped sides double the false negatives they were meant to avoid."""
    # relation 0: 3 triples, heads {1, 2}, tails {5, 6}: 1.5 tails a head, 1.5 heads a tail
    # relation 1: 3 triples, heads {3, 4}, tails {7, 8}: the same; with one more tail for head 3 it is not
    more = torch.cat([TRIPLES, torch.tensor([[3, 1, 9]])])
    weights = bernoulli_weights(more)
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 1.0]))
    tails_per_head, heads_per_tail = 4 / 2, 4 / 3
    expected = 2 * heads_per_tail / (tails_per_head + heads_per_tail)
    torch.testing.assert_close(weights[-1], torch.tensor([expected, 2 - expected]))
