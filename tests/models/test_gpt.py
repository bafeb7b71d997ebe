"""The GPT against Hugging Face's GPT-2, its counts, its parts, and what training relies on."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from backend.config.schema import PRESETS, ModelConfig
from backend.errors import ConfigError
from backend.models import gpt, head
from backend.models.gpt import (
    GPT,
    IGNORE,
    MLP,
    Pairs,
    flops_per_token,
    n_params,
    on_meta,
    padded,
    training_gb,
)

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
SIZES = {
    "gpt2": (12, 124_439_808),
    "gpt2-medium": (16, 354_823_168),
    "gpt2-large": (20, 774_030_080),
    "gpt2-xl": (25, 1_557_611_200),
}


def small(**others):
    return ModelConfig(**(dict(block_size=16, n_layer=2, n_head=2, n_embd=16) | others))


def built(vocab_size=50, seed=0, **others):
    torch.manual_seed(seed)
    return GPT(small(**others), vocab_size)


def stirred(model):
    """Biases and norms that are not zero and one count too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def as_hugging_face(model):
    """The same weights in transformers' GPT-2, whose linear layers are stored transposed."""
    config = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=model.vocab_size,
            n_positions=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    )
    weights = {k: v.t() if k.endswith(CONV1D) else v for k, v in model.weights().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(k.endswith(("attn.bias", "attn.masked_bias", "lm_head.weight")) for k in missing)
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    return theirs.eval()


# --- GPT-2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "vocab_size"),
    [(2, 4, 32, 61), (3, 5, 40, 61), (1, 1, 16, 61), (1, 2, 16, 1030)],
)
def test_logits_and_gradients_equal_hugging_face(n_layer, n_head, n_embd, vocab_size):
    torch.manual_seed(1)
    config = ModelConfig(block_size=24, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    ours = stirred(GPT(config, vocab_size))
    theirs = as_hugging_face(ours)
    idx = torch.randint(vocab_size, (3, 24))

    logits, loss = ours(idx)[0], ours(idx, idx.roll(-1, 1))[1]
    expected = theirs(idx).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    loss.backward()
    F.cross_entropy(expected.flatten(0, 1), idx.roll(-1, 1).flatten()).backward()
    gradients = {k: v.grad for k, v in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        other = gradients[name].t() if name.endswith(CONV1D) else gradients[name]
        own = weight.grad[: len(other)]
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-3, msg=name)
        assert torch.all(weight.grad[len(other) :] == 0), name


def test_init_statistics_are_gpt2s():
    torch.manual_seed(0)
    model = GPT(ModelConfig(block_size=64, n_layer=6, n_head=4, n_embd=128), vocab_size=300)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(weight == 0), name
        elif ".ln_" in name:
            assert torch.all(weight == 1), name
        else:
            expected = 0.02 / math.sqrt(12) if name.endswith("c_proj.weight") else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert weight.mean().item() == pytest.approx(0, abs=0.001), name


def test_init_by_fan_in_spreads_every_matrix_by_its_inputs():
    torch.manual_seed(0)
    config = ModelConfig(
        block_size=64, n_layer=6, n_head=4, n_embd=128, init="fan_in", tied_head=False
    )
    for name, weight in GPT(config, vocab_size=300).named_parameters():
        if weight.dim() == 2:
            inputs = 512 if name.endswith("mlp.c_proj.weight") else 128
            expected = 1 / math.sqrt(3 * inputs)
            expected /= math.sqrt(12) if name.endswith("c_proj.weight") else 1
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("tied_head", [True, False])
def test_zero_init_starts_the_writers_and_an_untied_head_at_zero_and_nothing_else(tied_head):
    model = built(zero_init=True, tied_head=tied_head)
    zero = {name for name, w in model.named_parameters() if w.dim() == 2 and torch.all(w == 0)}
    writers = {
        f"transformer.h.{i}.{part}.c_proj.weight" for i in range(2) for part in ("attn", "mlp")
    }
    assert zero == writers | (set() if tied_head else {"lm_head.weight"})


def test_a_zeroed_untied_head_starts_at_exactly_chance():
    idx = torch.randint(50, (2, 16))
    loss = built(zero_init=True, tied_head=False)(idx, idx)[1]
    assert loss.item() == pytest.approx(math.log(50), abs=1e-5)


def test_the_loss_of_a_fresh_model_is_that_of_pure_chance():
    torch.manual_seed(0)
    model = GPT(ModelConfig(block_size=32, n_layer=2, n_head=2, n_embd=64), vocab_size=200)
    idx = torch.randint(200, (8, 32))
    _, loss = model(idx, torch.randint(200, (8, 32)))
    assert loss.item() == pytest.approx(math.log(200), rel=0.02)


def test_a_later_token_changes_nothing_before_it(model):
    idx = torch.randint(50, (1, 20))
    before = model(idx)[0]
    idx[0, 12] = (idx[0, 12] + 1) % 50
    after = model(idx)[0]
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=0, rtol=0)
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_ignored_targets_carry_no_loss(model):
    idx = torch.randint(50, (2, 16))
    targets = idx.roll(-1, 1)
    half = targets.clone()
    half[:, 8:] = IGNORE
    expected = F.cross_entropy(model(idx)[0][:, :8].flatten(0, 1), targets[:, :8].flatten())
    torch.testing.assert_close(model(idx, half)[1], expected)


def test_without_targets_there_are_logits_and_with_them_a_loss(model):
    idx = torch.randint(50, (2, 16))
    logits, loss = model(idx)
    assert logits.shape == (2, 16, 50)
    assert loss is None
    logits, loss = model(idx, idx)
    assert logits is None
    assert loss.shape == ()


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_in_pieces_and_its_gradients_are_those_of_all_rows_at_once(cap, dtype, monkeypatch):
    monkeypatch.setattr(head, "ROOM", 0)
    monkeypatch.setattr(head, "LEAST", 7)  # 32 rows in five pieces, the last one short
    model = stirred(built(1050, logit_softcap=cap, tied_head=False))
    idx = torch.randint(1050, (2, 16))
    targets = torch.where(torch.rand(2, 16) < 0.3, IGNORE, idx.roll(-1, 1))
    found = []
    for pieces in (True, False):
        monkeypatch.setattr(gpt, "in_pieces", lambda x, pieces=pieces: pieces)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(idx, targets)[1]
        (3 * loss).backward()
        found.append((loss, *(p.grad.clone() for p in model.parameters())))
    near = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-6, "rtol": 1e-4}
    for ours, plain in zip(*found, strict=True):
        scale = plain.abs().max().clamp(min=1e-12)
        torch.testing.assert_close(ours / scale, plain / scale, **near)


def test_a_loss_in_pieces_leaves_a_frozen_head_alone_and_survives_large_logits():
    x = torch.full((3, 2), 300.0, requires_grad=True)
    weight = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, 1.0]])
    targets = torch.tensor([0, 2, IGNORE])
    loss = head.InPieces.apply(x, weight, targets, None)
    expected = F.cross_entropy(x @ weight.T, targets, ignore_index=IGNORE)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x)[0])
    assert not grad[2].any()


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_of_gpt2_have_their_published_parameters(name):
    heads, parameters = SIZES[name]
    model = on_meta(ModelConfig(**PRESETS[name]), 50257)
    assert n_params(model) == parameters
    assert model.config.n_head == heads
    assert all(p.is_meta for p in model.parameters())


def test_gpt2s_vocabulary_is_padded_to_50304_rows_that_are_not_counted():
    assert padded(50257) == 50304
    model = on_meta(ModelConfig(), 50257)
    assert model.transformer.wte.weight.shape == (50304, 768)
    assert model.weights()["transformer.wte.weight"].shape == (50257, 768)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808 + 47 * 768


@pytest.mark.parametrize(
    ("ids", "rows"),
    [(65, 65), (1023, 1023), (1024, 1024), (1025, 1088), (4096, 4096), (50304, 50304)],
)
def test_only_a_large_vocabulary_that_is_no_multiple_of_64_is_padded(ids, rows):
    assert padded(ids) == rows


def test_flops_of_gpt2_follow_the_palm_formula():
    model = on_meta(ModelConfig(), 50257)
    expected = 6 * (124_439_808 - 786_432) + 12 * 12 * 768 * 1024
    assert flops_per_token(model) == expected


def test_flops_count_an_untied_head_once_and_no_table():
    tied = on_meta(small(), 50)
    assert flops_per_token(on_meta(small(tied_head=False), 50)) == flops_per_token(tied)
    assert flops_per_token(on_meta(small(bigram=700), 50)) == flops_per_token(tied)
    assert flops_per_token(on_meta(small(position="rotary"), 50)) == flops_per_token(tied)


# --- padding and weights -------------------------------------------------------------------------


@pytest.mark.parametrize("tied_head", [True, False])
def test_padding_changes_no_logits_no_loss_and_no_gradient(tied_head, monkeypatch):
    with_padding = stirred(built(1050, tied_head=tied_head))
    assert len(with_padding.lm_head.weight) == 1088
    monkeypatch.setattr(gpt, "padded", lambda n: n)
    without = built(1050, tied_head=tied_head)
    assert len(without.lm_head.weight) == 1050
    without.load_weights(with_padding.weights())

    idx = torch.randint(1050, (2, 16))
    targets = idx.roll(-1, 1)
    logits = with_padding(idx)[0]
    assert logits.shape == (2, 16, 1050)
    torch.testing.assert_close(logits, without(idx)[0])
    loss, expected_loss = with_padding(idx, targets)[1], without(idx, targets)[1]
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    for (name, a), b in zip(with_padding.named_parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(a.grad[: len(b)], b.grad, msg=name)
        assert torch.all(a.grad[len(b) :] == 0), name


@pytest.mark.parametrize("parts", [{}, {"tied_head": False}, PRESETS["modern"]])
def test_weights_of_one_model_make_another_the_same(parts):
    one, other = stirred(built(1050, seed=0, **parts)), built(1050, seed=1, **parts)
    idx = torch.randint(1050, (2, 16))
    assert not torch.allclose(one(idx)[0], other(idx)[0])
    weights = {k: v.clone() for k, v in one.weights().items()}
    other.load_weights(weights)
    assert torch.equal(one(idx)[0], other(idx)[0])
    assert all(torch.equal(v, weights[k]) for k, v in other.weights().items())


def test_weights_hold_a_tied_head_once_and_an_untied_one_by_itself():
    assert "lm_head.weight" not in built().weights()
    assert "lm_head.weight" in built(tied_head=False).weights()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("transformer.ln_f.weight"), "transformer.ln_f.weight is missing"),
        (
            lambda w: w.update({"lm_head.weight": torch.zeros(50, 16)}),
            "lm_head.weight has no place",
        ),
        (
            lambda w: w.update({"transformer.wpe.weight": torch.zeros(8, 16)}),
            r"transformer.wpe.weight is \(8, 16\), the model has \(16, 16\)",
        ),
        (
            lambda w: w.update({"transformer.wte.weight": torch.zeros(51, 16)}),
            r"transformer.wte.weight is \(51, 16\), the model has \(50, 16\)",
        ),
    ],
)
def test_weights_that_are_missing_unknown_or_misshaped_are_named(change, words):
    model = built()
    weights = model.weights()
    change(weights)
    with pytest.raises(ValueError, match=words):
        model.load_weights(weights)


# --- memory --------------------------------------------------------------------------------------


def saved_bytes(model, batch_size):
    """What autograd keeps for the backward pass, every storage once, the weights not."""
    known = {w.untyped_storage().data_ptr() for w in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no address is used again
        return tensor

    idx = torch.randint(model.vocab_size, (batch_size, model.config.block_size))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(idx, idx)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("block_size", [64, 300])
@pytest.mark.parametrize(
    ("kind", "scale", "parts"),
    [
        ("SM", None, {}),
        ("SM", None, {"dropout": 0.1}),
        ("SM", None, {"activation": "relu2", "qk_norm": True, "position": "rotary"}),
        ("GK", "none", {}),
        ("GK", "row", {"position": "alibi"}),
        ("GKpoly-8", "norm", {}),
        ("PA_gelu", "row", {}),
    ],
)
def test_the_memory_estimate_is_within_a_factor_of_two_of_what_autograd_keeps(
    kind, scale, parts, block_size
):
    torch.manual_seed(0)
    config = ModelConfig(
        block_size=block_size, n_layer=2, n_head=4, n_embd=64, attn_type=kind, attn_scale=scale,
        **parts,
    )  # fmt: skip
    model = GPT(config, 64)
    estimate = (training_gb(model, 2) - training_gb(model, 0)) * 2**30
    assert estimate / 2 < saved_bytes(model, 2) < estimate * 2


def test_the_memory_estimate_grows_with_the_batch_and_covers_weights_and_moments():
    model = on_meta(ModelConfig(), 50257)
    assert training_gb(model, 1) * 2**30 > 16 * 124e6
    steps = [training_gb(model, b) for b in (0, 1, 2, 3)]
    assert steps == sorted(steps)
    assert steps[3] - steps[2] == pytest.approx(steps[1] - steps[0])


def test_frozen_weights_need_no_gradient_and_no_moments_in_the_estimate():
    model = on_meta(ModelConfig(), 50257)
    whole = training_gb(model, 1)
    parameters = sum(p.numel() for p in model.parameters())
    model.requires_grad_(False)
    assert (whole - training_gb(model, 1)) * 2**30 == pytest.approx(12 * parameters)
    model.transformer.ln_f.requires_grad_(True)
    assert (whole - training_gb(model, 1)) * 2**30 == pytest.approx(12 * (parameters - 2 * 768))


def test_kernels_are_estimated_to_need_more_than_softmax_and_polynomials_most():
    needs = [
        training_gb(on_meta(small(attn_type=kind, block_size=512), 50), 4)
        for kind in ("SM", "GK", "GKpoly-2", "GKpoly-8")
    ]
    assert needs == sorted(set(needs))


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [{key: value} for key, value in PRESETS["modern"].items()]
    + [
        PRESETS["modern"],
        {"position": "alibi"},
        {"activation": "gelu"},
        {"dropout": 0.2},
        PRESETS["modern"] | {"attn_type": "GK", "attn_scale": "norm"},
        PRESETS["modern"] | {"attn_type": "PA_sigmoid", "position": "alibi"},
    ],
    ids=lambda parts: ",".join(parts) if len(parts) < 9 else f"modern{len(parts)}",
)
@pytest.mark.e2e
def test_each_part_and_all_together_learn_one_batch(parts):
    model = built(n_embd=32, **parts)
    idx = torch.randint(50, (4, 16))
    before = {k: v.clone() for k, v in model.weights().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(idx, idx.roll(-1, 1))[1]
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    still = [k for k, v in model.weights().items() if torch.equal(v, before[k])]
    assert not still


def test_an_untied_head_is_its_own_and_a_tied_one_is_the_embedding():
    tied, untied = built(), built(tied_head=False)
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert n_params(untied) == n_params(tied) + 50 * 16
    with torch.no_grad():
        before = untied.transformer.wte.weight.clone()
        untied.lm_head.weight.zero_()
    assert torch.equal(untied.transformer.wte.weight, before)
    assert torch.all(untied(torch.randint(50, (1, 5)))[0] == 0)


@pytest.mark.parametrize("cap", [0.5, 15.0])
def test_a_softcap_bounds_the_logits_keeps_their_order_and_leaves_small_ones_alone(cap):
    free, held = stirred(built()), stirred(built(logit_softcap=cap))
    idx = torch.randint(50, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(held(idx)[0], cap * torch.tanh(free(idx)[0] / cap))
        for model in (free, held):
            model.lm_head.weight.mul_(300)
        assert free(idx)[0].abs().max() > 2 * cap
        assert held(idx)[0].abs().max() <= cap


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
        (
            "gelu_tanh",
            lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        ),
        ("relu2", lambda x: torch.where(x > 0, x * x, 0)),
    ],
)
def test_the_activations_are_their_formulas(activation, expected):
    torch.manual_seed(0)
    mlp = MLP(small(activation=activation))
    x = 3 * torch.randn(7, 16)
    inner = x @ mlp.c_fc.weight.T + mlp.c_fc.bias
    out = expected(inner) @ mlp.c_proj.weight.T + mlp.c_proj.bias
    torch.testing.assert_close(mlp(x), out, atol=1e-5, rtol=1e-5)


def test_without_bias_there_is_none():
    assert not [name for name in built(bias=False).state_dict() if name.endswith("bias")]


def test_the_wpe_table_is_read_from_its_start():
    model = stirred(built())
    with torch.no_grad():
        idx = torch.randint(50, (1, 6))
        before = model(idx)[0]
        model.transformer.wpe.weight[6:] += 1
        assert torch.equal(model(idx)[0], before)
        model.transformer.wpe.weight[5] += torch.randn(16)
        after = model(idx)[0]
    assert torch.equal(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5], before[:, 5])


def test_a_fresh_table_of_pairs_changes_nothing():
    idx = torch.randint(50, (2, 16))
    assert torch.equal(built(bigram=10_000)(idx)[0], built()(idx)[0])


def rows_of(idx, vocab_size, bigram):
    """The row that each token of idx (B, T) reads: row i of this table holds i."""
    pairs = Pairs(small(n_embd=1, n_head=1, bigram=bigram), vocab_size)
    with torch.no_grad():
        pairs.weight.copy_(torch.arange(pairs.rows)[:, None])
        return pairs(idx, None)[..., 0].long()


def test_every_pair_has_a_row_of_its_own_where_there_is_room_and_so_has_every_first_token():
    idx = torch.cartesian_prod(torch.arange(5), torch.arange(5))  # all pairs
    rows = rows_of(idx, 5, bigram=10_000)
    first, pairs = set(rows[:, 0].tolist()), set(rows[:, 1].tolist())
    assert (len(first), len(pairs)) == (5, 25)
    assert first | pairs == set(range(30))


def test_a_row_is_of_the_pair_wherever_it_stands():
    rows = rows_of(torch.tensor([[7, 8, 8, 7, 8], [1, 7, 8, 7, 7]]), 50, bigram=10_000)
    assert rows[0, 1] == rows[0, 4] == rows[1, 2]
    assert rows[0, 3] == rows[1, 3]
    assert len(set(rows.flatten().tolist())) == 7


@pytest.mark.parametrize(("vocab_size", "bigram"), [(50, 40), (50257, 16_384), (200_000, 1000)])
def test_where_pairs_are_more_than_rows_they_share_them_evenly(vocab_size, bigram):
    torch.manual_seed(0)
    n = 40 * bigram
    rows = rows_of(torch.randint(vocab_size, (n, 2)), vocab_size, bigram)[:, 1]
    loads = rows.bincount(minlength=bigram)
    assert len(loads) == bigram
    assert loads.min() > 5
    assert loads.max() < 120


def test_a_pair_changes_the_logits_from_where_it_stands_and_of_no_text_without_it():
    model = stirred(built(bigram=10_000))
    row = rows_of(torch.tensor([[7, 8]]), 50, bigram=10_000)[0, 1]
    having, lacking = torch.tensor([[8, 9, 7, 8, 4]]), torch.tensor([[8, 7, 9, 8, 7]])
    with torch.no_grad():
        before, same = model(having)[0], model(lacking)[0]
        model.transformer.pairs.weight[row] += torch.randn(16)
        after = model(having)[0]
        assert torch.equal(model(lacking)[0], same)
    assert torch.equal(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3], before[:, 3])
    assert not torch.allclose(after[:, 4], before[:, 4])


def test_the_first_token_of_all_is_no_pair():
    model = stirred(built(bigram=10_000))
    idx = torch.arange(50)[:, None]
    alone = rows_of(idx, 50, bigram=10_000)[:, 0]
    others = torch.ones(len(model.transformer.pairs.weight), dtype=torch.bool)
    others[alone] = False
    assert others.sum() == 2500
    with torch.no_grad():
        before = model(idx)[0]
        model.transformer.pairs.weight[others] += 1.5
        assert torch.equal(model(idx)[0], before)
        model.transformer.pairs.weight[~others] += torch.randn(16)
        assert not torch.allclose(model(idx)[0], before)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_embd": 30, "n_head": 4}, "n_embd = 30 is not a multiple of n_head = 4"),
        ({"n_head": 16, "position": "rotary"}, "n_embd / n_head = 1 is odd"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"logit_softcap": 0.0}, "logit_softcap = 0.0"),
        ({"bigram": -1}, "bigram = -1"),
        ({"attn_type": "GKpoly-0"}, "attn_type = 'GKpoly-0'"),
        ({"attn_scale": "row"}, "attn_scale = row does not go with attn_type = SM"),
        ({"attn_type": "PA_square", "position": "alibi"}, "position = alibi does not go"),
        ({"n_layer": 0, "block_size": 0}, "block_size = 0 .*n_layer = 0 "),
    ],
)
def test_a_model_of_impossible_settings_is_refused_with_their_names(values, words):
    with pytest.raises(ConfigError, match=words):
        GPT(small(**values), 50)


@pytest.mark.parametrize(("kind", "scale"), [("SM", "none"), ("GK", "none"), ("PA_relu", "row")])
def test_a_model_states_the_scale_that_it_took(kind, scale):
    assert built(attn_type=kind).config.attn_scale == scale


@pytest.mark.parametrize(
    "part",
    [p for p in vars(gpt).values() if "forward" in getattr(p, "__dict__", {})],
    ids=lambda p: p.__name__,
)
def test_no_forward_asks_the_settings(part):
    assert "config" not in inspect.getsource(part.forward)
