"""Every kind of attention against the definition, one query at a time in float64."""

import cmath
import copy
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backend.config.schema import ModelConfig
from backend.models import attention
from backend.models.attention import (
    Alibi,
    CausalSelfAttention,
    Kernel,
    KVCache,
    Rotary,
    Softmax,
    by_blocks,
    of_documents,
)
from backend.models.generation import Sampling, complete
from backend.models.gpt import GPT
from tests.models.conftest import slide

FREE = ("none", "row", "row_sqrt", "norm", "T")
POINTWISE = ("none", "row", "row_sqrt", "T")
SCALES = {
    "SM": ("none",),
    "GK": FREE,
    "GKpoly-2": FREE,
    "GKpoly-8": FREE,
    "PA_gelu": POINTWISE,
    "PA_relu": POINTWISE,
    "PA_sigmoid": FREE,
    "PA_square": FREE,
    "PA_relu-square": POINTWISE,
}
POSITIONS = ("learned", "rotary", "alibi")
CASES = [
    (kind, scale, position)
    for kind, scales in SCALES.items()
    for scale in scales
    for position in POSITIONS
    if (kind, position) != ("PA_square", "alibi")
]
CACHEABLE = [case for case in CASES if case[1] != "T"]
UNCACHEABLE = [(kind, position) for kind, scale, position in CASES if scale == "T"]
KERNELS = [kind for kind in SCALES if kind != "SM"]
V = 23


# --- the definition ------------------------------------------------------------------------------


def score(q, k, kind):
    """q (hs,), k (n, hs) -> (n,)"""
    root = math.sqrt(len(q))
    if kind.startswith("GK"):
        return -(q - k).square().sum(1) / (2 * root)
    return (k * q).sum(1) / root


def weight(s, kind):
    if kind in ("SM", "GK"):
        return s.exp()
    if kind.startswith("GKpoly-"):
        degree = 2 ** int(kind.split("-")[1])
        return (1 + s.clamp(min=-degree) / degree) ** degree
    return {
        "PA_gelu": lambda: s * (1 + torch.erf(s / math.sqrt(2))) / 2,
        "PA_relu": lambda: s.clamp(min=0),
        "PA_sigmoid": lambda: 1 / (1 + (-s).exp()),
        "PA_square": lambda: s * s,
        "PA_relu-square": lambda: s.clamp(min=0) ** 2,
    }[kind]()


def divisor(weights, kind, scale, length):
    if kind == "SM" or scale == "norm":
        return weights.sum() if weights.sum() > 0 else 1
    seen = len(weights)
    return {"none": 1, "row": seen, "row_sqrt": math.sqrt(seen), "T": length}[scale]


def by_definition(q, k, v, kind, scale, slopes=None):
    """(B, nh, T, hs), (B, nh, S, hs) twice -> (B, nh, T, hs), of which the last sees all."""
    B, nh, T, _ = q.shape
    S = k.size(2)
    q, k, v = q.double(), k.double(), v.double()
    rows = []
    for b in range(B):
        for h in range(nh):
            for i in range(T):
                seen = S - T + i + 1
                s = score(q[b, h, i], k[b, h, :seen], kind)
                if slopes:
                    s = s - slopes[h] * torch.arange(seen - 1, -1, -1)
                w = weight(s, kind)
                w = w / divisor(w, kind, scale, S)
                rows.append((w[:, None] * v[b, h, :seen]).sum(0))
    return torch.stack(rows).view(B, nh, T, -1)


def turned(x, start=0):
    """Rotary positions as complex numbers. x: (B, nh, T, hs)."""
    half = x.size(-1) // 2
    z = torch.complex(x[..., :half], x[..., half:])
    turns = [
        [cmath.exp(1j * (start + t) * 10_000 ** (-c / half)) for c in range(half)]
        for t in range(x.size(2))
    ]
    z = z * torch.tensor(turns, dtype=z.dtype)
    return torch.cat([z.real, z.imag], dim=-1)


def layer_by_definition(layer, x, config):
    """The whole of CausalSelfAttention in float64, of which autograd gives the gradients."""
    B, T, C = x.shape
    qkv = x @ layer.c_attn.weight.T + layer.c_attn.bias
    q, k, v = (a.view(B, T, config.n_head, -1).transpose(1, 2) for a in qkv.split(C, dim=2))
    if config.qk_norm:
        q, k = (a / a.square().mean(-1, keepdim=True).sqrt() for a in (q, k))
    if config.position == "rotary":
        q, k = turned(q), turned(k)
    slopes = [2 ** (-8 * (h + 1) / config.n_head) for h in range(config.n_head)]
    y = by_definition(
        q, k, v, config.attn_type, config.attn_scale, slopes if config.position == "alibi" else None
    )
    y = y.transpose(1, 2).reshape(B, T, C)
    return y @ layer.c_proj.weight.T + layer.c_proj.bias


# --- small models --------------------------------------------------------------------------------


def settings(kind="SM", scale=None, position="learned", **others):
    shape = dict(block_size=16, n_layer=2, n_head=2, n_embd=16)
    return ModelConfig(
        attn_type=kind, attn_scale=scale, position=position, **(shape | others)
    ).resolved()


def one_layer(config, seed=0):
    torch.manual_seed(seed)
    layer = CausalSelfAttention(config, 0)
    with torch.no_grad():
        layer.c_attn.weight.mul_(2)
    return layer


def decided(config, seed=0):
    """A random GPT whose scores are far from zero."""
    torch.manual_seed(seed)
    model = GPT(config, V).eval()
    with torch.no_grad():
        for w in model.parameters():
            w.add_(0.15 * torch.randn_like(w))
    return model


def qkv(T, S, hs=8, heads=2, seed=0):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, heads, n, hs) for n in (T, S, S))
    return q, k, v


def attend(kind, scale="none", hs=8, heads=2, position="learned", block_size=1024):
    config = settings(kind, scale, position, n_head=heads, n_embd=heads * hs, block_size=block_size)
    layer = CausalSelfAttention(config, 0)
    return layer.attend, layer.position


# --- every kind is its definition ----------------------------------------------------------------


def assert_layer_is_the_definition(config, T):
    layer = one_layer(config)
    exact = one_layer(config).double()
    x = torch.randn(2, T, config.n_embd)
    x64 = x.double().requires_grad_()
    x.requires_grad_()
    out, expected = layer(x), layer_by_definition(exact, x64, config)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=1e-4)

    toward = torch.randn_like(out)
    out.backward(toward)
    expected.backward(toward.double())
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-3)
    for (name, ours), theirs in zip(layer.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=3e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_every_kind_and_its_gradients_equal_the_definition(kind, scale, position):
    assert_layer_is_the_definition(settings(kind, scale, position), T=5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm"), ("PA_gelu", "row")])
def test_with_qk_norm_too(kind, scale, position):
    assert_layer_is_the_definition(settings(kind, scale, position, qk_norm=True), T=5)


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_in_blocks_of_queries_too(kind, scale, position, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 2)
    module, place = attend(kind, scale, position=position)
    slopes = [2**-4, 2**-8] if position == "alibi" else None
    for T, S in ((5, 5), (3, 5), (1, 5)):
        q, k, v = qkv(T, S)
        if isinstance(module, Softmax):
            q2, k2, v2 = module.extend(q, k, v)
            out = by_blocks(q2, k2, v2, module.weights, place, 0.0)[..., : v.size(3)]
        else:
            out = module(q, k, v, place, 0.0)
        expected = by_definition(q, k, v, kind, scale, slopes)
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "scale", "position"),
    [
        ("SM", "none", "alibi"),
        ("GK", "norm", "learned"),
        ("GK", "row", "alibi"),
        ("GKpoly-8", "norm", "learned"),
        ("PA_sigmoid", "T", "learned"),
        ("PA_gelu", "row_sqrt", "alibi"),
    ],
)
@pytest.mark.parametrize(("T", "S"), [(300, 300), (260, 290)])
def test_more_tokens_than_one_block_holds_equal_the_definition(kind, scale, position, T, S):
    assert T > attention.QUERIES
    module, place = attend(kind, scale, hs=4, heads=1, position=position)
    q, k, v = (a[:1] for a in qkv(T, S, hs=4, heads=1))
    expected = by_definition(q, k, v, kind, scale, [2**-8] if position == "alibi" else None)
    torch.testing.assert_close(module(q, k, v, place, 0.0).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", ["learned", "alibi"])
@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm")])
@pytest.mark.parametrize(("T", "S"), [(9, 9), (4, 9), (1, 9), (1, 1)])
def test_the_fused_softmax_equals_the_one_by_blocks(kind, scale, position, T, S):
    module, place = attend(kind, scale, position=position)
    assert isinstance(module, Softmax)
    q, k, v = qkv(T, S)
    fused = module(q, k, v, place, 0.0)
    q2, k2, v2 = module.extend(q, k, v)
    assert q2.size(3) == k2.size(3) == v2.size(3)  # or no fused kernel takes them
    plain = by_blocks(q2, k2, v2, module.weights, place, 0.0)[..., : v.size(3)]
    torch.testing.assert_close(fused, plain, atol=2e-6, rtol=1e-5)
    slopes = [2**-4, 2**-8] if position == "alibi" else None
    torch.testing.assert_close(
        fused.double(), by_definition(q, k, v, kind, scale, slopes), atol=2e-6, rtol=1e-5
    )


def test_softmax_takes_sdpa_and_the_kernels_do_not(monkeypatch):
    calls = []
    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k)
    )
    for kind, scales in SCALES.items():
        for scale in scales:
            module, place = attend(kind, scale)
            calls.clear()
            module(*qkv(4, 4), place, 0.0)
            assert bool(calls) == ((kind, scale) in [("SM", "none"), ("GK", "norm")])


@pytest.mark.parametrize("position", POSITIONS)
def test_the_normed_gaussian_is_right_in_bf16_where_one_channel_for_the_norm_is_not(position):
    module, place = attend("GK", "norm", hs=64, heads=1, position=position)
    torch.manual_seed(0)
    q = 0.3 * torch.randn(2, 1, 48, 64)
    k = 32 * F.normalize(torch.randn(2, 1, 48, 64), dim=-1)
    q, k, v = (a.bfloat16() for a in (q, k, torch.randn(2, 1, 48, 64)))
    slopes = [2**-8] if position == "alibi" else None
    expected = by_definition(q, k, v, "GK", "norm", slopes)
    assert torch.is_grad_enabled()
    assert (module(q, k, v, place, 0.0) - expected).abs().max() < 0.02
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for keys in (k, k.float()):  # fresh, and from a cache, which is in fp32
            out = module(q, keys, v.to(keys.dtype), place, 0.0)
            assert (out - expected).abs().max() < 0.02

    norms = k.float().square().sum(-1, keepdim=True) / 2
    one = F.scaled_dot_product_attention(
        torch.cat([q, torch.ones_like(q[..., :1])], -1),
        torch.cat([k, -norms.bfloat16()], -1),
        v,
        is_causal=True,
        scale=1 / 8,
    )
    plain = by_definition(q, k, v, "GK", "norm")
    assert (one - plain).abs().max() > 0.05


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm"), ("PA_gelu", "row")])
def test_in_bf16_outputs_and_gradients_are_the_definitions_within_its_rounding(
    kind, scale, position
):
    module, place = attend(kind, scale, position=position)
    rough = [a.bfloat16().requires_grad_() for a in qkv(7, 7)]
    exact = [a.detach().double().requires_grad_() for a in rough]
    out = module(*rough, place, 0.0)
    slopes = [2**-4, 2**-8] if position == "alibi" else None
    expected = by_definition(*exact, kind, scale, slopes)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, atol=0.03, rtol=0.03)
    toward = torch.randn_like(expected).bfloat16()
    out.backward(toward)
    expected.backward(toward.double())
    for a, b in zip(rough, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", KERNELS)
def test_under_autocast_a_kernel_is_computed_in_fp32_from_the_given_queries_and_keys(kind):
    scale = SCALES[kind][0]
    module, place = attend(kind, scale)
    assert isinstance(module, Kernel)
    q, k, v = (a.bfloat16() for a in qkv(6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        weights = module.weights(q, k, None, 6)
        out = module(q, k, v, place, 0.0)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, module.weights(q.float(), k.float(), None, 6))
    identity = torch.eye(6).expand(2, 2, 6, 6)
    torch.testing.assert_close(
        weights.double(), by_definition(q, k, identity, kind, scale), atol=2e-5, rtol=1e-4
    )
    assert out.dtype == torch.bfloat16
    expected = by_definition(q, k, v, kind, scale)
    assert (out - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize(("kind", "scale"), [(k, s[0]) for k, s in SCALES.items()])
def test_the_loss_under_autocast_is_that_of_fp32_within_bf16(kind, scale):
    torch.manual_seed(0)
    model = GPT(settings(kind, scale), V)
    idx = torch.randint(V, (4, 16))
    exact = model(idx, idx.roll(-1, 1))[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert model(idx)[0].dtype == torch.bfloat16
        rough = model(idx, idx.roll(-1, 1))[1]
    assert rough.item() == pytest.approx(exact.item(), abs=0.01)


# --- nobody sees the future ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_a_later_token_changes_nothing_before_it(kind, scale, position, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 4)
    model = decided(settings(kind, scale, position))
    idx = torch.randint(V, (2, 10))
    with torch.no_grad():
        before = model(idx)[0]
        idx[:, 6] = (idx[:, 6] + 1) % V
        after = model(idx)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert all(not torch.allclose(before[:, t], after[:, t]) for t in (6, 7))


@pytest.mark.parametrize("kind", ["PA_square", "PA_relu-square", "GK", "GKpoly-8"])
@pytest.mark.parametrize("scale", ["none", "row", "T"])
def test_a_later_token_whose_weight_overflows_harms_nobody_before_it(kind, scale):
    module, place = attend(kind, scale)
    q, k, v = qkv(6, 6)
    k[:, :, 4:] *= 1e25
    out = module(q, k, v, place, 0.0)
    expected = by_definition(q, k, v, kind, scale)
    torch.testing.assert_close(out[:, :, :4].double(), expected[:, :, :4], atol=1e-5, rtol=1e-4)


# --- songs that share a row ----------------------------------------------------------------------

SIZES = ((4, 1, 6, 3), (9, 2, 2, 1))  # of the songs in each of two rows of 14 tokens
SPANS = [
    (row, sum(sizes[:i]), sum(sizes[: i + 1])) for row, sizes in enumerate(SIZES) for i in range(4)
]


def numbers():
    """(2, 14) the number of each token's song."""
    each = [torch.repeat_interleave(torch.tensor([3, 0, 1, 2]), torch.tensor(n)) for n in SIZES]
    return torch.stack(each).int()


def alone(x, row, start, end, scale):
    """A song (1, n, ...) from its row. Under scale T weights depend on the length of the whole
    input, so there it is followed by anything up to that length."""
    song = x[row : row + 1, start:end]
    rest = x[row : row + 1, : 14 - (end - start)]
    return torch.cat([song, rest], dim=1) if scale == "T" else song


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_songs_in_one_row_have_the_outputs_and_gradients_of_each_alone(
    kind, scale, position, monkeypatch
):
    monkeypatch.setattr(attention, "QUERIES", 4)
    layer = one_layer(settings(kind, scale, position))
    x = torch.randn(2, 14, 16, requires_grad=True)
    toward = torch.randn(2, 14, 16)
    wanted = [x, *layer.parameters()]
    packed = layer(x, None, of_documents(numbers()))
    gradients = torch.autograd.grad(packed, wanted, toward)
    apart = [layer(alone(x, row, start, end, scale))[0, : end - start] for row, start, end in SPANS]
    torch.testing.assert_close(packed.flatten(0, 1), torch.cat(apart), atol=1e-5, rtol=1e-4)
    expected = torch.autograd.grad(torch.cat(apart), wanted, toward.flatten(0, 1))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_a_model_reads_each_song_of_a_row_as_if_it_were_alone(kind, scale, position):
    model = decided(settings(kind, scale, position, bigram=40))
    idx = torch.randint(V, (2, 14))
    with torch.no_grad():
        packed = model(idx, documents=numbers())[0]
        for row, start, end in SPANS:
            single = copy.deepcopy(model)
            if position == "learned":  # a token keeps its place in the row
                table = single.transformer.wpe.weight
                table.copy_(table.roll(-start, 0))
            expected = single(alone(idx, row, start, end, scale))[0][0, : end - start]
            torch.testing.assert_close(packed[row, start:end], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm"), ("PA_gelu", "row")])
def test_in_bf16_songs_in_one_row_are_those_of_fp32_within_its_rounding(kind, scale, position):
    layer = one_layer(settings(kind, scale, position))
    x = torch.randn(2, 14, 16, requires_grad=True)
    toward = torch.randn(2, 14, 16)
    exact = layer(x, None, of_documents(numbers()))
    [expected] = torch.autograd.grad(exact, [x], toward)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x, None, of_documents(numbers()))
        with torch.no_grad():
            fused = layer(x, None, of_documents(numbers()))
    assert rough.dtype == fused.dtype == torch.bfloat16
    [gradient] = torch.autograd.grad(rough, [x], toward.bfloat16())
    for ours, theirs in ((rough, exact), (fused, exact), (gradient, expected)):
        assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_a_row_that_is_all_one_song_needs_no_mask(kind, scale, position):
    model = decided(settings(kind, scale, position, bigram=40))
    idx = torch.randint(V, (2, 14))
    with torch.no_grad():
        one = model(idx, documents=torch.full((2, 14), 7))[0]
        torch.testing.assert_close(one, model(idx)[0], atol=2e-5, rtol=1e-4)


def test_without_documents_softmax_takes_the_kernel_that_needs_no_mask(monkeypatch):
    masks = []
    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *a, **k: masks.append(k.get("attn_mask")) or sdpa(*a, **k),
    )
    module, place = attend("SM")
    q, k, v = qkv(14, 14)
    module(q, k, v, place, 0.0)
    assert masks == [None]
    module(q, k, v, place, 0.0, of_documents(numbers()))
    assert masks[1].shape == (2, 1, 14, 14)


def test_scores_of_other_songs_are_not_counted_as_outside_the_domain():
    module, place = attend("GKpoly-2", hs=1, heads=2)
    q, k = torch.zeros(2, 2, 14, 1), torch.full((2, 2, 14, 1), 3.0)  # scores of -4.5
    module(q, k, k, place, 0.0, of_documents(numbers()))
    pairs = sum(n * (n + 1) // 2 for sizes in SIZES for n in sizes)
    assert module.outside.tolist() == [2 * pairs, 2 * pairs]


def test_a_cache_and_documents_do_not_go_together():
    model = decided(settings())
    cache = KVCache(model.config, 2, model.lm_head.weight)
    with pytest.raises(AssertionError, match="documents"):
        model(torch.randint(V, (2, 14)), cache=cache, documents=numbers())


# --- cached is uncached --------------------------------------------------------------------------


def assert_cached_is_uncached(model):
    idx = torch.randint(V, (2, 12))
    with torch.no_grad():
        expected = model(idx)[0]
        for sizes in ((1,) * 12, (3, 1, 6, 2)):
            cache = KVCache(model.config, 2, model.lm_head.weight)
            parts = [model(part, cache=cache)[0] for part in idx.split(sizes, dim=1)]
            assert cache.lengths == [12, 12]
            torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("kind", "scale", "position"), CACHEABLE)
def test_with_a_cache_the_logits_are_the_same_token_by_token_and_in_chunks(kind, scale, position):
    model = decided(settings(kind, scale, position))
    assert model.cacheable
    assert_cached_is_uncached(model)


@pytest.mark.parametrize("bigram", [40, 10_000])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm"), ("PA_gelu", "row")])
def test_a_cache_remembers_the_last_token_for_pairs_and_norms_its_keys(
    kind, scale, position, bigram
):
    model = decided(settings(kind, scale, position, bigram=bigram, qk_norm=True))
    assert_cached_is_uncached(model)


@pytest.mark.parametrize("bigram", [0, 10_000])
def test_a_cleared_cache_is_a_new_one(bigram):
    model = decided(settings("GK", "row", bigram=bigram))
    idx = torch.randint(V, (1, 6))
    cache = KVCache(model.config, 1, model.lm_head.weight)
    with torch.no_grad():
        model(torch.randint(V, (1, 9)), cache=cache)
        cache.hold([0])
        cache.last[:] = -1
        torch.testing.assert_close(model(idx, cache=cache)[0], model(idx)[0])


@pytest.mark.parametrize(("kind", "position"), UNCACHEABLE)
def test_scale_t_changes_earlier_rows_and_says_that_it_cannot_be_cached(kind, position):
    model = decided(settings(kind, "T", position))
    assert not model.cacheable
    idx = torch.randint(V, (1, 10))
    with torch.no_grad():
        assert not torch.allclose(model(idx)[0][:, :6], model(idx[:, :6])[0], atol=1e-3)


@pytest.mark.parametrize(("kind", "position"), UNCACHEABLE)
@pytest.mark.e2e
def test_a_model_that_cannot_be_cached_writes_what_reading_it_all_again_says(kind, position):
    model = decided(settings(kind, "T", position))
    context, expected = [1, 2, 3, 4], []
    with torch.no_grad():
        for _ in range(20):
            context = slide(context, keep=2, block_size=16)
            expected.append(model(torch.tensor([context]))[0][0, -1].argmax().item())
            context = [*context, expected[-1]]
    settings_ = dict(eot=None, seeds=[0], max_new_tokens=20, keep=2)
    assert complete(model, [1, 2, 3, 4], Sampling(temperature=0), **settings_) == [
        (expected, "length")
    ]


# --- GKpoly --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "table"), [(2, 0.074), (4, 0.0173), (8, 1.06e-3), (10, 2.6e-4), (14, 1.7e-5)]
)
def test_gkpoly_is_as_far_from_the_gaussian_as_the_table_says(n, table):
    s = torch.linspace(-6, 0, 3001)
    keys = (-2 * s).sqrt().view(1, 1, -1, 1)  # in one channel, -k^2 / 2 = s
    module, _ = attend(f"GKpoly-{n}", hs=1, heads=1)
    weights = module.weights(torch.zeros(1, 1, 1, 1), keys, None, 3001)[0, 0, 0].double()
    assert (weights - s.double().exp()).abs().max().item() == pytest.approx(table, rel=0.05)


def test_gkpoly_never_rises_beyond_its_domain():
    keys = torch.linspace(0, 60, 500).view(1, 1, -1, 1)
    module, _ = attend("GKpoly-4", hs=1, heads=1)
    weights = module.weights(torch.zeros(1, 1, 1, 1), keys, None, 500)[0, 0, 0]
    assert torch.all(weights.diff() <= 0)
    assert torch.all(weights[keys.flatten() > math.sqrt(32)] == 0)


def test_only_visible_scores_outside_the_domain_are_counted():
    module, place = attend("GKpoly-2", hs=1, heads=1)
    k = torch.tensor([3.0, 0.0, 3.0]).view(1, 1, 3, 1)  # scores -4.5, 0, -4.5 of [-4, 0]
    q = torch.zeros(1, 1, 3, 1)
    module(q, k, k, place, 0.0)
    assert module.outside.tolist() == [4, 6]
    module(q[:, :, :1], k, k, place, 0.0)
    assert module.outside.tolist() == [6, 9]


def test_a_model_tells_how_many_scores_left_the_domain():
    torch.manual_seed(0)
    model = GPT(settings("GKpoly-2", "row"), V)
    assert model.outside() == (0, 0)
    with torch.no_grad():
        model(torch.randint(V, (3, 8)))
        assert model.outside() == (0, 2 * 2 * 3 * 36)  # layers, heads, batch, 1 + ... + 8
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(1000)
        model(torch.randint(V, (3, 8)))
    assert model.outside() == (2 * 2 * 3 * 36, 2 * 2 * 2 * 3 * 36)


def test_the_count_of_scores_is_no_weight_of_the_model():
    assert not [name for name in GPT(settings("GKpoly-2"), V).state_dict() if "outside" in name]


@pytest.mark.parametrize("kind", ["SM", "GK", "PA_gelu"])
def test_kinds_without_a_domain_count_nothing(kind):
    model = decided(settings(kind))
    model(torch.randint(V, (1, 8)))
    assert model.outside() == (0, 0)


@pytest.mark.parametrize("kind", ["GK", "GKpoly-2", "GKpoly-8", "GKpoly-20"])
@pytest.mark.parametrize("scale", FREE)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
def test_huge_queries_and_keys_give_finite_outputs_and_gradients(kind, scale, size):
    module, place = attend(kind, scale)
    q, k, v = qkv(6, 6)
    q, k = (size * a for a in (q, k))
    for a in (q, k, v):
        a.requires_grad_()
    out = module(q, k, v, place, 0.0)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(a.grad.isfinite().all() for a in (q, k, v))


# --- they start well and learn -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale", "position"), CASES)
def test_at_the_start_the_loss_is_chance_and_every_gradient_is_finite(kind, scale, position):
    torch.manual_seed(0)
    model = GPT(settings(kind, scale, position), V)
    idx = torch.randint(V, (8, 16))
    loss = model(idx, torch.randint(V, (8, 16)))[1]
    loss.backward()
    assert loss.item() == pytest.approx(math.log(V), rel=0.03)
    for name, w in model.named_parameters():
        assert w.grad.isfinite().all(), name
        assert w.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("kind", "scale", "position"),
    [(kind, scales[0], "learned") for kind, scales in SCALES.items() if not kind.startswith("PA")]
    + [(kind, "row", "rotary") for kind in SCALES if kind.startswith("PA")]
    + [
        ("GK", "norm", "alibi"),
        ("GKpoly-8", "row_sqrt", "rotary"),
        ("PA_sigmoid", "norm", "alibi"),
    ],
)
@pytest.mark.e2e
def test_every_kind_learns_what_only_attention_can_see(kind, scale, position):
    torch.manual_seed(0)
    model = GPT(settings(kind, scale, position, n_layer=1, n_embd=32, init="fan_in"), V)
    idx = torch.randint(V, (4, 12))
    targets = torch.cat([idx[:, :1], idx[:, :-1]], dim=1)  # the token before: a look back
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = model(idx, targets)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- positions -----------------------------------------------------------------------------------


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = Rotary(settings(position="rotary", block_size=400, n_head=1, n_embd=8))
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    at = {
        (i, j): (rotary.rotate(q, i) * rotary.rotate(k, j)).sum().item()
        for i, j in ((5, 0), (105, 100), (305, 300), (6, 0), (306, 300), (0, 0), (399, 399))
    }
    assert at[5, 0] == pytest.approx(at[105, 100], abs=1e-4)
    assert at[5, 0] == pytest.approx(at[305, 300], abs=1e-4)
    assert at[6, 0] == pytest.approx(at[306, 300], abs=1e-4)
    assert at[0, 0] == pytest.approx(at[399, 399], abs=1e-4)
    assert abs(at[5, 0] - at[6, 0]) > 1e-2


def test_rotary_turns_each_pair_by_its_own_speed_from_where_the_cache_ends():
    rotary = Rotary(settings(position="rotary", n_head=1, n_embd=8, block_size=64))
    x = torch.randn(2, 1, 9, 8)
    for past in (0, 17):
        expected = turned(x.double(), past)
        torch.testing.assert_close(rotary.rotate(x, past).double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rotary.rotate(x, 3).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("position", ["rotary", "alibi"])
def test_without_a_table_a_model_with_relative_positions_has_none_for_places(position):
    model = GPT(settings(position=position), V)
    assert not [name for name in model.state_dict() if "wpe" in name]
    assert "transformer.wpe.weight" in GPT(settings(), V).state_dict()


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (8, [2**-i for i in range(1, 9)]),
        (16, [2 ** (-i / 2) for i in range(1, 17)]),
        (12, [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
        (3, [2**-4, 2**-8, 2**-2]),
    ],
)
def test_alibi_has_the_slopes_of_the_paper(heads, slopes):
    alibi = Alibi(settings(position="alibi", n_head=heads, n_embd=heads))
    assert alibi.slopes.tolist() == pytest.approx(slopes)


def test_alibi_takes_the_slope_for_every_token_of_distance():
    alibi = Alibi(settings(position="alibi", n_head=2, n_embd=2))
    bias = alibi.bias(2, 4, torch.device("cpu"))
    steps = torch.tensor([[2, 1, 0, 0], [3, 2, 1, 0]])
    assert torch.equal(bias, torch.stack([-(2.0**-4) * steps, -(2.0**-8) * steps]))


# --- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "norm"), ("PA_relu", "row")])
@pytest.mark.parametrize("position", ["learned", "alibi"])
def test_attention_weights_are_dropped_in_training_only_and_their_mean_is_kept(
    kind, scale, position
):
    layer = one_layer(settings(kind, scale, position, dropout=0.3))
    layer.resid_dropout = nn.Identity()
    x = torch.randn(1, 6, 16).expand(3000, 6, 16)
    with torch.no_grad():
        whole = layer.eval()(x)
        assert torch.equal(whole, layer(x))
        dropped = layer.train()(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.allclose(*layer(x[:2]))
    with torch.autocast("cpu", torch.bfloat16):  # with gradients
        assert not torch.allclose(*layer(x[:2]))
    assert not torch.allclose(dropped[0], dropped[1])
    torch.testing.assert_close(dropped.mean(0), whole[0], atol=0.08, rtol=0)


@pytest.mark.parametrize("kind", SCALES)
def test_a_model_with_dropout_is_the_one_without_when_it_does_not_train(kind):
    dropping = decided(settings(kind, dropout=0.5))
    whole = decided(settings(kind))
    idx = torch.randint(V, (2, 8))
    with torch.no_grad():
        assert torch.equal(dropping(idx)[0], whole(idx)[0])
        dropping.train()
        assert not torch.allclose(dropping(idx)[0], dropping(idx)[0])


# --- the parts are chosen when the layer is built ------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [p for p in vars(attention).values() if isinstance(p, type) and "forward" in vars(p)],
    ids=lambda p: p.__name__,
)
def test_no_forward_asks_the_settings(part):
    assert "config" not in inspect.getsource(part.forward)
