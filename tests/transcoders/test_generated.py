"""A model's own samples: the same at every call, from a cache or not, and as likely as the model says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgewise.transcoders import generated_tokens
from tests.tiny import VOCABULARY, refused, tiny


def model(bos: int | None = 3, eos: int | None = 4):
    return replace(tiny("gpt2", torch.float32), tokenizer=SimpleNamespace(bos_token_id=bos, eos_token_id=eos))


def test_the_same_tokens_at_every_call_and_more_of_them_when_more_are_asked_for(tmp_path):
    few, many = (generated_tokens(model(), n, context=8, cache=tmp_path) for n in (40 * 8, 70 * 8 + 3))
    assert few.ids.shape == (40, 8) and many.ids.shape == (70, 8) and torch.equal(few.ids, many.ids[:40])
    assert len(list(tmp_path.rglob("*.npy"))) == 3 and not list(tmp_path.rglob("*.tmp"))
    assert torch.equal(generated_tokens(model(), 70 * 8, context=8).ids, many.ids)
    assert many.source["sha256"] == many.digest and many.source["text"] == ["generated"]
    assert (many.ids[:, 0] == 3).all() and (generated_tokens(model(bos=None), 80, context=8).ids[:, 0] == 4).all()
    other = generated_tokens(model(), 40 * 8, context=8, seed=1, cache=tmp_path)
    assert not torch.equal(other.ids, few.ids) and len(list(tmp_path.rglob("*.npy"))) == 5


def test_tokens_are_as_frequent_as_they_are_likely():
    given = model()
    drawn = generated_tokens(given, 2 * 2048, context=2).ids[:, 1]
    with torch.no_grad():
        p = given.module(input_ids=torch.tensor([[3]])).logits[0, -1].double().softmax(-1).numpy()
    counts = np.bincount(drawn, minlength=VOCABULARY)
    expected = p * len(drawn)
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 2 * VOCABULARY  # chi squared: about as many as there are tokens


def test_a_later_token_sees_those_before_it():
    given, n = model(), 1024
    ids = generated_tokens(given, 3 * n, context=3).ids
    with torch.no_grad():
        p = given.module(input_ids=ids[:, :2]).logits[:, -1].double().softmax(-1)
    likely = p.gather(1, ids[:, 2:]).log().mean()
    entropy, spread = (p * p.log()).sum(1).mean(), p.log().std()
    assert float((likely - entropy).abs()) < 5 * float(spread) / n**0.5


def test_what_is_refused(tmp_path):
    assert "no BOS and no EOS" in refused(lambda: generated_tokens(model(None, None), 80, context=8))
    assert "no BOS and no EOS" in refused(lambda: generated_tokens(replace(model(), tokenizer=None), 80, context=8))
    of_a_program = replace(model(), tokenizer=SimpleNamespace())  # it has neither attribute
    assert "no BOS and no EOS" in refused(lambda: generated_tokens(of_a_program, 80, context=8))
    assert "less than one row" in refused(lambda: generated_tokens(model(), 7, context=8))
    assert "positions" in refused(lambda: generated_tokens(model(), 10**6, context=10**5))
    generated_tokens(model(), 80, context=8, cache=tmp_path)
    (path,) = tmp_path.rglob("*.npy")
    for content in (b"nothing", path.read_bytes()[:-9]):
        path.write_bytes(content)
        assert "remove it" in refused(lambda: generated_tokens(model(), 80, context=8, cache=tmp_path))
    np.save(path, np.zeros((2, 8)))
    assert "is not 32 rows" in refused(lambda: generated_tokens(model(), 80, context=8, cache=tmp_path))


@pytest.mark.parametrize("name", ["llama-gqa", "qwen2-window"])
def test_other_families_sample_too(name):
    given = replace(tiny(name, torch.float32), tokenizer=SimpleNamespace(bos_token_id=3, eos_token_id=4))
    ids = generated_tokens(given, 3 * 512, context=3).ids
    with torch.no_grad():
        p = given.module(input_ids=ids[:, :2]).logits[:, -1].double().softmax(-1)
    likely, entropy = p.gather(1, ids[:, 2:]).log().mean(), (p * p.log()).sum(1).mean()
    assert float((likely - entropy).abs()) < 5 * float(p.log().std()) / 512**0.5
