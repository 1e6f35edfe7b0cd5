"""Settings of generators, matching models, decoding and learning. Loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kg.errors import InputError

RankForm = Literal["paper", "centred"]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Kind and size of a fresh generator."""

    kind: Literal["pointer-generator", "transformer"] = "pointer-generator"
    """pointer-generator: the paper's LSTMs. transformer: a pretrained encoder's layers and a small decoder."""
    embedding_size: int = 128
    """pointer-generator: width of its word vectors."""
    hidden_size: int = 256
    """pointer-generator: width of its LSTMs."""
    num_encoder_layers: int = 2
    """transformer: first layers of the encoder that are taken; 0 is all."""
    num_decoder_layers: int = 2
    """transformer: layers of its own, which begin as the encoder's last ones."""
    dropout: float = 0.1
    """While learning from targets; rewards are learnt from without."""

    def __post_init__(self) -> None:
        if min(self.embedding_size, self.hidden_size, self.num_decoder_layers) < 1 or self.num_encoder_layers < 0:
            raise InputError("shape: widths and num_decoder_layers must be at least 1, num_encoder_layers 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"shape.dropout lies in 0 … 1, but is {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class MatcherShape:
    """Kind and size of a matching model."""

    kind: Literal["decomposable-attention", "cross-encoder"] = "decomposable-attention"
    """decomposable-attention: the paper's, quick. cross-encoder: a BERT or ERNIE that reads both sentences at once."""
    hidden_size: int = 200
    """decomposable-attention: width of its layers."""
    num_layers: int = 0
    """cross-encoder: first layers of the encoder that are taken; 0 is all."""
    dropout: float = 0.1
    """On the inputs of each layer, or on the pooled states."""

    def __post_init__(self) -> None:
        if self.hidden_size < 1 or self.num_layers < 0 or not 0 <= self.dropout < 1:
            raise InputError("shape: hidden_size must be at least 1, num_layers 0, dropout in 0 … 1")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How sentences are made of probabilities."""

    strategy: Literal["greedy", "beam", "nucleus"] = "greedy"
    """greedy: the likeliest piece at each place. beam: the likeliest of `num_beams` sentences. nucleus: drawn."""
    num_beams: int = 4
    """Sentences kept while searching."""
    length_penalty: float = 1.0
    """Beams are compared by log-probability / length ** this."""
    top_p: float = 0.9
    """nucleus: drawn from the likeliest pieces that hold so much probability together (Holtzman et al. 2020)."""
    temperature: float = 1.0
    """nucleus: log-probabilities are divided by this first."""
    num_return: int = 1
    """Sentences a source; beam: at most `num_beams`."""
    max_length: int = 24
    """Word pieces of an output, at most."""
    min_length: int = 1
    """Word pieces of an output, at least."""
    no_repeat_ngram: int = 3
    """No run of so many pieces comes twice; 0: may repeat."""

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_return", "max_length"):
            if getattr(self, name) < 1:
                raise InputError(f"decoding.{name} must be at least 1, but is {getattr(self, name)}")
        if not (0 < self.top_p <= 1 and self.temperature > 0):
            raise InputError(
                f"decoding.top_p lies in 0 … 1 and temperature above 0, but are {self.top_p} and {self.temperature}"
            )
        if not 0 <= self.min_length <= self.max_length:
            raise InputError(f"decoding.min_length lies in 0 … max_length, but is {self.min_length}")
        if self.strategy == "beam" and self.num_return > self.num_beams:
            raise InputError(f"beam search returns at most num_beams={self.num_beams}, asked for {self.num_return}")
        if self.strategy == "greedy" and self.num_return > 1:
            raise InputError("greedy decoding has one answer; use beam or nucleus for several")


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """What stands before a place while learning from targets (methods scheduled-sampling and dagger)."""

    rate: float = 0.3
    """Highest share of places whose preceding piece is the model's own; scheduled sampling rises to it linearly."""
    draw: Literal["greedy", "sampled"] = "sampled"
    """How the model's own pieces are chosen."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InputError(f"imitation.rate lies in 0 … 1, but is {self.rate}")


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """How samples are rewarded and what is learnt from it; letters are those of Li et al. 2018."""

    num_samples: int = 4
    """D, samples a source; at least 2, or there is nothing to compare with."""
    temperature: float = 1.0
    """Of the samples."""
    max_length: int = 24
    """Word pieces of a sample, EOS counted."""
    advantage: Literal["rank", "group", "leave_one_out", "none"] = "group"
    """rank: the paper's. group: reward less the group's mean, over its deviation. leave_one_out: less the others'
    mean. none: the reward itself."""
    rank_form: RankForm = "centred"
    """paper: rank / D, whose mean is not zero. centred: (rank - 0.5) / D."""
    delta1: float = 12.0
    """Sharpness of the rank among the samples of a source."""
    delta2: float = 1.0
    """Sharpness of the rank among the places of a sample (with roll-outs)."""
    rollouts: int = 0
    """N, completions of each prefix; 0: a sample's reward counts for all its places alike."""
    rollout_stride: int = 4
    """Only every so many-th prefix is completed; the paper's is 1."""
    kl_weight: float = 0.02
    """Factor of the distance to the generator that training began with."""
    copy_penalty: float = 0.3
    """Reward lost by a sample all of whose 1- to 4-grams stand in its source."""
    mle_weight: float = 0.0
    """Factor of the targets' negative log-likelihood beside the reward."""

    def __post_init__(self) -> None:
        if self.num_samples < 2 and self.advantage != "none":
            raise InputError(f"reinforce.num_samples must be at least 2 to compare samples, but is {self.num_samples}")
        if self.rollouts < 0 or self.rollout_stride < 1 or self.max_length < 2 or self.num_samples < 1:
            raise InputError(
                "reinforce: rollouts must be at least 0, rollout_stride and num_samples 1, max_length 2, but are "
                f"{self.rollouts}, {self.rollout_stride}, {self.num_samples} and {self.max_length}"
            )
        if not self.temperature > 0:
            raise InputError(f"reinforce.temperature must be above 0, but is {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class InverseConfig:
    """The alternation of RbM-IRL, and its curriculum."""

    generator_steps: int = 1
    """Steps of the generator in a round."""
    matcher_steps: int = 1
    """Steps of the matching model in a round, before them."""
    warmup_steps: int = 0
    """Steps at the beginning in which the matching model alone learns."""
    matcher_learning_rate: float = 1e-3
    """Peak rate of the matching model."""
    curriculum: bool = True
    """Pairs whose target is near their source come first (their distance taken as a rank)."""
    delta3_start: float = 15.0
    """Sharpness of the curriculum at the beginning."""
    delta3_end: float = 8.0
    """Sharpness at the end."""

    def __post_init__(self) -> None:
        if min(self.generator_steps, self.matcher_steps) < 1 or self.warmup_steps < 0:
            raise InputError("inverse: generator_steps and matcher_steps must be at least 1, warmup_steps 0")
