"""The GPT against Hugging Face's GPT-2, and the properties that training relies on."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from backend.config.schema import ModelConfig
from backend.models.attention import attend_manual, attend_sdpa
from backend.models.gpt import GPT, IGNORE, flops_per_token, n_params, training_gb

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


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
    weights = {k: v.t() if k.endswith(CONV1D) else v for k, v in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith(("attn.bias", "attn.masked_bias")) for key in missing)
    return theirs.eval()


@pytest.mark.parametrize(("n_layer", "n_head", "n_embd"), [(2, 4, 32), (3, 5, 40), (1, 1, 16)])
def test_logits_and_gradients_equal_hugging_face(n_layer, n_head, n_embd):
    torch.manual_seed(1)
    config = ModelConfig(block_size=24, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    ours = GPT(config, vocab_size=61)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(0.05 * torch.randn_like(weight))  # biases and norms count too
    theirs = as_hugging_face(ours)
    idx = torch.randint(61, (3, 24))

    logits, loss = ours(idx, idx.roll(-1, 1))
    expected = theirs(idx).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    loss.backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), idx.roll(-1, 1).flatten()).backward()
    gradients = {k: v.grad for k, v in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        other = gradients[name].t() if name.endswith(CONV1D) else gradients[name]
        torch.testing.assert_close(weight.grad, other, atol=1e-4, rtol=1e-3, msg=name)


def test_gpt2_small_has_124_439_808_parameters():
    with torch.device("meta"):
        model = GPT(ModelConfig(), vocab_size=50257)
    assert n_params(model) == 124_439_808


def test_flops_follow_the_palm_formula():
    config = ModelConfig(block_size=64, n_layer=4, n_embd=128, n_head=4)
    assert flops_per_token(config, 800_000) == 6 * 800_000 + 12 * 4 * 128 * 64


def test_the_memory_estimate_grows_with_the_batch_and_covers_weights_and_moments():
    config = ModelConfig()
    assert training_gb(config, 50257, 1) * 2**30 > 16 * 124e6
    assert training_gb(config, 50257, 8) > training_gb(config, 50257, 4)


def test_init_statistics_are_gpt2s():
    torch.manual_seed(0)
    config = ModelConfig(block_size=64, n_layer=6, n_head=4, n_embd=128)
    model = GPT(config, vocab_size=300)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(weight == 0), name
        elif ".ln_" in name:
            assert torch.all(weight == 1), name
        else:
            expected = 0.02 / math.sqrt(12) if name.endswith("c_proj.weight") else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert weight.mean().item() == pytest.approx(0, abs=0.001), name


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
    expected = torch.nn.functional.cross_entropy(
        model(idx)[0][:, :8].flatten(0, 1), targets[:, :8].flatten()
    )
    torch.testing.assert_close(model(idx, half)[1], expected)


@pytest.mark.parametrize(("new", "seen"), [(1, 9), (9, 9), (4, 9)])
def test_the_fused_attention_equals_the_manual_one(new, seen):
    torch.manual_seed(0)
    q = torch.randn(2, 3, new, 8)
    k, v = torch.randn(2, 3, seen, 8), torch.randn(2, 3, seen, 8)
    torch.testing.assert_close(attend_sdpa(q, k, v), attend_manual(q, k, v), atol=1e-6, rtol=1e-5)


def test_the_manual_attention_equals_a_double_loop():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 5, 4) for _ in range(3))
    expected = torch.zeros(5, 4)
    for i in range(5):
        weights = [math.exp((q[0, 0, i] @ k[0, 0, j]).item() / 2) for j in range(i + 1)]
        for j, weight in enumerate(weights):
            expected[i] += weight / sum(weights) * v[0, 0, j]
    torch.testing.assert_close(attend_manual(q, k, v)[0, 0], expected, atol=1e-5, rtol=1e-5)
