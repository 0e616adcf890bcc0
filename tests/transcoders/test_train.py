"""Training: it learns; it ends in the same bits whatever interrupts it, and in the same numbers on two processes."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from edgewise.models import Model
from edgewise.runs import CHECKPOINT, RunOptions
from edgewise.transcoders import Site, TokenRows, TranscoderLoss, capture
from edgewise.transcoders.formats import load
from edgewise.transcoders.training import TrainingConfig, train, write_cache
from edgewise.transcoders.training._train import TranscoderLearner
from tests.processes import killed_once_there_is, side_by_side
from tests.tiny import random_model, refused, tiny
from tests.transcoders.toys import ALL_KINDS, config, differing, learn, learn_in_double, text, weights, writing


class Killed(Exception):  # noqa: N818 (a kill is no error)
    """As a kill, but within this process."""


def stop(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException | None = None) -> None:
    own = TranscoderLearner.step

    def step(self: TranscoderLearner, number: int):
        if number == at:
            if error is None:
                signal.raise_signal(signal.SIGINT)
            else:
                raise error
        return own(self, number)

    monkeypatch.setattr(TranscoderLearner, "step", step)


@pytest.mark.parametrize("kind", ["transcoder", "autoencoder", "cross-layer"])
def test_it_learns(kind: str):
    for name, metrics in learn(kinds=(kind,), tokens=32 * 80, activations=("topk:8",)).metrics.items():
        assert metrics["explained"] > 0.5, name
        assert metrics["active"] == 8


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_processor_says_which_precision_is_faster(monkeypatch, has: bool, precision: str):
    named = {"avx2": True, "avx512_bf16": False, "amx_bf16": has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: named, raising=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    asked = TrainingConfig((0,))
    assert asked.precision == "auto" and asked.on(cpu).precision == precision and asked.on(gpu).precision == "bfloat16"
    assert TrainingConfig((0,), precision="float32").on(gpu).precision == "float32"
    trained = learn(precision="auto", tokens=32)
    assert trained.transcoders["layer0.transcoder.topk4"][0].provenance["method"]["precision"] == precision
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert asked.on(cpu).precision == precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["transcoder", "cross-layer"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, kind: str, precision: str):
    changes = {"kinds": (kind,), "activations": ALL_KINDS, "precision": precision, "skip": True, "sparsity_warmup": 8}
    whole = weights(learn(tmp_path / "whole", **changes))
    for at in (1, 7):
        out = tmp_path / str(at)
        with monkeypatch.context() as patch:
            stop(patch, at, Killed())
            with pytest.raises(Killed):
                learn(out, **changes)
        assert differing(weights(learn(out, **changes)), whole) == []
        checkpoints = (load_file(out / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT))
        assert differing(*checkpoints) == []


def test_a_process_that_is_really_killed_goes_on_to_the_same_bits(tmp_path):
    out = tmp_path / "killed"
    assert killed_once_there_is(out / CHECKPOINT, learn, out, tokens=32 * 30) == -signal.SIGKILL
    runs = [weights(learn(tmp_path / name, tokens=32 * 30)) for name in ("killed", "whole")]
    assert differing(*runs) == []


def test_an_interrupt_ends_the_run_after_the_step_and_keeps_everything(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, 5)
        cut = learn(tmp_path, seconds=1e9)
    assert cut.stopped == "interrupted after step 6" and cut.steps == 6
    again = learn(tmp_path)
    assert again.stopped is None and again.steps == 12 and again.metrics
    over = learn(tmp_path)
    assert (over.steps, over.metrics) == (12, {}) and differing(weights(over), weights(again)) == []
    assert differing(weights(again), weights(learn())) == []


def test_every_batch_topk_transcoder_learns_a_threshold_that_keeps_about_k():
    model, rows = tiny("gpt2", torch.float32), text(256)
    changes = {"kinds": ("cross-layer",), "activations": ("batch_topk:8",), "tokens": 32 * 300}
    (transcoders,) = learn(model=model, rows=rows, **changes).transcoders.values()
    assert transcoders[0].threshold != transcoders[1].threshold
    for transcoder in transcoders:
        (x,) = capture(model, [transcoder.spec.reads], rows.ids).values()
        active = (transcoder.encode(x.flatten(0, 1)) != 0).sum(1).float().mean()
        assert 6 < active < 10


def test_jobs_do_not_touch_each_other():
    together = weights(learn(layers=(0, 1), activations=ALL_KINDS[:2], kinds=("transcoder", "autoencoder")))
    alone = weights(learn(layers=(0,), activations=ALL_KINDS[:1]))
    assert differing(alone, {name: together[name] for name in alone}) == []


def test_a_cache_trains_to_the_models_own_bits(tmp_path):
    model, rows = tiny("gpt2", torch.float32), text()
    sites = [Site(kind, layer) for kind in ("mlp_in", "mlp_out") for layer in (0, 1)]
    cache = write_cache(model, rows, sites, tmp_path / "cache")
    trained = train(model, rows, config(), cache=cache, options=RunOptions(progress=False))
    assert differing(weights(trained), weights(learn())) == []
    assert "other tokens" in refused(lambda: train(model, text(seed=5), config(), cache=cache))
    other = random_model("gpt2", torch.float32, seed=5)
    assert "other weights" in refused(lambda: train(other, rows, config(), cache=cache))


def test_a_centred_output_is_refused_where_a_mean_is_read():
    assert "do not take the mean off" in refused(lambda: learn(model=tiny("llama-gqa", torch.float32), centred=True))
    assert learn(centred=True).steps == 12


def test_the_papers_recipe(monkeypatch):
    settings = TrainingConfig.paper((1,), features=64, tokens=32 * 20, batch_tokens=32, pool_tokens=160, lanes=4)
    trained = train(tiny("gpt2", torch.float32), text(), settings, options=RunOptions(progress=False))
    ((transcoder,),) = trained.transcoders.values()
    torch.testing.assert_close(transcoder.W_dec.norm(dim=1), torch.ones(64))
    assert transcoder.b_in is not None
    assert transcoder.spec.reads == Site("mlp_normalized", 1) and transcoder.spec.writes == (Site("mlp_out", 1, True),)


def test_a_step_at_unit_norm_turns_decoder_rows_and_does_not_stretch_them():
    learner = TranscoderLearner(tiny("gpt2", torch.float32), text(), config(unit_norm=True, clip=None))
    learner.begin()
    before = {name: t.W_dec.detach().clone() for name, (t,) in learner.transcoders.items()}
    learner.step(0)
    for name, (transcoder,) in learner.transcoders.items():
        assert transcoder.W_dec.grad is not None
        along = (transcoder.W_dec.grad * before[name]).sum(1)
        assert along.abs().max() < 1e-6 * transcoder.W_dec.grad.abs().max()
        torch.testing.assert_close(transcoder.W_dec.norm(dim=1), torch.ones(64))


@pytest.mark.parametrize("activation", ["topk:4", "relu@0.001", "jumprelu@0.001"])
def test_dead_features_come_back(activation: str):
    def share(auxiliary: float) -> float:
        objective = TranscoderLoss(auxiliary=auxiliary)
        changes = {"dead_after": 320, "tokens": 32 * 200, "unit_norm": True, "objective": objective}
        settings = config(layers=(1,), activations=(activation,), **changes)
        learner = TranscoderLearner(tiny("gpt2", torch.float32), text(), settings)
        learner.begin()
        ((transcoder,),) = learner.transcoders.values()
        with torch.no_grad():
            transcoder.b_enc[:32] = -6.0  # hardly a token reaches these
        for step in range(200):
            learner.step(step)
        ((silent,),) = learner.silent.values()
        return float((silent[:32] > 320).float().mean())

    assert share(1.0) < 0.8 * share(0.0)


def explained_at_the_start(model: Model, **changes) -> float:
    """The share of the variance that the very first batch finds explained, of layer 1's transcoder."""
    learner = TranscoderLearner(model, text(), config(layers=(1,), batch_tokens=128, pool_tokens=512, **changes))
    learner.begin()
    learner.step(0)
    ((_, metrics),) = learner.each().items()
    return metrics["explained"]


def test_a_skip_connection_starts_as_the_whole_of_what_is_linear():
    model, direction = tiny("gpt2", torch.float32), torch.randn(tiny("gpt2").parts.d_model)
    with writing(model, lambda x, out: out, lambda x, out: 3 * x.flip(-1) + direction.to(x)):
        assert explained_at_the_start(model, skip=True) > 0.99
        assert explained_at_the_start(model) < 0.5


@pytest.mark.parametrize("activation", ["topk:4", "batch_topk:4"])
@pytest.mark.parametrize("kind", ["transcoder", "autoencoder"])
def test_features_that_start_from_tokens_explain_something_before_they_have_learned(kind: str, activation: str):
    changes = {"kinds": (kind,), "activations": (activation,)}
    model = tiny("gpt2", torch.float32)
    assert explained_at_the_start(model, start="tokens", **changes) > explained_at_the_start(model, **changes) + 0.05


def test_a_few_tokens_of_enormous_outputs_do_not_spoil_the_start():
    model = tiny("gpt2", torch.float32)
    with writing(model, lambda x, out: out, lambda x, out: out * (1 + 1000 * (x[..., :1] > 1.5))):
        assert explained_at_the_start(model, start="tokens") > 0.1


def test_every_kind_trains_from_whichever_start(tmp_path):
    kinds = {"kinds": ("transcoder", "autoencoder", "cross-layer"), "activations": ALL_KINDS}
    for metrics in learn(start="tokens", schedule="triangle", tokens=32 * 20, **kinds).metrics.values():
        assert metrics["explained"] > 0


def test_what_is_not_finite_stops_the_run_before_it_spoils_anything(tmp_path, monkeypatch):
    model = random_model("gpt2", torch.float32)
    rows = text()
    learner = TranscoderLearner(model, rows, config())
    learner.begin()
    own = learner.stream.batch
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    monkeypatch.setattr(learner.stream, "batch", lambda step: {site: x * torch.nan for site, x in own(step).items()})
    from edgewise.runs import NotFiniteError

    with pytest.raises(NotFiniteError, match=r"layer0\.transcoder\.topk4: the loss is nan"):
        learner.step(0)
    assert differing(before, learner.tensors()) == []
    with torch.no_grad():
        next(model.module.parameters()).fill_(torch.nan)
    assert "layer 0 mlp_in: the model itself gives NaN" in refused(lambda: learn(tmp_path, model=model))
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_is_written_reads_back_and_says_where_it_is_from(tmp_path):
    trained = learn(tmp_path, kinds=("transcoder", "cross-layer"))
    for name, transcoders in trained.transcoders.items():
        for each in transcoders:
            layer = each.spec.reads.layer
            path = tmp_path / (f"{name}/layer{layer}.safetensors" if len(transcoders) > 1 else f"{name}.safetensors")
            again = load(path)
            assert differing(dict(again.state_dict()), dict(each.state_dict())) == [] and again.spec == each.spec
            assert again.provenance == json.loads(json.dumps(each.provenance))
            assert again.provenance["method"]["text"]["seed"] == 0 and again.provenance["job"] == name


def test_other_settings_or_another_model_are_refused(tmp_path):
    learn(tmp_path)
    assert "(learning_rate)" in refused(lambda: learn(tmp_path, learning_rate=1e-2))
    assert "(text)" in refused(lambda: learn(tmp_path, rows=text(seed=3)))
    assert "(text)" in refused(lambda: learn(tmp_path, rows=TokenRows(text().ids.flip(0), text().source)))
    assert "(model)" in refused(lambda: learn(tmp_path, model=random_model("gpt2", torch.float32, seed=3)))
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-50])
    assert "not a checkpoint" in refused(lambda: learn(tmp_path))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": ()}, "name at least one"),
        ({"layers": (1, 0)}, "in order"),
        ({"layers": (7,)}, "3 layers"),
        ({"activations": ("topk",)}, "topk:32"),
        ({"activations": ("relu",)}, "relu@1e-3"),
        ({"activations": ("topk:4@1",)}, "no sparsity coefficient"),
        ({"activations": ("relu@x",)}, "comes a number"),
        ({"activations": ("topk:4", "topk:4")}, "each once"),
        ({"activations": ("topk:65",)}, "only 64 features"),
        ({"kinds": ("transkoder",)}, "choose transcoder"),
        ({"tokens": 31}, "at least one batch"),
        ({"precision": "float16"}, "bfloat16 or float32"),
        ({"reads": "mlp_out"}, "must read an MLP's input"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"skip_rate": -1.0}, "at least 0"),
        ({"clip": -1.0}, "training: clip -1.0; give a number above 0"),
        ({"dead_after": -1}, "training: dead_after -1; give at least 0"),
        ({"objective": {"auxiliary_k": 0}}, "objective: auxiliary_k 0; give at least 1"),
        ({"objective": {"bandwidth": float("nan")}}, "bandwidth nan; give a number above 0"),
        ({"objective": 5}, "set its own fields"),
        ({"schedule": "cosine"}, "triangle"),
        ({"start": "neurons"}, "choose random or"),
        ({"start": "tokens", "unit_norm": True}, "without unit_norm"),
        ({"objective": {"normalization": "mean"}}, "choose none"),
    ],
)
def test_bad_settings_are_refused(changes, says: str):
    assert says in refused(lambda: learn(**changes))


def test_two_processes_give_the_result_of_one(tmp_path):
    learn_in_double(tmp_path / "one")
    side_by_side(2, learn_in_double, tmp_path / "two")
    one, two = (load_file(tmp_path / name / CHECKPOINT) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) > 40
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def test_training_starts_from_the_same_numbers_under_another_default_type():
    expected = weights(learn())
    torch.set_default_dtype(torch.float64)
    try:
        found = weights(learn())
    finally:
        torch.set_default_dtype(torch.float32)
    assert not differing(found, expected)
