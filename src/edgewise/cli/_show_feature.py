"""What `edgewise transcoder show` and `paths` print."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import edgewise as ew
from edgewise.cli._print import flat, line, table

if TYPE_CHECKING:
    from edgewise.transcoders.analysis import Named

_FROM_WEIGHTS = (
    "all from weights alone: an input multiplies a connection by an activation, norm scales and attention; "
    "length: of what is read through a head"
)


def files(transcoders: Sequence[ew.transcoders.Transcoder]) -> None:
    """What a file or folder holds, a line each."""
    width = max(len(each.name) for each in transcoders)
    for each in transcoders:
        spec, seen = each.spec, ew.transcoders.trained_on(each)
        last = "" if len(spec.writes) == 1 else f" to {spec.writes[-1].key}"
        said = [f"{spec.n_features:,} features", str(spec.activation)]
        said += [name for name, has in (("skip", spec.skip), ("input bias", spec.input_bias)) if has]
        said += [f"trained on {seen}"] if seen else []
        line(f"{each.name:{width}} {spec.reads.key} -> {spec.writes[0].key}{last}; {', '.join(said)}")


def feature(found: ew.transcoders.FeatureDescription) -> None:
    """One feature, from its weights."""
    line(f"{found.name}: reads {found.reads}, writes {', '.join(found.writes)}; bias {found.bias:+.3f}")
    line(_FROM_WEIGHTS)
    if found.features or found.readers:
        _sides(
            "features, on the residual stream", ("reads", "is read by"), _cells(found.features), _cells(found.readers)
        )
    _sides(
        "tokens that it reads (de-embedding)", ("raise it", "lower it"), _quoted(found.raising), _quoted(found.lowering)
    )
    if found.heads:
        rows = []
        for head in found.heads:
            features = "  ".join(f"{each.name} {each.weight:+.2f}" for each in head.features[:2]) or "–"
            tokens = "  ".join(text for text, _ in _quoted(head.raising[:3]))
            rows.append((head.name, features, tokens, f"{head.length:.3f}"))
        title = f"through heads, the longest of {found.n_heads}"
        table(title, ("head", "reads features", "raised by tokens", "length"), rows, left=3)
    _sides(
        "logits that it writes (unembedding)", ("raises", "lowers"), _quoted(found.promoted), _quoted(found.suppressed)
    )


def on_text(found: ew.transcoders.FeaturesOnText, place: int, rows: ew.transcoders.TokenRows, tokenizer: Any) -> None:
    """Where one of the features is on in a text, and which earlier ones are on with it."""
    on, mean = float(found.frequency[place]), float(found.mean[place])
    share = f"on at {on:.2%} of them, mean {mean / max(on, 1e-30):.3g} where it is on"
    line(f"m{found.layer}.f{found.features[place]} on a text of {found.n_tokens:,} tokens: {share}")
    if not on:
        return
    weights = zip(*(column[place].tolist() for column in found.virtual), strict=True)
    cells = [(f"m{at}.f{i}", f"{weight:+.3f}", f"{era:+.2e}", f"{twera:+.2e}") for at, i, weight, era, twera in weights]
    if cells:
        said = "TWERA: connection · mean(a_i a_j) / mean(a_j); ERA: connection · mean of a_i where it is on"
        table("features that are on with it, by TWERA", ("feature", "connection", "ERA", "TWERA"), cells, said)
    examples = []
    for value, row, position in zip(*(column[place].tolist() for column in found.examples), strict=True):
        ids = rows.ids[row]
        before, here, after = (
            ids[max(0, position - _WINDOW) : position],
            ids[position : position + 1],
            ids[position + 1 :],
        )
        shown = (tokenizer.decode(some.tolist()) for some in (before, here, after[: _WINDOW // 2]))
        examples += [(f"{value:.3g}", "{}⟦{}⟧{}".format(*(flat(each) for each in shown)))] if value else []
    table("where it is most on", ("activation", "text"), examples, left=2)


def on_tokens(layer: int, ids: Any, values: Any, tokenizer: Any, most: int) -> None:
    """The strongest features of a layer at each token of a prompt; `values`: their activations, `[S, F]`."""
    rows = []
    for token, active in zip(ids.tolist(), values, strict=True):
        best = active.topk(min(most, len(active)))
        on = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        said = "  ".join(f"f{number} {value:.2f}" for number, value in on if value > 0)
        rows.append((repr(tokenizer.decode([token])), said or "–"))
    note = "activations; special tokens and the first do not count"
    table(f"features of m{layer}, the strongest at each token", ("token", "features"), rows, note, left=2)


def on_prompts(name: str, runs: Sequence[tuple[Any, Any]], tokenizer: Any) -> None:
    """Where one feature is on in prompts, each with its tokens and the activations there, `[S]`."""
    rows = []
    for ids, values in runs:
        texts = [flat(tokenizer.decode([token])) for token in ids.tolist()]
        pairs = zip(texts, values.tolist(), strict=True)
        marked = (f"⟦{text} = {value:.3g}⟧" if value > 0 else text for text, value in pairs)
        largest = float(values.max())
        rows.append((f"{largest:.3g}" if largest > 0 else "off", "".join(marked)))
    table(
        f"{name} on prompts", ("largest", "prompt, with the tokens at which it is on, and how strongly"), rows, left=2
    )


_WINDOW = 10  # tokens before the one that it is on at; half as many after it


def paths(found: ew.attribution.PathSearch, most: int) -> None:
    """Paths on a prompt, and the graph that they make."""
    into = f"residual {found.residual:.0e}: of it and all that writes to what it reads, by the sum of their sizes"
    line(f"{_node(found.root, found.tokens)}: {found.value:.3f}; {into}")
    rows = []
    for path in found.longest[:most]:
        end = path.nodes[-1]
        factors = (f"{end.activation:.3g}", f"{end.scale:.3g}", f"{end.connection:+.3g}")
        rows.append((" ← ".join(path.names[1:]), f"{path.contribution:+.3f}", *factors))
    said = (
        "gives: to the root, activation · scale · connection; scale: norm scales and attention on the way;\n"
        "connection: of the weights alone where a path ends at a feature, token or position"
    )
    columns = ("to the root from", "gives", "activation", "scale", "connection")
    table(f"paths, {len(rows)} of {len(found.longest)}", columns, rows, said, whole=True)
    graph = found.graph()
    nodes = [name for name in graph.nodes if name != graph.root]
    read = {edge.target for edge in graph.edges}
    rows = [
        (_node(name, found.tokens), f"{graph.nodes[name]:+.3f}", f"{graph.rest(name):+.3f}" if name in read else "–")
        for name in [graph.root, *nodes[:most]]
    ]
    said = "gives: over all paths through it; left out: what gives it that, and is on none of these paths"
    table(f"their graph, {len(rows) - 1} nodes of {len(nodes)}", ("node", "gives", "left out"), rows, said, whole=True)


def _node(name: str, tokens: Sequence[str]) -> str:
    """With the token that it stands at."""
    _, at, position = name.rpartition("@")
    return f"{name} {tokens[int(position)]!r}" if at and position.isdecimal() else name


_Cells = list[tuple[str, str]]


def _sides(title: str, words: tuple[str, str], first: _Cells, second: _Cells) -> None:
    """Two lists side by side."""
    rows = [(*a, *b) for a, b in zip_longest(first, second, fillvalue=("", ""))]
    table(title, (words[0], "connection", words[1], "connection"), rows)


def _cells(named: Sequence[Named]) -> _Cells:
    return [(each.name, f"{each.weight:+.3f}") for each in named]


def _quoted(named: Sequence[Named]) -> _Cells:
    return [(repr(each.name), f"{each.weight:+.3f}") for each in named]
