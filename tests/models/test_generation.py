"""Generation: cached equals uncached, seeds stand alone, and the context slides as it says."""

import pytest
import torch

from backend.models.generation import complete, draw, forbid, slide, tokens, top_k

EOT = 49


def uncached(model, prompt, n, keep):
    """Greedy tokens by running the whole context each time, with the same sliding rule."""
    context, found = torch.tensor([prompt]), []
    for _ in range(n):
        if context.size(1) > model.config.block_size:
            context = slide(context, keep, model.config.block_size)
        token = model(context)[0][0, -1].argmax().item()
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
