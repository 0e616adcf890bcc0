"""Settings of a training run."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch

from edgewise._errors import InputError
from edgewise.runs import AtLeast0, Bound, Count, NotNegative, Positive, check_settings, fastest_precision
from edgewise.transcoders import Activation, Site, TranscoderLoss, TranscoderSpec

KINDS = ("transcoder", "autoencoder", "cross-layer")
READS = ("resid_mid", "mlp_normalized", "mlp_in", "hook_normalized")
_Features = Bound(lambda n: 0 < n < math.inf, "a number above 0: at least one feature")


@dataclass(frozen=True)
class TrainingConfig:
    """What to train, and how. Every combination of kind, layer and activation is trained on the same batches."""

    layers: tuple[int, ...]
    activations: tuple[str, ...] = ("topk:32",)
    """Kinds with their k, or after an `@` their sparsity coefficient: `topk:32`, `batch_topk:32`, `relu@1e-4`,
    `jumprelu@1e-3`."""
    kinds: tuple[str, ...] = ("transcoder",)
    """`transcoder` (MLP input to MLP output), `autoencoder` (of the MLP's output), `cross-layer` (one set over all the
    layers)."""
    features: Annotated[int, _Features] | None = None
    """Features of each; `expansion` times the model's width if None."""
    expansion: Annotated[float, _Features] = 8.0
    reads: str = "mlp_in"
    """The MLP input's site: `resid_mid`, `mlp_normalized` or `mlp_in`; `hook_normalized` for circuit-tracer's
    `ln2.hook_normalized`."""
    centred: bool = False
    """Write (and read, an autoencoder) the MLP's output without its mean over the components."""
    skip: bool = False
    """Add a linear map of the input. It starts as the one nearest to the MLP (ridge regression), so that features are
    needed only for what is not linear."""
    skip_rate: AtLeast0 = 0.1
    """The skip connection's learning rate, in the others': it starts near its end."""
    start: Literal["random", "tokens"] = "random"
    """Of the features: `random` directions that write nothing yet (an autoencoder's write themselves); `tokens`: each
    detects one token of the text, and writes what is left to explain there. `relu`, `jumprelu` and cross-layer sets
    always start at random."""
    input_bias: bool = False
    tokens: Count = 1_000_000
    """To train on; rounded down to whole batches. Passes over the text are repeated as needed, in new orders."""
    batch_tokens: Count = 2048
    learning_rate: Positive | None = None
    """Of Adam; `1e-3 / √(F / 2¹⁴)` if None: the slope in F is Gao et al.'s, the height is for short runs (on one layer
    of SmolLM2-135M, 0.4 million tokens, F = 4,608, twice that was better still and half of it worse)."""
    schedule: Literal["constant", "linear", "triangle"] = "linear"
    """After the warm-up: `constant`; `linear`: over the last fifth falling to 0 in a line; `triangle`: falling in a
    line from the start."""
    warmup: NotNegative | None = None
    """Steps over which the learning rate rises from 0; a twentieth of all, and at most 1,000, if None."""
    sparsity_warmup: NotNegative = 0
    """Steps over which the sparsity coefficient rises from 0."""
    clip: Positive | None = 1.0
    """Largest norm of a job's gradient; None for no bound."""
    unit_norm: bool = False
    """Keep decoder rows at norm 1 and take the part along them off their gradient."""
    objective: TranscoderLoss | Any = field(default_factory=TranscoderLoss)  # Any: it checks its own settings
    """The loss, a `TranscoderLoss`; its `sparsity` is what an activation without `@` gets."""
    dead_after: NotNegative = 200_000
    """Tokens without activity after which a feature counts as dead."""
    threshold: AtLeast0 = 0.5
    """Start value of `jumprelu` thresholds, in standard deviations of a start pre-activation."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 where the processor has instructions for it, float32 elsewhere; the run records which.
    `bfloat16`: the encoder's product proposes active features, and the language model multiplies with its weights,
    in bfloat16; all else, and all that is kept, is float32. `float32`: everything is."""
    exclude_special: bool = True
    """Leave out each row's first token and special tokens."""
    pool_tokens: Count = 65_536
    """Tokens whose activations are shuffled together."""
    lanes: Count = 8
    """Parts of a pool; the number of processes must divide it."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a model. Raises `InputError`."""
        for name in ("layers", "activations", "kinds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise InputError(f"{name}: name at least one")
        if isinstance(self.objective, dict):
            object.__setattr__(self, "objective", TranscoderLoss(**self.objective))
        check_settings("training", self)
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"kind {kind!r}: choose {', '.join(KINDS)}")
        if self.skip and set(self.kinds) == {"autoencoder"}:
            raise InputError("skip: an autoencoder has no skip connection, it would copy its input; train a transcoder")
        if list(self.layers) != sorted(set(self.layers)):
            raise InputError(f"layers {', '.join(map(str, self.layers))}: name each once, in order")
        if not self.steps:
            raise InputError(f"tokens {self.tokens}, batch {self.batch_tokens}: give tokens for at least one batch")
        if self.start == "tokens" and self.unit_norm:
            raise InputError(f"start {self.start!r}: choose random or, without unit_norm, tokens")
        if self.reads not in READS:
            raise InputError(f"reads {self.reads!r}: a transcoder must read an MLP's input: {', '.join(READS)}")
        if not isinstance(self.objective, TranscoderLoss):
            raise InputError(f"objective {self.objective!r:.60}: set its own fields, such as objective.sparsity")
        for text in self.activations:
            self.parse(text)
        if len(set(self.names)) < len(self.names):
            raise InputError(f"activations {', '.join(self.activations)}: name each once")

    @staticmethod
    def paper(layers: tuple[int, ...], **changes: Any) -> "TrainingConfig":
        """The recipe of Dunefsky, Chlenski & Nanda 2024, with the loss as their code has it.

        ReLU with an L1 penalty of 1.4e-4 and the squared error divided by D·‖y‖ (the norm, not its square: penalties
        are in these units); decoder rows of norm 1; 32 features per dimension; the norm's output before gain and bias
        to the centred MLP output (give `centred=False` for a model whose norms are RMS norms: there the mean counts);
        an input bias; Adam at 4e-4 (their script; the paper's text says 2e-5) after 5,000
        steps of warm-up, no clipping; batches of 4,096 of 60 million tokens, BOS included; float32. No dead feature is
        revived: the published comparison has none, and the script's ghost gradients take the residual of the input.
        """
        recipe: dict[str, Any] = {
            "activations": ("relu@1.4e-4",),
            "expansion": 32.0,
            "reads": "mlp_normalized",
            "centred": True,
            "input_bias": True,
            "tokens": 60_000_000,
            "batch_tokens": 4096,
            "learning_rate": 4e-4,
            "schedule": "constant",
            "warmup": 5000,
            "clip": None,
            "unit_norm": True,
            "objective": TranscoderLoss("target_norm", auxiliary=0.0),
            "precision": "float32",
            "exclude_special": False,
            "pool_tokens": 524_288,
        }
        return TrainingConfig(layers, **(recipe | changes))

    def on(self, device: torch.device) -> "TrainingConfig":
        """The same with the precision that `auto` is on a device."""
        return replace(self, precision=fastest_precision(device)) if self.precision == "auto" else self

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.tokens // self.batch_tokens

    def parse(self, text: str) -> tuple[Activation, float]:
        """An activation and its sparsity coefficient. Raises `InputError`."""
        kind, at, coefficient = text.partition("@")
        activation = Activation.parse(kind)
        try:
            penalty = float(coefficient) if at else self.objective.sparsity
        except ValueError as error:
            raise InputError(f"activation {text!r}: after the @ comes a number, such as relu@1e-4") from error
        if activation.counted and at:
            raise InputError(f"activation {text!r}: {activation.kind} has its k and no sparsity coefficient")
        if not activation.counted and not penalty > 0:
            raise InputError(f"activation {text!r}: give its sparsity coefficient, such as {activation.kind}@1e-3")
        return activation, penalty

    def jobs(self, d_model: int) -> tuple["TrainingJob", ...]:
        """What is trained, one after the other in each step. Raises `InputError`."""
        return tuple(self._job(kind, layers, text, d_model) for kind, layers, text in self._combinations())

    @property
    def names(self) -> list[str]:
        """The jobs' names."""
        return [_name(*each) for each in self._combinations()]

    def rate(self, step: int, n_features: int) -> float:
        """The learning rate at a step."""
        peak = self.learning_rate or 1e-3 / (n_features / 2**14) ** 0.5
        warmup = min(1000, self.steps // 20) if self.warmup is None else self.warmup
        rise = min(1.0, (step + 1) / max(1, warmup))
        left = max(0, self.steps - step)
        over = {"constant": 0, "linear": max(1, self.steps // 5), "triangle": self.steps}[self.schedule]
        return peak * rise * (min(1.0, left / over) if over else 1.0)

    def _combinations(self) -> list[tuple[str, tuple[int, ...], str]]:
        sets = {kind: [self.layers] if kind == "cross-layer" else [(layer,) for layer in self.layers] for kind in KINDS}
        return [(kind, layers, text) for kind in self.kinds for layers in sets[kind] for text in self.activations]

    def _job(self, kind: str, layers: tuple[int, ...], text: str, d_model: int) -> "TrainingJob":
        activation, penalty = self.parse(text)
        n_features = round(self.expansion * d_model) if self.features is None else self.features

        def spec(first: int) -> TranscoderSpec:
            writes = tuple(Site("mlp_out", layer, self.centred) for layer in layers[first:])
            reads = writes[0] if kind == "autoencoder" else Site(self.reads, layers[first])
            skip = self.skip and kind != "autoencoder"
            input_bias = self.input_bias or kind == "autoencoder"
            sizes = d_model, d_model, n_features
            return TranscoderSpec(*sizes, activation, reads, writes, skip, input_bias, self.exclude_special)

        specs = tuple(spec(first) for first in range(len(layers) if kind == "cross-layer" else 1))
        return TrainingJob(_name(kind, layers, text), specs, replace(self.objective, sparsity=penalty))


@dataclass(frozen=True)
class TrainingJob:
    """One transcoder, or a cross-layer set of them, and its loss."""

    name: str
    specs: tuple[TranscoderSpec, ...]
    objective: TranscoderLoss


def _name(kind: str, layers: tuple[int, ...], text: str) -> str:
    where = f"layer{layers[0]}" if kind != "cross-layer" else f"layers{layers[0]}-{layers[-1]}"
    return f"{where}.{kind}.{text.replace(':', '')}"
