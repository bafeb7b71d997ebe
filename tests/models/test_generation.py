"""Generation: cached equals uncached, rows stand alone, and samplers do what their papers say."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from backend.config.kinds import KINDS, POSITIONS, problems
from backend.config.schema import PRESETS, ModelConfig
from backend.models.generation import (
    Row,
    Sampling,
    choose,
    complete,
    draw,
    forbid,
    generate,
    min_p,
    room,
    top_k,
    top_p,
)
from backend.models.gpt import GPT
from tests.models.conftest import slide

EOT, BLOCK, V = 49, 16, 50
MODERN = PRESETS["modern"] | {"bigram": 64}
CASES = {
    f"{kind} {position}": dict(attn_type=kind.replace("poly", "poly-4"), position=position)
    for kind in KINDS
    for position in POSITIONS
    if not [*problems(kind.replace("poly", "poly-4"), None, position)]
} | {
    "GK norm": dict(attn_type="GK", attn_scale="norm", position="alibi"),
    "uncached": dict(attn_type="GK", attn_scale="T"),
    "modern": MODERN,
    "modern, uncached": MODERN | dict(attn_type="PA_sigmoid", attn_scale="T"),
    "all pairs": dict(bigram=10_000, qk_norm=True, position="alibi", n_head=3, n_embd=24),
}


def decided(**changes):
    """A model of this kind whose every part matters."""
    shape = dict(block_size=BLOCK, n_layer=2, n_head=4, n_embd=32) | changes
    torch.manual_seed(0)
    model = GPT(ModelConfig(**shape), V).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model


@torch.no_grad()
def reference(model, prompt, n, *, keep=0, seed=0, temperature=0.9, said=None, refused=None):
    """The whole context for every token, by the rule, with nothing kept between them.

    said: {number of tokens drawn: tokens put behind it}; refused: at these numbers the last two
    tokens are taken back, once, and the first of them is not drawn there again."""
    said, refused = dict(said or {}), set(refused or ())
    context, found, draws, forbidden = list(prompt), [], random.Random(seed), {}
    while len(found) < n:
        context = slide(context, keep, model.config.block_size)
        logits = model(torch.tensor([context]))[0][0, -1]
        if len(found) in forbidden:
            logits[forbidden[len(found)]] = -torch.inf
        if temperature:
            mass = (logits / temperature).double().softmax(0).cumsum(0)
            token = int(torch.searchsorted(mass, draws.random() * mass[-1].item(), right=True))
        else:
            token = logits.argmax().item()
        found.append(token)
        context = [*context, token]
        if len(found) in refused:
            refused.remove(len(found))
            forbidden = {len(found) - 2: found[-2]}
            del found[-2:], context[-2:]
        elif len(found) in said:
            context += said.pop(len(found))
    return found


def prompts(*lengths):
    draws = random.Random(7)
    return [[draws.randrange(EOT) for _ in range(n)] for n in lengths]


@pytest.mark.parametrize("settings_", CASES.values(), ids=CASES)
def test_rows_of_all_lengths_write_together_what_each_writes_alone_without_a_cache(settings_):
    # past the window, and more rows than places: those that come late take the places of others
    model = decided(**settings_)
    assert model.cacheable != (settings_.get("attn_scale") == "T")
    rows = [
        Row(list(prompt), seed=i, left=25 + i, keep=2)
        for i, prompt in enumerate(prompts(1, 5, 5, BLOCK, 40))
    ]
    expected = [reference(model, row.ids, row.left, keep=2, seed=row.seed) for row in rows]
    got = {id(row): [] for row in rows}
    for row, token in generate(model, rows, Sampling(temperature=0.9), at_once=3):
        got[id(row)].append(token)
        assert row.ids[-1] == token  # as they come
    assert [*got.values()] == expected
    assert all(len(set(ids)) > 5 for ids in expected)  # one token alone any cache would give


@pytest.mark.parametrize("name", ["SM learned", "SM rotary", "SM alibi", "GK learned", "modern"])
def test_what_a_reader_says_and_takes_back_is_as_if_it_had_been_so(name):
    model = decided(**CASES[name])
    said, refused = {4: [1, 2, 3], 11: [9], 20: [8, 7]}, {3, 9, 15, 22}
    rows = [Row(list(p), seed=i, left=30, keep=1) for i, p in enumerate(prompts(3, 9, 3))]
    how = dict(keep=1, said=said, refused=refused)
    expected = [reference(model, row.ids, 30, seed=row.seed, **how) for row in rows]
    got = {id(row): [] for row in rows}
    left = {id(row): (dict(said), set(refused)) for row in rows}
    for row, token in generate(model, rows, Sampling(temperature=0.9)):
        found, (to_say, to_refuse) = got[id(row)], left[id(row)]
        found.append(token)
        if len(found) in to_refuse:
            to_refuse.remove(len(found))
            row.take_back(2)
            row.forbidden.setdefault(len(row.ids), set()).add(found[-2])
            del found[-2:]
        elif len(found) in to_say:
            row.say(to_say.pop(len(found)))
    assert [*got.values()] == expected


def test_the_cache_widens_where_more_is_said_than_was_to_be_drawn():
    model = decided(position="rotary")
    row, found = Row([1], seed=3, left=5), []
    for _, token in generate(model, [row], Sampling(temperature=0.9)):
        found.append(token)
        if len(found) == 2:
            row.say([4, 5, 6, 7, 8])
    assert found == reference(model, [1], 5, seed=3, said={2: [4, 5, 6, 7, 8]})


def test_a_row_moves_up_in_a_cache_that_was_widened():
    model = decided(block_size=64)
    rows = [Row([3], seed=0, left=3), Row([4], seed=1, left=12), Row([5], seed=2, left=12)]
    alone = [Row([4], seed=1, left=12), Row([5], seed=2, left=12)]

    def said(rows, to):
        for row, _ in generate(model, rows, Sampling()):
            if row is to and row.left == 11:
                row.ids += range(6, 36)  # more than the cache was made for

    said(rows, rows[1])  # the first row ends, and the last one takes its place
    for one in alone:
        said([one], alone[0])
    assert [row.ids for row in rows[1:]] == [row.ids for row in alone]


def test_taking_back_more_than_the_window_holds_begins_a_new_one():
    model = decided()
    row = Row(prompts(12)[0], seed=1, left=40)
    for _ in generate(model, [row], Sampling()):
        if len(row.ids) == 40:
            row.take_back(30)
            break
    ids = list(row.ids)
    row.left = 6
    row.draws = random.Random(2)
    for _ in generate(model, [row], Sampling(temperature=0.9)):
        pass
    assert row.ids[len(ids) :] == reference(model, ids, 6, seed=2)


def test_rows_that_are_done_before_they_begin_are_left_alone():
    rows = [Row([1], seed=0, left=5), Row([1], seed=1, left=0), Row([1], seed=2, left=9)]
    rows[2].done = True
    assert {id(row) for row, _ in generate(decided(), rows, Sampling())} == {id(rows[0])}
    assert [len(row.ids) for row in rows] == [6, 1, 1]
    assert not [*generate(decided(), [], Sampling())]


def test_greedy_and_cached_is_greedy_and_uncached():
    model = decided()
    [(ids, finish)] = complete(
        model, [1, 2, 3], Sampling(temperature=0), eot=None, seeds=[0], max_new_tokens=60, keep=2
    )
    assert ids == reference(model, [1, 2, 3], 60, keep=2, temperature=0)
    assert finish == "length"


def test_a_header_that_fills_the_block_does_not_push_the_newest_tokens_out():
    row = Row([*range(17)], seed=0, left=1, keep=15)
    row.fit(BLOCK)
    assert row.context() == [0, 1, 2, 3, 13, 14, 15, 16]
    assert slide([*range(17)], 15, BLOCK) == row.context()


def test_rows_beyond_the_room_wait_and_a_large_model_takes_fewer(monkeypatch):
    model = decided()
    a_row = 2 * 2 * BLOCK * 32 * 4
    monkeypatch.setattr("backend.models.generation.ROOM", 3 * a_row)
    assert room(model) == 3
    monkeypatch.setattr("backend.models.generation.ROOM", 1)
    assert room(model) == 1


# --- ends ----------------------------------------------------------------------------------------


def likes(token, by):
    """A model that draws this token the more often, whatever the context."""
    model = decided(tied_head=False)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[token] = by / 32
    return model


def test_a_model_without_an_end_of_text_never_ends_by_itself():
    model = likes(EOT, 40)
    how = dict(seeds=[1, 2], max_new_tokens=50)
    assert complete(model, [1], Sampling(), eot=None, **how) == [([EOT] * 50, "length")] * 2
    assert complete(model, [1], Sampling(), eot=EOT, **how) == [([], "end")] * 2


def test_a_song_ends_at_the_end_of_text_and_says_so_and_the_others_go_on():
    model = likes(EOT, 1.0)
    how = dict(eot=EOT, max_new_tokens=60)
    together = complete(model, [1], Sampling(), seeds=range(20), **how)
    assert together == [complete(model, [1], Sampling(), seeds=[s], **how)[0] for s in range(20)]
    for ids, finish in together:
        assert EOT not in ids
        assert finish == ("length" if len(ids) == 60 else "end")
    assert len({len(ids) for ids, _ in together}) > 5


def test_generation_leaves_the_random_state_and_the_mode_alone():
    model = decided().train()
    before = torch.get_rng_state()
    complete(model, [1, 2], Sampling(top_k=5), eot=EOT, seeds=[9], max_new_tokens=10)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


# --- samplers ------------------------------------------------------------------------------------

LOGITS = st.lists(
    st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6), min_size=1, max_size=3
).map(torch.tensor)


def kept(logits):
    return logits > -torch.inf


@settings(deadline=None)
@given(LOGITS, st.integers(1, 8), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_top_k_top_p_and_min_p_keep_what_those_of_transformers_keep(logits, k, p, least):
    values, ids = top_k(logits, k)
    mine = torch.full_like(logits, -torch.inf).scatter(1, ids, values)
    theirs = TopKLogitsWarper(k)(None, logits.clone())
    ties = logits == logits.topk(min(k, 6)).values[:, -1:]  # theirs keep all that tie, ours k
    assert torch.equal(kept(mine) | ties, kept(theirs) | ties)
    assert (kept(mine).sum(1) == min(k, 6)).all()
    assert (ids.diff(dim=1) > 0).all()

    likely = logits.softmax(1)
    close = (likely.sort(descending=True).values.cumsum(1) - p).abs().min() < 1e-5
    if not close and all(len(set(row)) == 6 for row in likely.tolist()):
        assert torch.equal(kept(top_p(logits, p)), kept(TopPLogitsWarper(p)(None, logits.clone())))
    if ((likely - least * likely.amax(1, keepdim=True)).abs() > 1e-6).all():
        theirs = MinPLogitsWarper(least)(None, logits.clone())
        assert torch.equal(kept(min_p(logits, least)), kept(theirs))


def test_values_that_mean_nothing_is_left_out_leave_all_and_extreme_ones_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, -torch.inf]])
    for same in (top_k(logits, None)[0], top_k(logits, 99)[0], top_p(logits, 1), min_p(logits, 0)):
        assert torch.equal(same, logits)
    assert kept(top_p(logits, 0.0)).tolist() == [[False, True, False], [True, False, False]]
    assert kept(min_p(logits, 1.0)).tolist() == [[False, True, False], [True, True, False]]


def test_forbidden_ids_are_not_drawn_unless_nothing_else_is_left():
    logits = torch.tensor([1.0, 2.0, -torch.inf])
    assert kept(forbid(logits, [1])).tolist() == [True, False, False]
    assert torch.equal(forbid(logits, [0, 1]), logits)
    assert torch.equal(logits, torch.tensor([1.0, 2.0, -torch.inf]))


def row(**changes):
    return Row([0], seed=3, left=1, **changes)


def test_temperature_zero_takes_the_likeliest_tiny_ones_do_too_and_huge_ones_draw_all():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for temperature in (0.0, 1e-8, 1e-3):
        assert choose(logits, Sampling(temperature=temperature), [row()]) == [1]
    one = row()
    seen = {choose(logits, Sampling(temperature=1e30), [one])[0] for _ in range(60)}
    assert seen == {0, 1, 2}


def test_what_is_never_drawn_a_bias_and_what_is_forbidden_apply_to_their_rows_alone():
    logits = torch.zeros(3, 4)
    rows = [row(), row(bias=torch.tensor([0.0, 0, 9, 0])), row(forbidden={1: {1, 2}, 2: {0}})]
    how = Sampling(temperature=0, never=[0])
    assert choose(logits, how, rows) == [1, 2, 3]
    assert torch.equal(logits, torch.zeros(3, 4))


def test_drawing_follows_the_probabilities_and_never_takes_what_has_none():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.0, 0.1]])).expand(4000, 4)
    draws = random.Random(0)
    counts = draw(logits, [draws.random() for _ in range(4000)]).bincount(minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.7, 0.2, 0.0, 0.1], abs=0.03)
    ends = draw(logits[:2], [0.0, 1 - 2**-53])
    assert ends.tolist() == [0, 3]
