"""A transcoder's loss and its gradient, written by hand: everything after the encoder costs what the active features
cost.

With residual `r = ŷ − y` and a weight `w_t` for each token (which is all that the normalisations differ in), the loss
is `Σ_t w_t ‖r_t‖²`, so `g = ∂loss/∂ŷ = 2 w r`, and with z sparse

    ∂W_dec = zᵀ g        ∂z = (g W_decᵀ at the entries)        ∂W_enc = ∂preᵀ x        ∂b_in = −(Σ_t ∂pre_t) W_enc
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from edgewise._errors import InputError
from edgewise.runs import ONE_PROCESS, AtLeast0, Count, Positive, Ranks, check_settings
from edgewise.transcoders._select import fixed, select
from edgewise.transcoders._sparse import Products
from edgewise.transcoders._transcoder import Transcoder

NORMALIZATIONS = ("none", "target_norm", "target_sq_norm", "batch_variance")
"""What a reconstruction error may be divided by."""


@dataclass(frozen=True)
class TranscoderLoss:
    """What training lowers."""

    normalization: str = "batch_variance"
    """What a token's squared error is divided by: `none` (the sum over components, as papers write it); `target_norm`
    (D·‖y‖, as the authors' code has it: the norm, not its square); `target_sq_norm` (‖y‖²); `batch_variance` (the
    batch's variance: the loss is then the fraction of variance unexplained)."""
    sparsity: AtLeast0 = 0.0
    """Coefficient of the sparsity penalty per token: of Σ|z| for `relu`, of the number of active features for
    `jumprelu`."""
    decoder_weighted: bool = False
    """Whether |z| is weighted by the norm of the feature's decoder row, so that scale cannot be moved between them."""
    auxiliary: AtLeast0 = 1 / 32
    """Coefficient of the dead features' term (Gao et al. 2024): the error of the residual's reconstruction from the
    dead features that would be most active; 0 for none."""
    auxiliary_k: Count | None = None
    """Dead features per token that take part; half the input's width if None."""
    bandwidth: Positive = 0.05
    """Of the step's stand-in derivative, for `jumprelu` thresholds (Rajamanoharan et al. 2024)."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("objective", self)
        if self.normalization not in NORMALIZATIONS:
            raise InputError(f"normalization {self.normalization!r}: choose {', '.join(NORMALIZATIONS)}")


class Outcome(NamedTuple):
    """What a step measured, over the batch of all processes."""

    loss: Float[Tensor, ""]
    """Everything that is lowered: error, sparsity and the dead features' term."""
    unexplained: Float[Tensor, " T"]
    """Squared error over variance, for each written site."""
    active: Float[Tensor, ""]
    """Active features per token, of all the transcoders together."""
    fired: tuple[Bool[Tensor, " F"], ...]
    """Which features were active, for each transcoder."""
    cuts: tuple[Float[Tensor, ""], ...]
    """The least pre-activation that was kept, for each transcoder (what `batch_topk` takes its threshold from)."""


def loss_and_gradients(
    transcoders: Sequence[Transcoder],
    inputs: Sequence[Float[Tensor, "N D"]],
    targets: Float[Tensor, "N T E"],
    objective: TranscoderLoss,
    *,
    dead: Sequence[Bool[Tensor, " F"]] | None = None,
    bf16: bool = False,
    ranks: Ranks = ONE_PROCESS,
) -> Outcome:
    """Set every parameter's `.grad` to the loss's gradient.

    Args:
        transcoders: one, or several whose outputs add up (a cross-layer set); site j of the targets is the jth of the
            first transcoder, and each other transcoder writes to the last of them.
        inputs: what each reads.
        targets: what should be written to each site.
        objective: the loss.
        dead: which features count as dead, for each transcoder; None for none.
        bf16: propose the active features with a product in bfloat16 (see `select`).
        ranks: the processes among which the batch is divided; gradients are of this process's part of the sum.
    """
    n = len(targets) * ranks.size
    margin = objective.bandwidth / 2
    runs = [
        _Run(each, each.centre(x.detach()).detach(), bf16, margin, ranks)
        for each, x in zip(transcoders, inputs, strict=True)
    ]
    predicted = torch.zeros_like(targets)
    for run, x in zip(runs, inputs, strict=True):
        predicted[:, -run.n_sites :] += run.output(x)
    residual = predicted - targets
    weight, variance = _weights(targets, objective.normalization, n, ranks)
    errors = residual.square().sum(-1)  # (N, T)
    gradient = residual * (2 * weight)[..., None]  # (N, T, E)
    loss = (weight * errors).sum()
    for i, (run, x) in enumerate(zip(runs, inputs, strict=True)):
        part = slice(-run.n_sites, None)
        loss = loss + run.backward(gradient[:, part], x, objective, n)
        if dead is not None and objective.auxiliary:
            loss = loss + run.revive(dead[i], residual[:, part], weight[:, part], objective, bf16)
        run.finish()
    active = sum((run.active for run in runs), torch.zeros_like(loss))
    totals = ranks.sum(torch.cat([torch.stack([loss, active]), errors.sum(0)]))
    return Outcome(
        totals[0],
        totals[2:] / variance,
        totals[1] / n,
        tuple(run.fired(ranks) for run in runs),
        tuple(run.cut(ranks) for run in runs),
    )


def written(transcoder: Transcoder, x: Float[Tensor, "N D"], *, bf16: bool = False) -> Float[Tensor, "N M E"]:
    """What a transcoder writes to each of its sites, differentiable in the input and in every parameter.

    It costs what the active features cost; `Transcoder.forward` is differentiable too, by a dense product.
    `bf16` as in `loss_and_gradients`; of a `jumprelu`, thresholds get the stand-in derivative at its default width.
    """
    return _Written.apply(transcoder, x, bf16, *transcoder.parameters())


class _Written(torch.autograd.Function):
    """`written`, whose parameters are handed in so that autograd knows of them."""

    @staticmethod
    def forward(ctx: Any, transcoder: Transcoder, x: Tensor, bf16: bool, *_parameters: Tensor) -> Tensor:
        ctx.x, ctx.objective = x, TranscoderLoss()
        margin = ctx.objective.bandwidth / 2
        with torch.autocast(x.device.type, enabled=False):  # the precision of products is said by `bf16` alone
            ctx.run = _Run(transcoder, transcoder.centre(x), bf16, margin, ONE_PROCESS, training=False)
            return ctx.run.output(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        run, transcoder = ctx.run, ctx.run.transcoder
        run.backward(gradient, ctx.x, ctx.objective, len(gradient))
        run.finish()
        to_input = run.entries.decode(run.d_pre, transcoder.W_enc)
        if transcoder.W_skip is not None:
            to_input = to_input + gradient[:, 0] @ transcoder.W_skip
        found = [parameter.grad for parameter in transcoder.parameters()]
        for parameter in transcoder.parameters():
            parameter.grad = None
        return None, to_input, None, *found


class _Run:
    """One transcoder in one step: forward, then gradients."""

    def __init__(
        self,
        transcoder: Transcoder,
        x: Float[Tensor, "N D"],
        bf16: bool,
        margin: float,
        ranks: Ranks,
        *,
        training: bool = True,
    ) -> None:
        self.transcoder, self.x = transcoder, x
        self.n_sites = len(transcoder.spec.writes)
        kind = transcoder.activation.kind
        window = margin if kind == "jumprelu" else 0.0
        self.entries: Products = select(transcoder.encoder, x, training=training, bf16=bf16, margin=window, ranks=ranks)
        self.pre = self.entries.codes.value
        self.threshold = transcoder.threshold.detach()[self.entries.codes.feature] if kind == "jumprelu" else None
        self.z = transcoder.activate(self.pre, self.threshold)
        self.d_pre = torch.zeros_like(self.pre)  # until `backward`
        self.on = self.z != 0

    @torch.no_grad()
    def output(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N M E"]:
        transcoder = self.transcoder
        y = self.entries.decode(self.z, transcoder.W_dec.detach()).view(len(x), self.n_sites, -1)
        y[:, 0] += transcoder.b_dec
        if transcoder.W_skip is not None:
            y[:, 0] += x @ transcoder.W_skip.T
        return y

    @torch.no_grad()
    def backward(self, gradient: Tensor, x: Tensor, objective: TranscoderLoss, n: int) -> Tensor:
        """Set the gradients of the error and the sparsity penalty; returns the penalty."""
        transcoder, index = self.transcoder, self.entries.codes.feature
        flat = gradient.reshape(len(gradient), -1)  # (N, M E)
        transcoder.W_dec.grad = self.entries.pull(self.z, flat)
        transcoder.b_dec.grad = gradient[:, 0].sum(0)
        if transcoder.W_skip is not None:
            transcoder.W_skip.grad = gradient[:, 0].T @ x
        d_z = self.entries.inner(flat, transcoder.W_dec.detach())
        penalty = d_z.new_zeros(())
        rate = objective.sparsity / n
        if rate and transcoder.activation.kind == "relu":
            penalty, extra = self._penalty(rate, objective.decoder_weighted)
            d_z = d_z + extra
        if self.threshold is not None:
            penalty = rate * self.active
            near = (self.pre - self.threshold).abs() < objective.bandwidth / 2
            d_threshold = near * (self.threshold * d_z + rate) / -objective.bandwidth
            transcoder.threshold.grad = self.entries.sums(d_threshold)
        keep = self.on if transcoder.activation.rectified else torch.ones_like(self.on)
        self.d_pre = d_pre = d_z * keep
        transcoder.W_enc.grad = self.entries.pull(d_pre, self.x)
        transcoder.b_enc.grad = d_pre.new_zeros(transcoder.n_features).index_add_(0, index, d_pre)
        return penalty

    def _penalty(self, rate: float, weighted: bool) -> tuple[Tensor, Tensor]:
        """The L1 penalty, and its gradient to the activations; that to the decoder is added."""
        z = self.z.abs()
        if not weighted:
            return rate * z.sum(), rate * self.z.sign()
        table = self.transcoder.W_dec.detach()
        norms = table.norm(dim=1)
        assert self.transcoder.W_dec.grad is not None
        sums = self.entries.sums(z)
        self.transcoder.W_dec.grad.addcmul_(table, (rate * sums / norms.clamp(min=1e-12))[:, None])
        at = norms[self.entries.codes.feature]
        return rate * (z * at).sum(), rate * self.z.sign() * at

    @torch.no_grad()
    def revive(self, dead: Tensor, residual: Tensor, weight: Tensor, objective: TranscoderLoss, bf16: bool) -> Tensor:
        """Add the dead features' term and its gradient, in which the residual is a constant.

        The residual is that of the *output*: for a transcoder, input and output are different spaces. The more dead
        features there are, up to the number that takes part, the more the term counts.
        """
        transcoder = self.transcoder
        rows = dead.nonzero().squeeze(1)
        k = min(objective.auxiliary_k or max(1, transcoder.spec.d_in // 2), len(rows))
        if not k:
            return residual.new_zeros(())
        encoder, decoder = transcoder.W_enc.detach()[rows], transcoder.W_dec.detach()[rows]
        z, slope, index = self._would_be(encoder, transcoder.b_enc.detach()[rows], k, bf16)
        scale = objective.auxiliary * k / (objective.auxiliary_k or max(1, transcoder.spec.d_in // 2))
        entries = Products(fixed(index), len(rows))
        error = entries.decode(z, decoder).view_as(residual) + residual  # ê − e, where e = y − ŷ
        gradient = (error * (2 * scale * weight)[..., None]).flatten(1)
        d_pre = entries.inner(gradient, decoder) * slope
        _grad(transcoder.W_dec).index_add_(0, rows, entries.pull(z, gradient))
        _grad(transcoder.W_enc).index_add_(0, rows, entries.pull(d_pre, self.x))
        _grad(transcoder.b_enc).index_add_(0, rows, entries.sums(d_pre))
        return scale * (weight * error.square().sum(-1)).sum()

    def _would_be(self, encoder: Tensor, bias: Tensor, k: int, bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The k most active of the dead features: activations, their slopes, and which they are `[N, k]`.

        The rectified value that others use has no gradient where no token reaches a feature at all, which is what dead
        mostly means; softplus has one everywhere, and is nearly the same where a feature is reached.
        """
        if bf16:
            pre = functional.linear(self.x.bfloat16(), encoder.bfloat16(), bias.bfloat16())
        else:
            pre = functional.linear(self.x, encoder, bias)
        index = pre.topk(k, sorted=False).indices.sort(1).values
        entries = Products(fixed(index), len(bias))
        exact = entries.inner(self.x, encoder) + bias[index.flatten()]
        return functional.softplus(exact), exact.sigmoid(), index

    @torch.no_grad()
    def finish(self) -> None:
        """The input bias's gradient, which follows from the encoder bias's."""
        if self.transcoder.b_in is not None:
            self.transcoder.b_in.grad = -(_grad(self.transcoder.b_enc) @ self.transcoder.W_enc)

    @property
    def active(self) -> Tensor:
        return self.on.sum().to(self.z)

    def fired(self, ranks: Ranks) -> Tensor:
        counts = torch.bincount(self.entries.codes.feature[self.on], minlength=self.transcoder.n_features)
        return ranks.sum(counts) > 0

    def cut(self, ranks: Ranks) -> Tensor:
        least = self.pre.min() if len(self.pre) else self.pre.new_zeros(())
        return ranks.gather(least[None]).min().clamp(min=0)


def _weights(
    targets: Float[Tensor, "N T E"], normalization: str, n: int, ranks: Ranks
) -> tuple[Float[Tensor, "N T"], Float[Tensor, " T"]]:
    """Each token's weight in the loss, and each site's variance (the sum of squares about the mean)."""
    mean = ranks.sum(targets.sum(0)) / n  # (T, E)
    variance = ranks.sum((targets - mean).square().sum((0, 2)))  # (T,)
    if normalization == "none":
        return torch.full_like(targets[..., 0], 1 / n), variance
    if normalization == "batch_variance":
        return (1 / variance).expand(targets.shape[:2]), variance
    norm = targets.norm(dim=-1)
    # A target of all zeros would make the authors' loss infinite; here it counts as one a millionth of the usual size.
    norm = torch.maximum(norm, 1e-6 * ranks.sum(norm.sum()) / (n * targets.shape[1]))
    return (1 / (targets.shape[-1] * norm) if normalization == "target_norm" else norm**-2) / n, variance


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
