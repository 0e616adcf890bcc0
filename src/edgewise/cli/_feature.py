"""`edgewise transcoder show`: what files hold, and what one feature reads and writes."""

from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _features, _show, _show_feature
from edgewise.cli import _options as options
from edgewise.cli._common import load


def show(
    transcoders: Annotated[
        list[str], Argument(help="Files, folders or hub ids; and at last, if you like, a feature such as m12.f410.")
    ],
    model: _features.OwnModel = None,
    most: Annotated[int, Option(help="Features and tokens that are listed.", min=1)] = 7,
    heads: Annotated[int, Option(help="Heads that are listed.", min=0)] = 3,
    as_json: options.AsJson = False,
) -> None:
    """What files hold; or what one feature reads and writes, from the weights alone."""
    feature = _features.parse(transcoders[-1])
    found = _features.read(transcoders if feature is None else transcoders[:-1])
    if feature is None:
        if as_json:
            raise ew.InputError("--json: give a feature such as m12.f410")
        return _show_feature.files(found)
    if not found:
        raise ew.InputError(f"{transcoders[-1]}: give its transcoders before it, such as runs/transcoders m12.f410")
    described = ew.transcoders.describe(load(_features.model_of(found, model), "cpu"), found, *feature, most, heads)
    return _show.result(described, as_json, _show_feature.feature)
