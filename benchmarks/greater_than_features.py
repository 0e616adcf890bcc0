"""Greater-than in one MLP: its transcoder's features beside its neurons, by how much they vary with the year.

    python benchmarks/greater_than_features.py runs/set [--layer 24] [--out runs/greater-than.json]

"The war lasted from the year 1732 to the year 17" wants a tens digit from 3 on. Of the MLPs that have a transcoder it
takes the one whose mean ablation at the last token costs most. Features, and neurons, are ranked by the variance of
their activation there over the years, and all but the first k are held at their mean over the years. (Dunefsky et al.
2024, section 5.2, whose prompts end before two digits and who set the others to zero at all tokens.)
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import edgewise as ew
from edgewise.runs import bootstrap, write_atomically
from edgewise.transcoders import Site, Transcoder, capture, modules_of, substituted, unembedding

YEARS = range(9, 99)  # two digits of the start year, with tens digits below and from the wanted one on
KEPT = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
SHOWN = 5


class Prompts(NamedTuple):
    """All prompts up to their last token, and what follows from there."""

    model: Any
    cache: Any
    last: Tensor
    ids: Tensor
    digits: Tensor
    wanted: Tensor
    """Of each prompt, the least right tens digit."""

    def scores(self, outputs: dict[int, Tensor]) -> Tensor:
        """P(right) − P(wrong) among the ten digits, of each prompt, with some MLPs' outputs at the last token given."""
        substitutes = {layer: _given(y) for layer, y in outputs.items()}
        cache = copy.deepcopy(self.cache)
        with torch.no_grad(), substituted(self.model, substitutes, exclude_special=False):
            logits = self.model.module(input_ids=self.last, past_key_values=cache).logits[:, -1]
        p = logits[:, self.digits].double().softmax(1)
        right = torch.arange(10) >= self.wanted[:, None]
        return torch.where(right, p, -p).sum(1)


def _given(y: Tensor) -> Callable[..., Tensor]:
    return lambda residual, given, mlp: y[:, None].to(given.dtype)


def prompts(model: Any) -> Prompts:
    """A prompt for each year, all of as many tokens."""
    texts = [f"The war lasted from the year 17{year:02d} to the year 17" for year in YEARS]
    rows = [model.tokenizer(text)["input_ids"] for text in texts]
    if len({len(row) for row in rows}) > 1:
        raise SystemExit("the prompts are not of equal length in this tokenizer")
    digits = [model.tokenizer(f"{texts[0]}{digit}")["input_ids"] for digit in range(10)]
    if any(len(row) != len(rows[0]) + 1 for row in digits):
        raise SystemExit("this tokenizer does not write numbers digit by digit")
    ids = torch.tensor(rows)
    with torch.no_grad():
        cache = model.module(input_ids=ids[:, :-1], use_cache=True).past_key_values
    wanted = torch.tensor([(year + 1) // 10 for year in YEARS])
    return Prompts(model, cache, ids[:, -1:], ids, torch.tensor([row[-1] for row in digits]), wanted)


def neurons(model: Any, layer: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The neurons' activations at the last token, `[n, F]`, and what each writes, `[F, D]`."""
    out = next(m for name, m in modules_of(model.parts.layers[layer]).mlp.named_modules() if name.endswith("down_proj"))
    found = list[Tensor]()
    handle = out.register_forward_pre_hook(lambda _module, given: found.append(given[0][:, -1].detach()))
    capture(model, [Site("mlp_out", layer)], ids)
    handle.remove()
    assert isinstance(out.weight, Tensor)
    return found[0], out.weight.detach().T


def sweep(found: Prompts, layer: int, z: Tensor, rows: Tensor, rest: Tensor) -> list[dict[str, float]]:
    """The score with the k units of largest variance as they are and the others at their means."""
    order, mean = z.var(0).argsort(descending=True), z.mean(0)
    lines = []
    for k in [each for each in KEPT if each < z.shape[1]] + [z.shape[1]]:
        held = mean.expand_as(z).clone()
        held[:, order[:k]] = z[:, order[:k]]
        score = bootstrap(found.scores({layer: rest + held @ rows}).numpy())
        lines.append({"kept": k, "score": score.value, "low": score.low, "high": score.high})
    return lines


def shown(found: Prompts, transcoder: Transcoder, z: Tensor) -> list[dict[str, Any]]:
    """The features of largest variance: at which tens digits they are on, and which digits they raise."""
    order = z.var(0).argsort(descending=True)[:SHOWN]
    tens = torch.tensor([year // 10 for year in YEARS])
    written = unembedding(found.model, transcoder, order.tolist())[:, found.digits]
    written = written - written.mean(1, keepdim=True)
    return [
        {
            "feature": f"m{transcoder.spec.reads.layer}.f{int(f)}",
            "share_of_variance": float(z.var(0)[f] / z.var(0).sum()),
            "mean_by_tens": [round(float(z[tens == digit, f].mean()), 3) for digit in range(10)],
            "raises_digits": [round(float(x), 3) for x in written[i]],
        }
        for i, f in enumerate(order)
    ]


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcoders", nargs="+")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/greater-than.json"))
    args = parser.parse_args()
    read = [each for source in args.transcoders for each in ew.transcoders.read(source)]
    by_layer = {each.spec.reads.layer: each for each in read}
    model = ew.load_model(str(read[0].provenance["model"]["id"]))
    found = prompts(model)
    sites = [Site("mlp_out", layer) for layer in range(len(model.parts.layers))]
    written = {site.layer: y[:, -1] for site, y in capture(model, sites, found.ids).items()}
    own = bootstrap(found.scores({}).numpy())
    ablated = {i: float(found.scores({i: y.mean(0).expand_as(y)}).mean()) for i, y in written.items()}
    layer = min(by_layer, key=lambda i: ablated[i]) if args.layer is None else args.layer
    transcoder = by_layer[layer]
    site = transcoder.spec.reads
    x = capture(model, [site], found.ids)[site][:, -1]
    z = transcoder.encode(x).detach()
    skip = torch.zeros_like(x) if transcoder.W_skip is None else x @ transcoder.W_skip.detach().T
    rows, rest = transcoder.W_dec.detach(), transcoder.b_dec.detach() + skip.mean(0)
    h, out = neurons(model, layer, found.ids)
    curves = {
        "features": sweep(found, layer, z, rows, rest.expand_as(x)),
        "features, with the skip connection as it is": sweep(found, layer, z, rows, rest + skip - skip.mean(0)),
        "neurons": sweep(found, layer, h, out, (written[layer] - h @ out)),
    }
    result = {
        "model": model.identity,
        "prompts": len(YEARS),
        "own": own._asdict(),
        "mean_ablated": ablated,
        "layer": layer,
        "n_features": transcoder.n_features,
        "on_somewhere": int((z > 0).any(0).sum()),
        "curves": curves,
        "features": shown(found, transcoder, z),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
