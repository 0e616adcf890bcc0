"""Where a model is, and its configuration; one of sizes that no model has is refused before anything is made of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.runs import user_path

MOST_LAYERS = 1000
"""A model of more is no model: to make its modules alone would take minutes."""


def check_depth(what: str, n_layers: Any) -> None:
    """Refuse, before any module is made, a configuration of more layers than any model has. Raises `InputError`."""
    if isinstance(n_layers, int) and n_layers > MOST_LAYERS:
        raise InputError(f"{what}: {n_layers:,} layers; give a model of at most {MOST_LAYERS:,}")


def check_stated_depth(what: str, values: Mapping[str, Any]) -> None:
    """The same of a configuration's own text, since some of `transformers`' make a list of their layers at once."""
    for each in (values, values.get("text_config")):
        for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            check_depth(what, each.get(name) if isinstance(each, Mapping) else None)


def check_sizes(what: str, config: Any) -> None:
    """Refuse a configuration of `transformers` whose sizes no model has, before any module is made. Raises
    `InputError`.
    """
    check_depth(what, getattr(config, "num_hidden_layers", None))
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "vocab_size"):
        if isinstance(n := getattr(config, name, None), int) and n < 1:
            raise InputError(f"{what}: {name} is {n}; give a model whose sizes are positive")


def configuration(what: str, problem: str, name: str, advice: str, revision: str | None = None) -> tuple[str, Any]:
    """Where a model is, and its configuration; one of sizes that no model has is refused before anything is made."""
    from transformers import AutoConfig, PretrainedConfig

    with refusing(f"{what}: {problem}", advice):
        place = reached(name, revision)
        stated, _ = PretrainedConfig.get_config_dict(place, revision=revision)
        if not isinstance(stated, Mapping):
            raise ValueError(f"its config.json holds a {type(stated).__name__}, not an object with names")
    check_stated_depth(what, stated)
    with refusing(f"{what}: {problem}", advice):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, revision=revision)
    check_sizes(what, config.get_text_config())
    return place, config


@contextmanager
def refusing(problem: str, advice: str) -> Iterator[None]:
    """Say whatever transformers and the hub client raise, which is of many kinds, in one line."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{problem} ({' '.join(str(error).split())[:160]}); give {advice}") from error


def local_path(name: str) -> Path | None:
    """Where a name is a path of this machine; None for a hub id."""
    path = user_path(name)
    return path if path.exists() or name.startswith((".", "/", "~")) else None


def reached(name: str, revision: str | None) -> str:
    """A local directory, or a hub id. The hub is asked, once, for a model that is not in its cache: loading would try
    for long where there is no hub.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if (path := local_path(name)) is not None:
        return str(path)
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        HfApi().model_info(name, revision=revision, timeout=10)
    return name
