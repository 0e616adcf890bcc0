"""Getting a model: by a default's name, a hub id, a local directory, or as a module the user already holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from edgewise._errors import InputError
from edgewise.graph import Embeddings, ErrorPolicy, Graph, GraphSpec, KeyValue
from edgewise.models import _gemma, _gpt2, _granite, _llama, _neox, _olmo, _phi3, _plain
from edgewise.models._as_loaded import AsLoaded, Weights, check_training, weights_hash, weights_of
from edgewise.models._compiled import ProgramTokenizer, find_compiled, load_compiled
from edgewise.models._configuration import configuration, local_path, reached, refusing
from edgewise.models._default import DEFAULT_MODELS, gguf_folder, load_default, load_default_tokenizer
from edgewise.models._device import check_places, usable_device
from edgewise.models._offload import Offload, offloaded
from edgewise.models._parts import Parts, Routing, before_scaling
from edgewise.runs import check_autocast, user_path

Adapter = Callable[[Any], Parts]
"""What a family gives: from a user's module to its parts."""

_MODELS = f"{', '.join(DEFAULT_MODELS)}, a hub id that this machine can reach, or a local directory"
_FAMILIES: dict[str, tuple[str, Adapter]] = {}
"""By `model_type`: the family's name and its adapter."""


def register_family(name: str, model_types: Sequence[str], parts: Adapter) -> None:
    """Tell edgewise how to read a family of models (see `docs/extending.md`).

    The model must be a `torch.nn.Module` with a `config.vocab_size`, whose call with `input_ids`, `attention_mask` and
    `position_ids`, each `[B, S]`, gives an object with `logits`, `[B, S, V]`. `edgewise.load_model` compares the parts
    with it on random prompts before anything is done.

    Args:
        name: what `Model.family` says.
        model_types: the family's `config.model_type`s; of a module whose config has none, its class's name. One that is
            known is read by the new adapter from now on.
        parts: from the user's module to its parts; only detached views of its weights, nothing copied or changed.
    """
    _FAMILIES.update(dict.fromkeys(model_types, (name, parts)))


for _family in (_gemma, _gpt2, _granite, _llama, _neox, _olmo, _phi3):
    register_family(_family.__name__.rpartition("_")[2], _family.MODEL_TYPES, _family.parts)


@dataclass(frozen=True)
class Model:
    """A user's model, its tokenizer, and where its parts are. The module is never changed."""

    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    family: str
    """Which adapter reads it: the file of `edgewise.models` that has it (`llama`, `gemma`, …), or a registered one."""
    parts: Parts = field(repr=False)
    source: dict[str, str]
    """`id`, `revision`, `note`: as given on loading; see `identity`."""
    _as_loaded: AsLoaded = field(default=None, repr=False, compare=False)  # pyright: ignore[reportAssignmentType] (filled in)
    _hashes: dict[Weights, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note how the module is, unless that is known from before."""
        if self._as_loaded is None:
            object.__setattr__(self, "_as_loaded", AsLoaded.of(self.module))

    @property
    def device(self) -> torch.device:
        """Where the model runs: where its first layer's weights lie, unless it is offloaded."""
        return self.parts.like.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.parts.like.dtype

    def check(self, weights: Weights | Literal["any"] = "any", *, hooks: bool = True) -> None:
        """Whether the module is still as it was loaded, so far as that can be seen without running it.

        Args:
            weights: a `weights_state` that it must still have.
            hooks: whether new forward hooks are refused.

        Raises:
            InputError: it is in training mode, has a forward hook that it had not, or its weights are other tensors;
                those that were changed in place, as `load_state_dict` does, are others only if `weights` are given. Or
                autocast is on.
        """
        check_autocast(self.device)
        self._as_loaded.check(self.module, offloaded=self.parts.offloaded, hooks=hooks)
        if weights != "any" and weights != self.weights_state:
            raise InputError("engine: its model's weights have been changed since it was made; make a new one")

    @property
    def weights_state(self) -> Weights:
        """Differs once weights have been changed in place. Those of offloaded layers are taken to be as in their files,
        for they come and go.
        """
        return () if self.parts.offloaded else weights_of(self.module)

    @property
    def identity(self) -> dict[str, str]:
        """What a saved circuit says of the model: id, revision, hash of the weights as they are now, type, note."""
        return {
            "id": self.source.get("id", type(self.module).__name__),
            "revision": self.source.get("revision", ""),
            "weights_hash": self._weights_hash(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "note": self.source.get("note", ""),
        }

    def routed(self, routing: Routing) -> "Model":
        """The same, where it has experts with their routing `frozen`, a constant of the backward, or `differentiated`;
        its note says so.

        Raises:
            InputError: it has experts and is offloaded.
        """
        if all(layer.mlp.routing is None for layer in self.parts.stored):
            return self
        if self.parts.offloaded:  # others would swap the same modules' weights beside these, unaware of one another
            raise InputError(f"routing={routing!r}: the model's layers are offloaded; say it where the model is loaded")
        layers = tuple(
            replace(own, mlp=replace(own.mlp, routing=own.mlp.routing and routing)) for own in self.parts.layers
        )
        other = self.source.get("note", "").split("routing ")[0].removesuffix(", ")
        note = ", ".join(filter(None, (other, f"routing {routing}")))
        return replace(self, parts=replace(self.parts, layers=layers), source=self.source | {"note": note})

    def _weights_hash(self) -> str:
        """Of the weights as they are run: the same whether they are offloaded or not. Made anew where they changed."""
        state, offloaded = self.weights_state, self.parts.offloaded
        known = self.source.get("weights_hash") if offloaded or state == self._as_loaded.weights else None
        if (known := known or self._hashes.get(state)) is not None:
            return known
        self._hashes.clear()
        self._hashes[state] = weights_hash(self.module, self.dtype if offloaded else None)
        return self._hashes[state]

    def graph(
        self,
        embeddings: Embeddings = "joint",
        kv: KeyValue = "physical",
        spans: Sequence[str] = (),
        features: Mapping[int, Sequence[int]] | None = None,
        neurons: Mapping[int, Sequence[int | Sequence[int]]] | None = None,
        *,
        cross_layer: Mapping[int, Sequence[int]] | None = None,
        error: ErrorPolicy = "scored",
    ) -> Graph:
        """The model's graph under a convention (see `GraphSpec`).

        With `spans`, such as a task's `span_names`, edges carry positions: each position group has all for itself. With
        `features`, by layer, those features of the layer's transcoder and an error term stand in the MLP's place. With
        `neurons`, by layer, those neurons, or groups of them, do, and the rest of the layer's neurons together.
        `cross_layer` says to which later layers features write too (`edgewise.transcoders.cross_layer` of theirs), and
        `error` what becomes of error terms.

        Raises:
            InputError: `split` embeddings on a model whose only embedding is that of the tokens; or features, neurons,
                layers or errors that do not go together.
        """
        parts = self.parts
        if embeddings == "split" and parts.n_embeddings == 1:
            raise InputError(
                f"embeddings='split': {self.family} models have no position embedding to split off; use 'joint'"
            )
        sizes = len(parts.layers), parts.n_heads, parts.n_kv_heads
        chosen, cross = (
            tuple((layer, tuple(each)) for layer, each in (given or {}).items()) for given in (features, cross_layer)
        )
        apart = tuple((layer, tuple(map(_group, each))) for layer, each in (neurons or {}).items())
        coupled = any(layer.attention.coupled for layer in parts.stored)
        spec = GraphSpec(*sizes, embeddings, kv, parts.parallel, tuple(spans), chosen, coupled, apart, cross, error)
        return Graph(spec)


def _group(neurons: int | Sequence[int]) -> tuple[int, ...]:
    return (index(neurons),) if hasattr(neurons, "__index__") else tuple(neurons)  # pyright: ignore[reportArgumentType]


def load(
    model: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    routing: Routing = "frozen",
    offload: Offload | None = None,
) -> Model:
    """Load a model without checking it (see `edgewise.load_model`, which also checks)."""
    if offload is None:
        return _load(model, tokenizer, dtype, device, revision).routed(routing)
    if isinstance(model, nn.Module) or find_compiled(model) is not None:
        raise InputError(f"offload={offload!r}: it is for models that are loaded from a folder or the hub")
    place = usable_device(device or "cpu")
    return _offloaded(_load(model, tokenizer, None, None, revision).routed(routing), routing, offload, place, dtype)


def _offloaded(
    loaded: Model, routing: Routing, offload: Offload, device: torch.device, dtype: torch.dtype | None
) -> Model:
    def find_parts(module: Any) -> Parts:
        return wrap(module, loaded.tokenizer, loaded.source).routed(routing).parts

    if dtype not in (None, loaded.dtype):
        _check_buffers(loaded, dtype)
    parts = offloaded(loaded.module, find_parts, offload, device, dtype)
    # Not `replace`: the hooks that bring layers are there from now on.
    return Model(loaded.module, loaded.tokenizer, loaded.family, parts, loaded.source)


def _load(model: str | Path | nn.Module, tokenizer: Any, dtype: Any, device: Any, revision: str | None) -> Model:
    usable_device(device)
    if tokenizer is not None and not callable(tokenizer):
        raise InputError(
            f"tokenizer: a {type(tokenizer).__name__} is no tokenizer; pass one loaded with transformers.AutoTokenizer"
        )
    if isinstance(model, nn.Module):
        if dtype is not None or device is not None or revision is not None:
            raise InputError("model: dtype, device and revision are for models that are loaded; convert yours yourself")
        check_places(model)
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        return wrap(model, tokenizer, {"id": name})
    _check_revision(model, revision)
    if str(model) in DEFAULT_MODELS:
        module, own_tokenizer, source = load_default(str(model))
        module.to(device)
        for parameter in module.parameters():  # buffers keep their type, as rotary frequencies must
            parameter.data = parameter.data.to(dtype)
        return wrap(module, tokenizer or own_tokenizer, source)
    if (path := find_compiled(model)) is not None:
        module = load_compiled(path).to(device=device, dtype=dtype)
        return wrap(module, tokenizer or ProgramTokenizer(module.program), {"id": str(model)})
    folder, source = _place(model)
    loaded = _from_pretrained(folder, tokenizer, dtype, device, revision)
    return replace(loaded, source=loaded.source | source)


def _check_revision(model: str | Path, revision: str | None) -> None:
    """Refuse a revision of what has none: it would be passed over, or recorded as if it had been looked at."""
    if revision is not None and (
        str(model) in DEFAULT_MODELS or find_compiled(model) is not None or local_path(str(model)) is not None
    ):
        raise InputError(f"model {str(model)!r}: revision={revision!r} is for models of the hub; leave it out")


def _place(model: str | Path) -> tuple[str, dict[str, str]]:
    """What to load, the converted folder for a GGUF file, and what identifies such a file."""
    if Path(model).suffix.lower() != ".gguf":
        return str(model), {}
    folder, source = gguf_folder(user_path(model))
    return str(folder), {"id": str(model)} | source


def _check_buffers(loaded: Model, dtype: torch.dtype) -> None:
    """Refuse a change of type where the module computes numbers of its own in the type that it is made in."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(loaded.module.config, dtype=dtype, trust_remote_code=False)
    made = {name: x.dtype for name, x in twin.named_buffers()}
    if changed := [name for name, x in loaded.module.named_buffers() if made.get(name, x.dtype) != x.dtype]:
        raise InputError(
            f"offload: {changed[0]} is computed in the type of the weights, {loaded.dtype}; leave dtype out, or save "
            f"the model in {dtype}"
        )


def load_tokenizer(model: str | Path, *, revision: str | None = None) -> Any:
    """A model's tokenizer alone, without its weights.

    Raises:
        InputError: it cannot be loaded, or a revision is given for a model that is not of the hub.
    """
    _check_revision(model, revision)
    if str(model) in DEFAULT_MODELS:
        return load_default_tokenizer(str(model))
    from transformers import AutoTokenizer

    folder, _ = _place(model)
    with refusing(f"model {str(model)!r}: its tokenizer could not be loaded", _MODELS):
        place = reached(folder, revision)
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, revision=revision)


def longest_prompt(model: str | Path, *, revision: str | None = None) -> int | None:
    """How many tokens a model's prompts may have, as `Parts.n_positions`, without loading it; None for no limit."""
    if str(model) in DEFAULT_MODELS or find_compiled(model) is not None:
        return None
    folder, _ = _place(model)
    _, config = configuration(
        f"model {str(model)!r}", "its configuration could not be loaded", folder, _MODELS, revision
    )
    return getattr(config, "n_positions", None) or before_scaling(config)


def from_config(path: str | Path, dtype: torch.dtype = torch.float32) -> Model:
    """A model of the sizes that a `config.json` gives, without weights (on PyTorch's meta device): for planning.

    Raises:
        InputError: there is no such file, it is no configuration, or its family is not supported.
    """
    from transformers import AutoModelForCausalLM

    path = user_path(path)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"config {str(path)!r}: no such file; give a model's config.json")
    advice = "a model's config.json, with its model_type"
    _, config = configuration(f"config {str(path)!r}", "not a configuration of a language model", str(path), advice)
    with refusing(f"config {str(path)!r}: not a configuration of a language model", advice), torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return wrap(module.eval(), None, {"id": str(path)})


def supported() -> list[str]:
    """The `model_type`s of the families that are supported, and our own module."""
    return [*sorted(_FAMILIES), "PlainTransformer"]


def wrap(module: nn.Module, tokenizer: Any, source: dict[str, str]) -> Model:
    """Find the parts of a module in memory.

    Raises:
        InputError: the family is not supported, or the tokenizer has more tokens than the model.
    """
    check_training(module)
    config: Any = getattr(module, "config", None)
    if isinstance(module, _plain.PlainTransformer):
        _check_tokenizer(tokenizer, config.vocab_size)
        return Model(module, tokenizer, "plain", _plain.parts(module), source)
    kind = getattr(config, "model_type", None) or type(module).__name__
    if any(type(part).__module__.split(".")[0] == "peft" for part in module.modules()):
        raise InputError(
            "model: it has a PEFT adapter, which is no part of a family; merge it first: model.merge_and_unload()"
        )
    if getattr(module, "is_quantized", False):  # transformers' own word for it
        raise InputError("model: its weights are quantised, and their matrices are read as they are; load it without")
    if kind not in _FAMILIES:
        raise InputError(
            f"model: family {kind!r} is not supported; supported are {', '.join(supported())}, and those that a "
            "--plugin file registers"
        )
    if getattr(module, "get_output_embeddings", lambda: module)() is None:  # transformers' own word for it
        raise InputError(
            f"model: {type(module).__name__} has no language-modelling head; load it with AutoModelForCausalLM, "
            "or let your own class's get_output_embeddings() give its unembedding"
        )
    _check_tokenizer(tokenizer, config.vocab_size)
    family, find_parts = _FAMILIES[kind]
    parts = find_parts(module)
    return Model(module, tokenizer, family, parts, source)


def _check_tokenizer(tokenizer: Any, n_tokens: int) -> None:
    # Added tokens may be more than the model has, such as a [PAD] that stands in no prompt.
    size = 0 if tokenizer is None else min(len(tokenizer), getattr(tokenizer, "vocab_size", len(tokenizer)))
    if size > n_tokens:
        raise InputError(
            f"tokenizer: it has {size} tokens and the model {n_tokens}; "
            "pass the tokenizer that the model was trained with"
        )


def _from_pretrained(name: str, tokenizer: Any, dtype: torch.dtype | None, device: Any, revision: str | None) -> Model:
    # Imported here: transformers takes seconds to import, and graphs, circuits and pictures do without it.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (path := local_path(name)) is not None and not (path / "config.json").is_file():
        adapter = (
            "a PEFT adapter alone" if (path / "adapter_config.json").is_file() else "no directory with a config.json"
        )
        raise InputError(f"model {name!r}: {adapter} there; give a directory written by save_pretrained")
    place, _ = configuration(f"model {name!r}", "could not be loaded", name, _MODELS, revision)
    choices: dict[str, Any] = {"trust_remote_code": False, "revision": revision}
    with refusing(f"model {name!r}: could not be loaded", _MODELS):
        choices |= {"dtype": dtype or "auto", "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(place, **choices)
        module, info = loaded
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(place, trust_remote_code=False, revision=revision)
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"model {name!r}: its files lack weights ({', '.join(missing[:3])}{more}), which would be random; "
            "save it again, whole and under the module's own names"
        )
    source = {"id": name, "revision": str(getattr(module.config, "_commit_hash", None) or revision or "")}
    return wrap(module.eval().to(device), tokenizer, source)
