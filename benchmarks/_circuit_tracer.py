"""circuit-tracer's part of `beside_circuit_tracer.py`, run by a Python that has it; edgewise is not needed there.

    PYTHON _circuit_tracer.py FOLDER MAX_NODES BATCH THREADS

The folder holds `model` (of transformers), `transcoders` (of circuit-tracer), `ids.json`, and `ours.pt`, a graph of the
same prompt, which is opened. `theirs.pt` is written.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from _measure import processor_seconds, rss_bytes, rss_now
from circuit_tracer.attribution.attribute import attribute  # pyright: ignore[reportMissingImports] (theirs)
from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph  # pyright: ignore[reportMissingImports] (theirs)
from circuit_tracer.replacement_model import ReplacementModel  # pyright: ignore[reportMissingImports] (theirs)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # pyright: ignore[reportMissingImports] (theirs)
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set  # pyright: ignore[reportMissingImports] (theirs)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens import loading_from_pretrained as loading  # pyright: ignore[reportMissingImports] (theirs)
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PACKAGES = ("circuit-tracer", "transformer-lens", "nnsight", "transformers", "torch", "numpy")


def transcoders(folder: Path) -> Any:
    """The set of a folder, per layer or cross-layer."""
    config, cpu = yaml.safe_load((folder / "config.yaml").read_text()), torch.device("cpu")
    hooks = {name: config[name] for name in ("feature_input_hook", "feature_output_hook")}
    whole: dict[str, Any] = {"lazy_encoder": False, "lazy_decoder": False, "dtype": torch.float32, "device": cpu}
    if config["model_kind"] == "cross_layer_transcoder":
        return load_clt(str(folder), scan="random", **hooks, **whole)
    files = sorted(folder.glob("layer_*.safetensors"), key=lambda file: int(file.stem.partition("_")[2]))
    return load_transcoder_set({i: str(file) for i, file in enumerate(files)}, scan="random", **hooks, **whole)


def replacement_model(folder: Path) -> Any:
    """The model through TransformerLens, which takes names of models that it knows; a folder's goes part by part."""
    path = str(folder / "model")
    own = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = loading.get_pretrained_model_config(path, fold_ln=False, device="cpu", dtype=torch.float32)
    words = {str(i): i for i in range(own.config.vocab_size)}
    known: dict[str, Any] = {"bos_token": "0", "eos_token": "0", "add_bos_token": True, "name_or_path": "numbers"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")), **known)
    model = ReplacementModel.from_config(config, transcoders(folder / "transcoders"), tokenizer=tokenizer)
    state = loading.get_pretrained_state_dict(path, config, own, dtype=torch.float32)
    wrapped = {name.replace(".mlp.", ".mlp.old_mlp."): x for name, x in state.items()}
    wrapped = {name.replace("unembed.", "unembed.old_unembed."): x for name, x in wrapped.items()}
    missing, unexpected = model.load_state_dict(wrapped, strict=False)
    buffers = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
    left = [name for name in missing if not name.startswith("transcoders.") and name.split(".")[-1] not in buffers]
    assert not unexpected and not left, (unexpected, left)
    return model


def judged(graph: Any) -> dict[str, Any]:
    """What circuit-tracer says of a graph."""
    replacement, completeness = compute_graph_scores(graph)
    kept = prune_graph(graph)
    return {
        "nodes": len(graph.adjacency_matrix),
        "replacement": replacement,
        "completeness": completeness,
        "kept_nodes": int(kept.node_mask.sum()),
    }


def main() -> None:
    """Attribute, write, open, and print JSON."""
    folder, max_nodes, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    model = replacement_model(folder)
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()))
    before = rss_now()
    took, graph = processor_seconds(
        lambda: attribute(ids, model, batch_size=batch, max_feature_nodes=max_nodes or None)
    )
    memory = {"before": before, "peak": rss_bytes()}
    graph.to_pt(str(folder / "theirs.pt"))
    opened = Graph.from_pt(str(folder / "ours.pt"))
    versions = {name: version(name) for name in PACKAGES}
    found = {"seconds": took, **memory, "versions": versions, "theirs": judged(graph), "ours": judged(opened)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
