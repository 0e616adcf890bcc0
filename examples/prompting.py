"""One behaviour asked for in two ways, by an instruction and by examples: are the two circuits one?

The case study of Bhaskar et al. 2024 (arXiv 2406.16778, section 5), on boolean expressions in CodeLlama-13B.

    python examples/prompting.py --behaviour capitals --out runs/prompting --write docs/results/prompting.md
    python examples/prompting.py --model FILE.gguf --sparsities 0.98 0.998 --seeds 0 1 2 --out runs/prompting-other
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Any

from edgewise import Circuit, InputError
from edgewise.bench import BenchConfig, cells, prepare, run_bench
from edgewise.evaluation import Ability, Comparison, compare, score, stability
from edgewise.models import load_tokenizer
from edgewise.runs import write_atomically
from edgewise.tasks import CAPITALS, SPLITS, Encoder, has_chat, in_chat, words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEHAVIOURS = ("capitals", "boolean-expressions")
FORMS = ("instruction", "few-shot")
_N_SHOTS = 3
_LEAST = 2  # pairs of a split without which there is nothing to learn or judge
_METRICS = {"kl": "KL", "logit_diff": "logit difference", "accuracy": "accuracy", "exact_match": "exact match"}


@dataclass(frozen=True)
class Prompting:
    """What the study found."""

    behaviour: str
    ability: dict[str, Ability]
    """How well the full model does each form."""
    comparisons: dict[str, tuple[Comparison, ...]]
    """By sparsity, one for each seed: the two circuits, their intersection and their union on both forms; tasks and
    circuits are named by form."""
    seeds_iou: dict[str, dict[str, float]]
    """By sparsity and form: the mean IoU of two seeds' circuits. Empty for one seed."""

    def to_json(self) -> str:
        """As JSON."""
        ability = {form: asdict(each) | {"complaint": each.complaint} for form, each in self.ability.items()}
        comparisons = {size: [json.loads(each.to_json()) for each in found] for size, found in self.comparisons.items()}
        row = {"behaviour": self.behaviour, "ability": ability, "comparisons": comparisons, "seeds_iou": self.seeds_iou}
        return json.dumps(row, indent=2, allow_nan=False)


def study_prompting(
    model: str,
    out: str | Path,
    *,
    behaviour: str = "capitals",
    sparsities: Sequence[float] = (0.98,),
    method: str | Mapping[str, Any] = "ranking",
    sizes: tuple[int, int, int] = (200, 100, 200),
    seeds: Sequence[int] = (0,),
    jobs: int = 1,
    threads: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Prompting:
    """Find a circuit for each form of a behaviour, and judge both, their intersection and their union on both.

    The circuits are cells of a bench in `out`, so that a study that was cut short goes on from there.

    Args:
        model: a name, a hub id or a folder.
        out: the folder.
        behaviour: `capitals` (the capital of a country, which small models know), or `boolean-expressions` (the
            paper's).
        sparsities: of both circuits, in actual edges.
        method: a bench's method, or a mapping with its settings.
        sizes: training, validation and test pairs of each form, at most.
        seeds: of the method; the first is also the pairs'.
        jobs: processes.
        threads: of each.
        device: where the model goes.
        say: told a line per circuit.

    Returns:
        The comparisons; they are also written to `OUT/study.json`.

    Raises:
        InputError: a setting is wrong, or the tokenizer allows no pairs of this behaviour.
    """
    if behaviour not in BEHAVIOURS:
        raise InputError(f"behaviour {behaviour!r}: choose {' or '.join(BEHAVIOURS)}")
    if not seeds:
        raise InputError("study: no seeds; give at least one")
    out = Path(out)
    config = BenchConfig.of(
        {
            "models": [model],
            "tasks": _tasks(behaviour, model, out, sizes, seeds[0]),
            "methods": [method],
            "sparsities": list(sparsities),
            "seeds": list(seeds),
        }
    )
    _, ran = run_bench(config, out, jobs=jobs, threads=threads, device=device, say=say)
    if ran.failed:
        raise InputError(f"study: {ran.failed[0]}")
    prepared = prepare(config, model, device)
    engine = next(iter(prepared.values()))[0]
    named = [replace(task, name=form) for form, (_, task) in prepared.items()]
    ability = {task.name: score(engine, task) for task in named}
    found = [cell for cell in cells(config, out) if cell.method.method != "empty"]
    seeds = sorted({cell.seed for cell in found})  # a method that draws nothing has one
    comparisons = dict[str, tuple[Comparison, ...]]()
    seeds_iou = dict[str, dict[str, float]]()
    for size in found[0].sizes():
        circuits = {
            seed: {
                cell.task.name: Circuit.load(cell.folder / f"chosen {size}.safetensors")
                for cell in found
                if cell.seed == seed
            }
            for seed in seeds
        }
        say(f"{size}: comparing")
        comparisons[size] = tuple(compare(engine, circuits[seed], named) for seed in seeds)
        if len(seeds) > 1:
            seeds_iou[size] = {form: stability([circuits[seed][form] for seed in seeds]).iou.value for form in FORMS}
    study = Prompting(behaviour, ability, comparisons, seeds_iou)
    write_atomically(out / "study.json", study.to_json() + "\n")
    return study


def prompting_page(found: Prompting, *, command: str) -> str:
    """The study as Markdown."""
    several = max(len(each) for each in found.comparisons.values())
    conditions = next(iter(found.comparisons.values()))[0].conditions
    model = conditions["model"]
    given = Path(model["id"])
    name = (given.name if given.is_absolute() else model["id"]) + (f" ({model['note']})" if model["note"] else "")
    spread = f"{several} seeds: mean (lowest to highest)" if several > 1 else "means with 95 % bootstrap intervals"
    lines = [
        f"# One behaviour, two ways to ask for it: {found.behaviour}",
        "",
        f"Written by `{command}`. Model: {name}, {conditions['ablation']['kind']} ablation, test split,",
        f"hard masks, at the answers; {spread}{' over the examples' if several == 1 else ''}.",
        "",
        "| form | examples | prefers the right answer | likeliest token is right | does the model do it? |",
        "|---|---|---|---|---|",
    ]
    for form, ability in found.ability.items():
        chosen, right = ability.metrics.get("choice"), ability.metrics["accuracy"]
        shown = "" if chosen is None else f"{chosen.value:.2f} (chance {chosen.chance:.2f})"
        lines.append(f"| {form} | {ability.n} | {shown} | {right.value:.2f} | {'no' if ability.complaint else 'yes'} |")
    lines += _shared(found) + _judged(found)
    return "\n".join([*lines, ""])


def _shared(found: Prompting) -> list[str]:
    """What the two circuits share, by sparsity."""
    forms = FORMS if found.seeds_iou else ()
    lines = [
        "",
        "What the two circuits share. *By chance*: what two random sets of edges of these sizes would share.",
        "",
        "| sparsity | shared edges | by chance | of the instruction's | of the few-shot's | IoU |"
        + "".join(f" IoU of two seeds, {form} |" for form in forms),
        "|---" * (6 + len(forms)) + "|",
    ]
    for size, seeds in found.comparisons.items():
        one, other = (mean(each.edges[form] for each in seeds) for form in FORMS)
        chance = one * other / seeds[0].total_edges["union"]
        two = [each.pairs[0] for each in seeds]
        row = [
            _percent(size),
            _spread([pair.shared for pair in two], ",.0f"),
            f"{chance:,.0f}",
            _spread([pair.of_one for pair in two], ".1%"),
            _spread([pair.of_other for pair in two], ".1%"),
            _spread([pair.iou for pair in two], ".3f"),
            *(f"{found.seeds_iou[size][form]:.3f}" for form in forms),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _judged(found: Prompting) -> list[str]:
    """How each circuit does on each form, by sparsity."""
    lines = [
        "",
        f"| sparsity | judged on | circuit | actual edges | {' | '.join(_METRICS.values())} |",
        "|---" * (4 + len(_METRICS)) + "|",
    ]
    for size, seeds in found.comparisons.items():
        for task, rows in seeds[0].judged.items():
            for who in rows:
                if who == "full" and size != next(iter(found.comparisons)):
                    continue  # it is the same at every sparsity
                each = [comparison.judged[task][who] for comparison in seeds]
                edges = [comparison.actual.get(who, comparison.total_edges["union"]) for comparison in seeds]
                if len(seeds) == 1:
                    row = each[0]
                    shown = [str(row[name]) if name in row else "" for name in _METRICS]
                else:
                    shown = [
                        _spread([one[name].value for one in each], ".3f") if name in each[0] else ""
                        for name in _METRICS
                    ]
                cells_ = ["–" if who == "full" else _percent(size), task, who, f"{mean(edges):,.0f}", *shown]
                lines.append(f"| {' | '.join(cells_)} |")
    return lines


def _percent(size: str) -> str:
    return f"{100 * float(size):g} %"


def _spread(values: Sequence[float], style: str) -> str:
    """The mean, and the range of several values that differ."""
    shown = format(mean(values), style)
    low, high = format(min(values), style), format(max(values), style)
    return shown if low == high else f"{shown} ({low} to {high})"


def _tasks(behaviour: str, model: str, out: Path, sizes: tuple[int, int, int], seed: int) -> list[dict[str, Any]]:
    """The two forms, as a bench's tasks."""
    if behaviour == "boolean-expressions":
        pairs = dict(zip(SPLITS, sizes, strict=True)) | {"seed": seed}
        return [{"name": form, "task": behaviour, "form": form, **pairs} for form in FORMS]
    records = capital_records(load_tokenizer(model), sizes, seed)
    tasks = []
    for form in FORMS:
        path = out / "pairs" / f"{form}.jsonl"
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in records[form]))
        tasks.append({"name": form, "task": str(path), "seed": seed})
    return tasks


def capital_records(
    tokenizer: "PreTrainedTokenizerBase", sizes: tuple[int, int, int], seed: int
) -> dict[str, list[dict[str, str]]]:
    """Pairs about capitals in both forms, the same countries in each: the corrupted prompt asks for another country.

    A capital is judged by its first token, and the two countries of a pair have equally many tokens. No country is in
    two splits, and none of those in the examples is asked for.

    Args:
        tokenizer: the model's.
        sizes: training, validation and test pairs, at most.
        seed: of the drawing.

    Raises:
        InputError: the tokenizer leaves too few.
    """
    encoder = Encoder.of(tokenizer)
    shots = [pair.split("/") for pair in CAPITALS[:_N_SHOTS]]
    found: dict[str, list[dict[str, str]]] = {form: [] for form in FORMS}
    for split, size in zip(SPLITS, sizes, strict=True):
        by_length: dict[tuple[int, ...], list[tuple[str, str]]] = {}
        for pair in words_of(CAPITALS, split):
            country, capital = pair.split("/")
            if [country, capital] in shots:
                continue
            if (asked := _askable(encoder, country, capital, shots)) is not None:
                lengths, answer = asked
                by_length.setdefault(lengths, []).append((country, answer))
        pairs = [two for group in by_length.values() for two in permutations(group, 2) if two[0][1] != two[1][1]]
        if len(pairs) < _LEAST:
            raise InputError(
                f"capitals: this tokenizer leaves {len(pairs)} {split} pairs of countries with equally many tokens; "
                "choose boolean-expressions"
            )
        Random(f"{seed} {split}").shuffle(pairs)
        for (country, answer), (other, wrong) in pairs[:size]:
            for form in FORMS:
                clean, corrupted = (_prompt(form, each, shots, encoder) for each in (country, other))
                row = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong_answer": wrong}
                found[form].append(row | {"split": split})
    return found


def _prompt(form: str, country: str, shots: list[list[str]], encoder: Encoder) -> str:
    if form == "few-shot":
        return "".join(f"{each}: {capital}\n" for each, capital in shots) + f"{country}:"
    question, answer = f"What is the capital of {country}? Answer with one word.", "The capital is"
    if not has_chat(encoder.tokenizer):
        return f"{question}\n{answer}"
    return "".join(str(piece) for piece in in_chat([question], encoder)) + answer


def _askable(
    encoder: Encoder, country: str, capital: str, shots: list[list[str]]
) -> tuple[tuple[int, ...], str] | None:
    """How many tokens the prompts of both forms have, and the first of the answer as text; None if it differs."""
    found = [_first_token(encoder, _prompt(form, country, shots, encoder), f" {capital}") for form in FORMS]
    known = [each for each in found if each is not None]
    if len(known) < len(FORMS) or len({text for _, text in known}) > 1:
        return None
    return tuple(length for length, _ in known), known[0][1]


def _first_token(encoder: Encoder, prompt: str, answer: str) -> tuple[int, str] | None:
    """How many tokens the prompt has, and the text of the answer's first token; None if that text is not one token
    after the prompt.
    """
    try:
        asked, answered = encoder.continuation(prompt, answer)
        text = answer if len(answered) == 1 else str(encoder.tokenizer.decode(list(answered[:1])))
        again = encoder.continuation(prompt, text)
    except InputError:
        return None
    return (len(asked), text) if again == (asked, answered[:1]) else None


def main() -> None:
    """The study as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, a hub id, or a local directory")
    parser.add_argument("--out", type=Path, default=Path("runs/prompting"), help="folder of all results")
    parser.add_argument("--behaviour", choices=BEHAVIOURS, default=BEHAVIOURS[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.98], help="of both circuits")
    parser.add_argument("--method", default="ranking", help="a method of `edgewise methods`")
    parser.add_argument("--steps", type=int, help="of a learned method; its own if not given")
    for name, most in (("train", 200), ("validation", 100), ("test", 200)):
        parser.add_argument(f"--{name}", type=int, default=most, help="pairs of each form, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the method; the first is also the pairs'")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a model of its own")
    parser.add_argument("--threads", type=int, help="of each; the cores shared out if not given")
    parser.add_argument("--device")
    parser.add_argument("--write", type=Path, help="also write a page (.md)")
    given = parser.parse_args()
    found = study_prompting(
        given.model,
        given.out,
        behaviour=given.behaviour,
        sparsities=given.sparsities,
        method={"method": given.method} | ({} if given.steps is None else {"steps": given.steps}),
        sizes=(given.train, given.validation, given.test),
        seeds=given.seeds,
        jobs=given.jobs,
        threads=given.threads,
        device=given.device,
        say=lambda line: print(line, file=sys.stderr),
    )
    page = prompting_page(found, command=shlex.join(["python", "examples/prompting.py", *sys.argv[1:]]))
    if given.write is not None:
        write_atomically(given.write, page)
    print(page)


if __name__ == "__main__":
    main()
