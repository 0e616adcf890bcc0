"""Starts in closed form: a skip connection from the linear map that is nearest to the MLP, features from tokens."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from edgewise.runs import uniform
from edgewise.transcoders import Transcoder, select

_RIDGE = 1e-3  # of the inputs' mean variance; it keeps directions that hardly vary from large weights
_WHITENING = 0.1  # of the same, before features are told apart by their inputs
_ENORMOUS = 20.0  # times the median squared distance from the mean: how far a token counts in full
_CHOICE = 207  # noise stream: which tokens features start from


@torch.no_grad()
def start_from_linear_map(transcoder: Transcoder, x: Float[Tensor, "N D"], y: Float[Tensor, "N E"]) -> None:
    """Set the skip connection and the output's bias by ridge regression of the outputs on the inputs."""
    assert transcoder.W_skip is not None
    weight, bias = ridge(x, y, token_weights(y), _RIDGE)
    transcoder.W_skip.copy_(weight.T)
    transcoder.b_dec.copy_(bias)


@torch.no_grad()
def start_from_tokens(
    transcoder: Transcoder, x: Float[Tensor, "N D"], y: Float[Tensor, "N E"], seed: int, *, bf16: bool = False
) -> None:
    """Let each feature detect one token of a text, among the others, and write what is left to explain there.

    The encoder's row is the token's input, whitened: the direction that tells it best from all tokens. The decoder's is
    what the bias and the skip connection leave of the token's output, as long as least squares over all tokens makes it
    for this feature alone, times a factor that all features share.

    Args:
        transcoder: of a kind that keeps a number of features, with an output of one site; `W_enc`, `b_enc` and `W_dec`
            are set.
        x: inputs.
        y: outputs.
        seed: of the choice of tokens.
        bf16: as in `select`.
    """
    weights = token_weights(y)
    rest = y - transcoder.b_dec
    if transcoder.W_skip is not None:
        rest = rest - x @ transcoder.W_skip.T
    mean, covariance = _moments(x, weights, _WHITENING)
    chosen = uniform(len(x), seed, 0, _CHOICE).argsort()[: transcoder.n_features].to(x.device)
    rows = torch.linalg.solve(covariance, (x[chosen] - mean).T).T  # (n, D)
    rows = rows / (rows * (rows @ covariance)).sum(1).clamp(min=1e-12).sqrt()[:, None]  # of variance 1 over tokens
    transcoder.W_enc[: len(rows)] = rows
    transcoder.b_enc[: len(rows)] = -(rows @ (mean if transcoder.b_in is None else mean - transcoder.b_in))
    transcoder.W_dec[: len(rows)] = functional.normalize(rest[chosen])
    entries = select(transcoder.encoder, transcoder.centre(x), training=True, bf16=bf16)
    z, of_token = transcoder.activate(entries.codes.value, None), weights[entries.codes.tokens]
    along = entries.sums(of_token * z * entries.inner(rest, transcoder.W_dec))
    length = along / entries.sums(of_token * z.square()).clamp(min=1e-12)
    transcoder.W_dec.mul_(length.clamp(min=0)[:, None])
    transcoder.W_dec.mul_(common_factor(entries.decode(z, transcoder.W_dec), rest, weights))


def token_weights(y: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
    """How much each token counts: 1, and less where its output is enormous. In some layers of some models a few tokens'
    are a thousand times as large as the others'; a fit of a few thousand tokens would be a fit of these.
    """
    squared = (y - y.mean(0)).square().sum(1)
    return (_ENORMOUS * squared.median() / squared.clamp(min=1e-30)).clamp(max=1)


def ridge(
    x: Float[Tensor, "N D"], y: Float[Tensor, "N E"], weights: Float[Tensor, " N"], strength: float
) -> tuple[Float[Tensor, "D E"], Float[Tensor, " E"]]:
    """The linear map from x to y and its bias; `strength`, of the inputs' mean variance, keeps it small."""
    mean, covariance = _moments(x, weights, strength)
    mean_y = weights @ y / weights.sum()
    weight = torch.linalg.solve(covariance, ((x - mean) * weights[:, None]).T @ (y - mean_y) / weights.sum())
    return weight, mean_y - mean @ weight


def common_factor(
    written: Float[Tensor, "N E"], wanted: Float[Tensor, "N E"], weights: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Of all that features write, the factor at which it is nearest to what is wanted; at least 0.

    Features that are each as long as least squares makes them alone are too long together, by as much as they say the
    same.
    """
    size = (weights * written.square().sum(1)).sum().clamp(min=1e-30)
    return ((weights * (written * wanted).sum(1)).sum() / size).clamp(min=0)


def _moments(
    x: Float[Tensor, "N D"], weights: Float[Tensor, " N"], added: float
) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
    """Mean and covariance, with some of the mean variance added to each direction's."""
    mean = weights @ x / weights.sum()
    found = ((x - mean) * weights[:, None]).T @ (x - mean) / weights.sum()
    found.diagonal().add_(added * found.diagonal().mean().clamp(min=1e-12))
    return mean, found
