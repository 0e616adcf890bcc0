"""Rules that say where features are on, against a plain count."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.transcoders import Site, TokenRows, capture, score_rules, transcoder_record
from tests.tiny import ends, refused, tiny
from tests.transcoders.test_replacement import for_model
from tests.transcoders.toys import text

ROWS = text(40)


class Tokenizer:
    """Each token is a word; special ones are left out."""

    def decode(self, ids, *, skip_special_tokens=True, clean_up_tokenization_spaces=False):
        assert skip_special_tokens and not clean_up_tokenization_spaces
        return "".join(f" t{i}\n" for i in ids)

    def convert_ids_to_tokens(self, i):
        return f"t{i}"


@pytest.fixture(scope="module")
def given():
    model = replace(tiny("gpt2"), tokenizer=Tokenizer())
    transcoder = for_model(model, 1, activation="relu")
    x = capture(model, [Site("mlp_in", 1)], ROWS.ids)[Site("mlp_in", 1)][:, 1:]
    return model, transcoder, transcoder.encode(x).detach()  # (R, S-1, F)


def prefixes():
    return [["".join(f" t{i}\n" for i in row[: n + 1]) for n in range(1, len(row))] for row in ROWS.ids.tolist()]


def test_one_row_has_no_interval(given):
    model, transcoder, z = given
    feature = int(((z[0] > 0).double().mean(0) - 0.5).abs().argmin())
    rule = {f"m1.f{feature}": "t[0-9]*[02468]\n"}
    (score,) = score_rules(model, [transcoder], rule, replace(ROWS, ids=ROWS.ids[:1])).scores
    assert score.balanced is not None and 0 < score.balanced.value < 1
    assert score.balanced[1:] == (None, None)


def test_counts_and_rates(given):
    model, transcoder, z = given
    feature = int(((z > 0).double().mean((0, 1)) - 0.3).abs().argmin())
    words = {f" t{i}\n" for i in range(0, 50, 2)}
    rule = f"({'|'.join(sorted(words))})"
    named = np.array([[any(text.endswith(w) for w in words) for text in row] for row in prefixes()])
    found = score_rules(model, [transcoder], {f"m1.f{feature}": rule}, ROWS)
    (score,) = found.scores
    on = (z > 0).numpy()
    own = on[..., feature]
    assert found.tokens == own.size and (score.on, score.named, score.both) == (
        own.sum(),
        named.sum(),
        (own & named).sum(),
    )
    often = [i for i in range(z.shape[-1]) if i != feature and min(on[..., i].sum(), (~on[..., i]).sum()) >= 10]
    balanced = {i: (named[f].mean() + (~named[~f]).mean()) / 2 for i in [feature, *often] for f in [on[..., i]]}
    assert score.balanced is not None and score.others is not None and score.n_others == len(often) > 2
    assert score.balanced.value == pytest.approx(balanced[feature])
    assert score.others.value == pytest.approx(np.median([balanced[i] for i in often]))
    assert score.better == sum(balanced[i] > balanced[feature] for i in often)
    worst = min(often, key=lambda i: balanced[i])
    (other,) = score_rules(model, [transcoder], {f"m1.f{worst}": rule}, ROWS).scores
    tried = [i for i in {feature, *often} if i != worst and min(on[..., i].sum(), (~on[..., i]).sum()) >= 10]
    better = sorted((i for i in tried if balanced[i] > balanced[worst]), key=lambda i: -balanced[i])[:10]
    assert len(better) > 2 and [each.feature for each in other.best] == [f"m1.f{i}" for i in better]
    assert [each.balanced for each in other.best] == pytest.approx([balanced[i] for i in better])
    assert score.missed == score.named_wrongly == (), "not asked for"
    assert score.recall is not None and score.recall.value == pytest.approx(named[own].mean())
    assert score.precision is not None and score.precision.value == pytest.approx(own[named].mean())
    total = z[..., feature].sum()
    assert score.activation == pytest.approx(float(z[..., feature][torch.from_numpy(named)].sum() / total))
    for rate in (score.balanced, score.recall, score.precision):
        low, high = ends(rate)
        assert low < rate.value < high
    (again,) = score_rules(model, [transcoder], {f"m1.f{feature}": rule}, TokenRows(ROWS.ids.flip(0))).scores
    assert again.both == score.both and again.balanced is not None and again.balanced[0] == score.balanced[0]


def test_where_a_rule_is_wrong(given):
    model, transcoder, z = given
    feature = int(((z > 0).double().mean((0, 1)) - 0.3).abs().argmin())
    rule = {f"m1.f{feature}": f"({'|'.join(f' t{i}{chr(10)}' for i in range(0, 50, 2))})"}
    ids, own = ROWS.ids[:, 1:], z[..., feature]
    on, named = own > 0, ids % 2 == 0
    (found,) = score_rules(model, [transcoder], rule, ROWS, misses=4).scores
    (every,) = score_rules(model, [transcoder], rule, ROWS, misses=1000).scores
    (plain,) = score_rules(model, [transcoder], rule, ROWS).scores
    for few, lists, among, wrong in (
        (found.missed, every.missed, on, on & ~named),
        (found.named_wrongly, every.named_wrongly, named, named & ~on),
    ):
        counts = {f" t{i}\n": int((wrong & (ids == i)).sum()) for i in ids[wrong].tolist()}
        assert few == lists[:4] and {each.token: each.wrong for each in lists} == counts
        assert [each.wrong for each in lists] == sorted(counts.values(), reverse=True)
        for each in lists:
            number = int(each.token[2:])
            assert each.of == int((among & (ids == number)).sum())
            assert len(each.examples) == min(3, each.wrong) == len(set(each.examples))
            at = wrong & (ids == number)
            texts = [
                ("".join(f" t{i}\n" for i in row[max(0, n - 20) : n]), "".join(f" t{i}\n" for i in row[n + 1 : n + 6]))
                for row, here in zip(ROWS.ids.tolist(), at.tolist(), strict=True)
                for n in (m + 1 for m, wrong_here in enumerate(here) if wrong_here)
            ]
            assert {(example.before, example.after) for example in each.examples} <= set(texts)
            values = [example.activation for example in each.examples]
            strongest = own[at].sort(descending=True).values[:3].tolist()
            assert values == pytest.approx(strongest), "the strongest of those missed; of the others all are 0"
    assert replace(every, missed=(), named_wrongly=()) == plain


def test_a_rule_sees_the_text_before_a_token_and_not_after_it(given):
    model, transcoder, z = given
    on = (z > 0).numpy()
    names = [i for i in range(z.shape[-1]) if on[..., i].any() and not on[..., i].all()][:5]
    own = on[..., names[0]]
    exact = "|".join(re.escape(t) for row, each in zip(prefixes(), own, strict=True) for t in np.array(row)[each])
    rules = (rf"\A({exact})", "", "nowhere", r"(?s).", r"\n(?= t)")
    rules = {f"m1.f{i}": rule for i, rule in zip(names, rules, strict=True)}
    found = score_rules(model, [transcoder], rules, ROWS)
    assert found.conditions["transcoders"] == [transcoder_record(transcoder)]
    perfect, every, none, other, after = found.scores
    assert perfect.balanced == perfect.precision == perfect.recall == (1, 1, 1) and perfect.better == 0
    assert perfect.activation == 1
    assert every.named == other.named == own.size and every.balanced == (0.5, 0.5, 0.5)
    assert none.named == after.named == 0 and none.precision is None and none.activation == 0


def test_a_feature_that_is_never_on_or_always_is_not_judged(given):
    model, _, _ = given
    transcoder = for_model(model, 1, activation="relu")
    with torch.no_grad():
        transcoder.b_enc[2:4] = torch.tensor([-1e3, 1e3])
    never, always = score_rules(model, [transcoder], {"m1.f2": "t1", "m1.f3": "t1"}, ROWS).scores
    assert never.on == 0 and never.balanced is None and never.recall is None and never.activation is None
    assert always.on and always.balanced is None and always.recall is not None
    assert never.n_others == always.n_others and never.others == always.others


def test_what_is_refused(given):
    model, transcoder, _ = given
    assert "no rules" in refused(lambda: score_rules(model, [transcoder], {}, ROWS))
    wrong = {"m1.f99999": "no such feature", "m0.f1": "no such feature", "days": "no such feature"}
    for name, said in wrong.items():
        assert said in refused(lambda name=name: score_rules(model, [transcoder], {name: "a"}, ROWS))
    assert "no regular expression" in refused(lambda: score_rules(model, [transcoder], {"m1.f1": "(a"}, ROWS))
    both = [transcoder, transcoder]
    assert "of one layer" in refused(lambda: score_rules(model, both, {"m1.f1": "a"}, ROWS))
    dumb = replace(model, tokenizer=None)
    assert "no tokenizer" in refused(lambda: score_rules(dumb, [transcoder], {"m1.f1": "a"}, ROWS))
