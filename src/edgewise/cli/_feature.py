"""`edgewise transcoder show` and `paths`: features by their weights, and on a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show, _show_feature
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import load
from edgewise.cli._show_transcoder import compare_weights, counting
from edgewise.runs import parse_settings


def show(
    transcoders: Annotated[
        list[str], Argument(help="Files, folders or hub ids, then, if you like, features such as m12.f410 m12.f7.")
    ],
    model: inputs.OwnModel = None,
    most: Annotated[int, Option(help="How many features and tokens to list.", min=1)] = 7,
    heads: Annotated[int, Option(help="How many heads to list.", min=0)] = 3,
    text: Annotated[
        list[str] | None,
        Option(
            "--text",
            help=f"Also show where it is on in a text, and with which other features: {inputs.TEXTS}; may be repeated.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        Option("--prompt", help="Which features are on in this prompt, or where the one given is; may be repeated."),
    ] = None,
    weights: Annotated[
        bool | None,
        Option(help="Show what the weights say, or leave it out. If unset, left out with --prompt or --text."),
    ] = None,
    context: inputs.Context = 128,
    limit: inputs.Limit = 20_000,
    as_json: options.AsJson = False,
) -> None:
    """List what files hold; or show what features read and write, from the weights alone, or where they are on.

    With --prompt, and no feature, say which features are on at each of its tokens.
    """
    features = [found for each in transcoders if (found := inputs.parse(each)) is not None]
    found = inputs.read([each for each in transcoders if inputs.parse(each) is None])
    if not features:
        if as_json or text:
            raise ew.InputError(f"{'--json' if as_json else '--text'}: give a feature too, such as m12.f410")
        return _on_prompts(found, model, prompt, most) if prompt else _show_feature.files(found)
    if not found:
        raise ew.InputError(f"{transcoders[-1]}: give its transcoders before it, such as runs/transcoders m12.f410")
    if as_json and (text or prompt):
        option, other = ("--text", "on_text") if text else ("--prompt", "on_prompt")
        raise ew.InputError(
            f"--json: of the weights alone; leave {option} out, or use ew.transcoders.{other} from Python"
        )
    if weights is False and not text and not prompt:
        raise ew.InputError("--no-weights: nothing is left to show; give --prompt or --text too, or leave it out")
    ew.transcoders.check_features(found, features)
    loaded = load(inputs.model_of(found, model), "cpu")
    compare_weights(found, loaded)
    by_layer = {at: [number for layer, number in features if layer == at] for at, _ in features}
    if weights or (weights is None and not text and not prompt):
        described = [ew.transcoders.describe(loaded, found, *each, most, heads) for each in features]
        _described(described, as_json)
    if text:
        rows = inputs.text_rows(loaded, text, context, limit)
        for layer, numbers in by_layer.items():
            with counting("running the text") as progress:
                seen = ew.transcoders.on_text(loaded, found, layer, numbers, rows, most=(most, most), progress=progress)
            for place in range(len(numbers)):
                _show_feature.on_text(seen, place, rows, loaded.tokenizer)
    if prompt:
        own = [each for each in found if each.spec.reads.layer in by_layer]
        runs = list(_run(loaded, own, prompt))
        for layer, number in features:
            values = [(ids, active[layer][:, number]) for ids, active in runs]
            _show_feature.on_prompts(f"m{layer}.f{number}", values, loaded.tokenizer)


def _described(found: list[ew.transcoders.FeatureDescription], as_json: bool) -> None:
    """What weights say of features; as JSON an object for one, and a list of them for several."""
    if as_json and len(found) > 1:
        print(json.dumps([json.loads(each.to_json()) for each in found], indent=2), flush=True)
        return
    for each in found:
        _show.result(each, as_json, _show_feature.feature)


def _on_prompts(found: list[ew.transcoders.Transcoder], model: str | None, prompts: list[str], most: int) -> None:
    """The strongest features at each token of prompts."""
    loaded = load(inputs.model_of(found, model), "cpu")
    compare_weights(found, loaded)
    for ids, active in _run(loaded, found, prompts):
        for layer, values in active.items():
            _show_feature.on_tokens(layer, ids, values, loaded.tokenizer, most)


def _run(model: ew.Model, found: list[ew.transcoders.Transcoder], prompts: list[str]) -> Iterator[tuple[Any, Any]]:
    """Each prompt's tokens, and its features' activations by layer."""
    for each in prompts:
        ids = ew.attribution.token_ids(model, each)
        yield ids, ew.transcoders.on_prompt(model, found, ids)


def paths(
    prompt: Annotated[str, Argument(help="A prompt.")],
    root: Annotated[
        str,
        Option("--root", help="A feature such as m12.f410@-1 (at the last token), or a token with its leading space."),
    ],
    transcoders: Annotated[
        list[str], Option("--transcoders", help="A transcoder's file, a folder of them, or a hub id; may be repeated.")
    ] = ["runs/transcoders"],  # noqa: B006 (typer copies it)
    model: inputs.OwnModel = None,
    settings: Annotated[list[str] | None, options.of_config("PathConfig")] = None,
    most: Annotated[int, Option(help="How many paths and nodes to list.", min=1)] = 12,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Find the paths that give most to a feature or a logit on a prompt, with attention and norm scales frozen."""
    config = ew.attribution.PathConfig(**parse_settings("--set", ew.attribution.PathConfig, settings or ()))
    found = inputs.read(transcoders, device=device)
    loaded = load(inputs.model_of(found, model), device)
    compare_weights(found, loaded)
    search = ew.attribution.greedy_paths(loaded, prompt, found, root, config)
    _show.result(search, as_json, _show_feature.paths, search, most)
