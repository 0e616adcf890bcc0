"""Our own shape: causal or not, with padding, up to its last position."""

import pytest
import torch

from edgewise._errors import InputError
from edgewise.models import PlainConfig, PlainTransformer, Tokens
from tests.engines import assert_close


def test_a_plain_transformer_is_a_model():
    model = PlainTransformer(PlainConfig(5, 4, 1, 2, d_model=8, d_head=3, d_mlp=6, d_out=2)).eval()
    ids = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    logits = model(ids).logits
    assert logits.shape == (2, 4, 2)
    assert torch.equal(model(ids, torch.ones(2, 4), torch.arange(4).expand(2, -1)).logits, logits)
    # Causal: what comes later does not matter. Padding does not either.
    longer = model(torch.tensor([[1, 2]])).logits
    assert_close(longer[0].double(), logits[0, :2].double(), 1e-6)
    padded = model(ids, torch.tensor([[1, 1, 0, 0]] * 2)).logits
    assert_close(padded[:, :2].double(), logits[:, :2].double(), 1e-6)


def test_a_bidirectional_one_sees_what_comes_later_but_no_padding():
    model = PlainTransformer(PlainConfig(5, 4, 1, 2, d_model=8, d_head=3, d_mlp=6, causal=False)).eval()
    alone, padded = (
        model(torch.tensor([[1, 2]])).logits,
        model(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]])).logits,
    )
    assert_close(padded[:, :2].double(), alone.double(), 1e-6)
    assert (model(torch.tensor([[1, 2, 3]])).logits[:, :2] - alone).abs().max() > 1e-4


def test_a_plain_transformer_refuses_prompts_that_are_too_long():
    model = PlainTransformer(PlainConfig(5, 4, 1, 2, d_model=8, d_head=3, d_mlp=6)).eval()
    with pytest.raises(InputError, match="prompt of 5 tokens: the model has 4 positions"):
        model(torch.ones(1, 5, dtype=torch.long))


def test_tokens_are_a_pair():
    ids, mask = Tokens(torch.tensor([[1]]), torch.tensor([[True]]))
    assert ids.item() == 1 and mask.item()
