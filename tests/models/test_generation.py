"""Generation: cached equals uncached, seeds stand alone, and the context slides as it says."""

import pytest
import torch

from backend.config.schema import PRESETS, ModelConfig
from backend.models.generation import complete, draw, forbid, slide, tokens, top_k
from backend.models.gpt import GPT

EOT = 49


def uncached(model, prompt, n, keep, temperature=0.0, seed=0):
    """Tokens by running the whole context each time, with the same sliding rule."""
    context, found = torch.tensor([prompt]), []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        if context.size(1) > model.config.block_size:
            context = slide(context, keep, model.config.block_size)
        logits = model(context)[0][0, -1]
        token = logits.argmax().item()
        if temperature:
            weights = (logits / temperature).softmax(0)
            token = torch.multinomial(weights, 1, generator=generator).item()
        found.append(token)
        context = torch.cat([context, torch.tensor([[token]])], dim=1)
    return found


@pytest.mark.parametrize("length", [1, 7, 32])
def test_cached_equals_uncached_past_the_context_window(model, length):
    prompt = torch.randint(49, (length,)).tolist()
    got = [
        ids.item()
        for ids in tokens(
            model, torch.tensor([prompt]), max_new_tokens=80, temperature=0, k=None,
            generators=[torch.Generator()], keep=3,
        )
    ]  # fmt: skip
    assert got == uncached(model, prompt, 80, keep=3)


MODERN = PRESETS["modern"] | {"bigram": 64}
KINDS = {
    "rotary": dict(position="rotary"),
    "alibi": dict(position="alibi"),
    "qk_norm": dict(qk_norm=True),
    "pairs": dict(bigram=10_000),  # one row for each
    "hashed pairs": dict(bigram=64),
    "modern": MODERN,
    "alibi, by blocks": dict(position="alibi", attn_type="GK", attn_scale="row"),
    "modern, by blocks": MODERN | dict(attn_type="GK"),
    "alibi and pairs": dict(position="alibi", bigram=64, qk_norm=True, n_head=3, n_embd=24),
}
UNCACHED = {
    "SM": dict(attn_type="GK", attn_scale="T"),
    "relu": dict(attn_type="PA_relu", attn_scale="T"),
    "modern": MODERN | dict(attn_type="PA_sigmoid", attn_scale="T"),
}


@pytest.fixture
def of_kind():
    """of_kind(settings): a model of this kind that is decided, no part of it zero."""

    def build(settings):
        shape = dict(block_size=32, n_layer=2, n_head=4, n_embd=32)
        torch.manual_seed(0)
        model = GPT(ModelConfig(**(shape | settings)), vocab_size=50).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.3)
        return model

    return build


def drawn(model, prompt, n, keep, temperature, seed=0):
    """Tokens as generation gives them."""
    steps = tokens(
        model, torch.tensor([prompt]), max_new_tokens=n, temperature=temperature, k=None,
        generators=[torch.Generator().manual_seed(seed)], keep=keep,
    )  # fmt: skip
    return [ids.item() for ids in steps]


@pytest.mark.parametrize("temperature", [0, 0.9])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_cached_equals_uncached_past_the_window_for_every_part(of_kind, settings, temperature):
    model = of_kind(settings)
    assert model.cacheable
    prompt = torch.randint(49, (7,)).tolist()
    got = drawn(model, prompt, 80, keep=3, temperature=temperature, seed=5)
    assert got == uncached(model, prompt, 80, keep=3, temperature=temperature, seed=5)
    assert len(set(got)) > (5 if temperature else 1)  # one token alone any cache would give


@pytest.mark.parametrize("temperature", [0, 0.9])
@pytest.mark.parametrize("settings", UNCACHED.values(), ids=UNCACHED)
def test_a_model_scaled_by_the_length_reads_its_whole_context_for_every_token(
    of_kind, settings, temperature
):
    model = of_kind(settings)
    assert not model.cacheable
    prompt = torch.randint(49, (7,)).tolist()
    got = drawn(model, prompt, 80, keep=3, temperature=temperature, seed=5)
    assert got == uncached(model, prompt, 80, keep=3, temperature=temperature, seed=5)
    assert len(set(got)) > (5 if temperature else 1)


@pytest.mark.parametrize("length", [1, 32, 90])
def test_any_length_of_prompt_will_do_for_a_modern_model(of_kind, length):
    model = of_kind(MODERN)
    prompt = torch.randint(49, (length,)).tolist()
    got = drawn(model, prompt, 50, keep=3, temperature=0.9)
    assert got == uncached(model, prompt, 50, keep=3, temperature=0.9)


@pytest.mark.parametrize("settings", [MODERN, UNCACHED["relu"]], ids=["modern", "uncached"])
def test_a_seed_of_a_modern_model_gives_the_same_song_alone_and_among_others(of_kind, settings):
    model = of_kind(settings)
    how = dict(eot=EOT, max_new_tokens=60, temperature=1.0, k=None)
    together = complete(model, [EOT, 3, 4], seeds=[5, 6, 7], **how)
    assert together == [complete(model, [EOT, 3, 4], seeds=[s], **how)[0] for s in (5, 6, 7)]
    assert len({tuple(ids) for ids, _ in together}) == 3


def test_a_model_without_an_end_of_text_never_ends_by_itself(model):
    with torch.no_grad():  # the end of text is the likeliest by far, whatever the context
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[EOT] = 1.0
    settings = dict(seeds=[1, 2], max_new_tokens=50, temperature=1.0, k=None)
    assert complete(model, [1], eot=None, **settings) == [([EOT] * 50, "length")] * 2
    assert complete(model, [1], eot=EOT, **settings) == [([], "end")] * 2


def test_a_seed_gives_the_same_song_alone_and_among_others(model):
    settings = dict(eot=EOT, max_new_tokens=60, temperature=1.0, k=None)
    together = complete(model, [EOT, 3, 4], seeds=[5, 6, 7], **settings)
    alone = [complete(model, [EOT, 3, 4], seeds=[s], **settings)[0] for s in (5, 6, 7)]
    assert together == alone
    assert len({tuple(ids) for ids, _ in together}) == 3


def test_a_song_ends_at_the_end_of_text_and_says_so(model):
    with torch.no_grad():
        model.lm_head.weight[EOT] += 1.0
    songs = complete(
        model, [1], eot=EOT, seeds=list(range(8)), max_new_tokens=200, temperature=1.0, k=None
    )
    assert all(EOT not in ids for ids, _ in songs)
    for ids, finish in songs:
        assert finish == ("length" if len(ids) == 200 else "end")
    assert any(finish == "end" for _, finish in songs)


def test_a_prompt_longer_than_the_block_is_cut_in_its_middle_not_refused(model):
    settings = dict(eot=EOT, seeds=[1], max_new_tokens=12, temperature=0, k=None, keep=2)
    [(ids, _)] = complete(model, list(range(48)), **settings)
    [(expected, _)] = complete(model, [0, 1, *range(34, 48)], **settings)
    assert ids == expected


def test_forbidden_ids_are_never_drawn(model):
    never = list(range(40))
    [(ids, _)] = complete(
        model, [45], eot=EOT, seeds=[3], max_new_tokens=100, temperature=2.0, k=None, never=never
    )
    assert ids
    assert not set(ids) & set(never)


def test_generation_leaves_the_random_state_and_the_mode_alone(model):
    model.train()
    before = torch.get_rng_state()
    complete(model, [1, 2], eot=EOT, seeds=[9], max_new_tokens=10, temperature=1.0, k=5)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_takes_the_likeliest_and_tiny_ones_do_not_overflow():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for temperature in (0.0, 1e-8):
        assert draw(logits, temperature, [torch.Generator()]).item() == 1


def test_top_k_keeps_k_and_ignores_a_k_beyond_the_vocabulary():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert top_k(logits, 2).isinf().tolist() == [[True, False, False]]
    assert torch.equal(top_k(logits, 99), logits)
    assert torch.equal(top_k(logits, None), logits)


def test_drawing_follows_the_probabilities():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]])).expand(4000, 3)
    generator = torch.Generator().manual_seed(0)
    counts = draw(logits, 1.0, [generator] * 4000).bincount(minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    sharper = draw(logits, 0.5, [generator] * 4000).bincount(minlength=3) / 4000
    assert sharper[0] > 0.85  # 0.49 / 0.54


def test_forbid_does_not_touch_its_argument():
    logits = torch.zeros(1, 3)
    assert forbid(logits, [1]).isinf().tolist() == [[False, True, False]]
    assert torch.equal(logits, torch.zeros(1, 3))


def test_sliding_keeps_the_header_and_the_last_half():
    context = torch.arange(33)[None]
    assert slide(context, 3, 32)[0].tolist() == [0, 1, 2, *range(20, 33)]


def test_a_long_header_does_not_push_the_newest_tokens_out():
    context = torch.arange(33)[None]
    assert slide(context, 30, 32)[0].tolist() == [*range(8), *range(25, 33)]
