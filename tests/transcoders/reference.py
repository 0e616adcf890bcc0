"""The same mathematics, dense, with autograd for every gradient; shares no code with the hand-written one."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise.transcoders import Activation, Site, Transcoder, TranscoderLoss, TranscoderSpec

D_IN, D_OUT, F, N = 12, 10, 192, 40


def pre_activations(t: Transcoder, x: Tensor) -> Tensor:
    return (x if t.b_in is None else x - t.b_in) @ t.W_enc.T + t.b_enc


def activations(t: Transcoder, x: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Activations, and 1 for each that is on (with a gradient to the threshold, for jumprelu)."""
    pre, kind, k = pre_activations(t, x), t.activation.kind, t.activation.k
    if kind == "relu":
        return pre.relu(), (pre > 0).to(pre)
    if kind == "jumprelu":
        # The rectangle kernel's stand-in derivative of the step, as an expression that autograd differentiates.
        theta, on = t.threshold, (pre > t.threshold).to(pre)
        near = ((pre - theta).abs() < bandwidth / 2).to(pre).detach() / bandwidth
        change = theta - theta.detach()
        return pre.relu() * on - change * theta.detach() * near, on - change * near
    assert k is not None
    if kind == "topk":
        on = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    else:
        on = torch.zeros(pre.numel(), dtype=pre.dtype).scatter(0, pre.flatten().topk(k * len(x)).indices, 1.0)
        on = on.view_as(pre)
    return (pre.relu() if t.activation.rectified else pre) * on, on


def weights(y: Tensor, normalization: str) -> Tensor:
    """Each token's weight, for one site."""
    n, d = y.shape
    if normalization == "none":
        return torch.full((n,), 1 / n, dtype=y.dtype)
    if normalization == "target_norm":
        return 1 / (n * d * y.norm(dim=1))
    if normalization == "target_sq_norm":
        return 1 / (n * y.square().sum(1))
    return (1 / (y - y.mean(0)).square().sum()).expand(n)


def dense_loss(
    transcoders: Sequence[Transcoder],
    inputs: Sequence[Float[Tensor, "N D"]],
    targets: Float[Tensor, "N T E"],
    objective: TranscoderLoss,
    dead: Sequence[Bool[Tensor, " F"]] | None = None,
) -> Tensor:
    """The loss as one differentiable expression."""
    n_targets = targets.shape[1]
    predicted = [torch.zeros_like(targets[:, 0])] * n_targets
    penalty = torch.zeros((), dtype=targets.dtype)
    for t, x in zip(transcoders, inputs, strict=True):
        z, on = activations(t, x, objective.bandwidth)
        written = (z @ t.W_dec).unflatten(1, (-1, t.spec.d_out)).unbind(1)
        first = n_targets - len(written)
        for j, part in enumerate(written):
            predicted[first + j] = predicted[first + j] + part
        predicted[first] = predicted[first] + t.b_dec
        if t.W_skip is not None:
            predicted[first] = predicted[first] + x @ t.W_skip.T
        if t.activation.kind == "relu":
            scale = t.W_dec.norm(dim=1) if objective.decoder_weighted else 1.0
            penalty = penalty + objective.sparsity * (z.abs() * scale).sum(1).mean()
        if t.activation.kind == "jumprelu":
            penalty = penalty + objective.sparsity * on.sum(1).mean()
    each = [weights(targets[:, j], objective.normalization) for j in range(n_targets)]
    errors = [(predicted[j] - targets[:, j]).square().sum(1) @ each[j] for j in range(n_targets)]
    loss = torch.stack(errors).sum() + penalty
    for i, (t, x) in enumerate(zip(transcoders, inputs, strict=True)):
        if dead is None or not dead[i].any():
            continue
        wanted = objective.auxiliary_k or t.spec.d_in // 2
        k = min(wanted, int(dead[i].sum()))
        pre = pre_activations(t, x).masked_fill(~dead[i], -torch.inf)
        values, index = pre.topk(k)
        values = torch.nn.functional.softplus(values)
        again = (torch.zeros_like(pre).scatter(1, index, values) @ t.W_dec).unflatten(1, (-1, t.spec.d_out))
        first = n_targets - again.shape[1]
        for j in range(again.shape[1]):
            missing = (targets[:, first + j] - predicted[first + j]).detach()
            term = (missing - again[:, j]).square().sum(1) @ each[first + j]
            loss = loss + objective.auxiliary * k / wanted * term
    return loss


def random_transcoder(
    activation: str = "topk:4",
    *,
    layer: int = 0,
    n_sites: int = 1,
    skip: bool = False,
    input_bias: bool = False,
    n_features: int = F,
    autoencoder: bool = False,
    reads: str = "mlp_in",
    d_in: int = D_IN,
    d_out: int = D_OUT,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Transcoder:
    """One with random weights everywhere, so that no term is hidden by being zero."""
    source = Site("mlp_out" if autoencoder else reads, layer)
    writes = (source,) if autoencoder else tuple(Site("mlp_out", layer + j) for j in range(n_sites))
    width = d_in if autoencoder else d_out
    kind = Activation.parse(activation)
    t = Transcoder(TranscoderSpec(d_in, width, n_features, kind, source, writes, skip, input_bias), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in t.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
        if t.activation.kind == "jumprelu":
            t.threshold.abs_().mul_(2)
        if t.activation.kind == "batch_topk":
            t.threshold.fill_(0.7)
    return t


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
