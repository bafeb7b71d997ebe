"""nanoGPT's ckpt.pt, both ways: its own model.py says what is right where NANOGPT names a checkout,
and no file with code in it is ever run."""

import importlib.util
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from backend.config.schema import PRESETS, ModelConfig
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint, nanogpt
from backend.models.gpt import GPT
from backend.models.weights import Weights
from tests.models.conftest import Armed

VOCAB, BLOCK = 65, 24
IDX = torch.randint(VOCAB, (2, BLOCK), generator=torch.Generator().manual_seed(1))  # (B, T)


def ours(vocab_size=VOCAB, **shape):
    """A random model of ours in which every weight, bias and norm counts."""
    torch.manual_seed(0)
    usual = dict(block_size=BLOCK, n_layer=2, n_head=4, n_embd=32, activation="gelu")
    model = GPT(ModelConfig(**(usual | shape)), vocab_size).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def weights_of(model):
    return Weights(model.config, model.vocab_size, model.weights())


def logits(model, idx=IDX):
    with torch.inference_mode():
        return model(idx)[0]


def as_nanogpt_saves(model, prefix="", masks=False):
    """The dictionary that nanoGPT's train.py gives to torch.save."""
    config = model.config
    keys = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    arguments = {k: getattr(config, k) for k in keys} | {"vocab_size": model.vocab_size}
    tensors = {f"{prefix}{k}": v.clone() for k, v in model.state_dict().items()}
    if masks:  # where it has no fused attention
        for layer in range(config.n_layer):
            ones = torch.ones(1, 1, config.block_size, config.block_size)
            tensors[f"{prefix}transformer.h.{layer}.attn.bias"] = ones.tril()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    model(IDX % model.vocab_size)[0].sum().backward()
    optimizer.step()
    return {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "model_args": arguments,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.4697),
        "config": {"dataset": "tides", "out_dir": "out", "compile": True, "betas": (0.9, 0.95)},
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ckpt.pt"


# --- reading ---


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module.",
                                    "module._orig_mod."])  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_of_nanogpt_is_read_whatever_wrapped_its_model(file, prefix, bias):
    model = ours(bias=bias)
    expected = logits(model)
    torch.save(as_nanogpt_saves(model, prefix, masks=not bias), file)
    weights, facts = nanogpt.read(file)
    assert facts == {"iter_num": 250, "dataset": "tides"}
    assert weights.config.activation == "gelu"  # the exact one
    assert weights.config.bias is bias
    assert weights.vocab_size == VOCAB
    assert torch.equal(logits(weights.build().eval()), expected)


def test_gpt2s_padded_vocabulary_is_cut_to_the_ids_that_mean_something(file):
    model = ours(vocab_size=50_304, n_layer=1, n_head=1, n_embd=4)
    expected = logits(model)
    torch.save(as_nanogpt_saves(model), file)
    weights, _ = nanogpt.read(file)
    assert weights.vocab_size == 50_257
    torch.testing.assert_close(logits(weights.build()), expected[..., :50_257])


def test_another_vocabulary_is_left_as_it_is(file):
    torch.save(as_nanogpt_saves(ours(vocab_size=50_257, n_layer=1, n_head=1, n_embd=4)), file)
    assert nanogpt.read(file)[0].vocab_size == 50_257


def test_a_checkpoint_without_a_config_has_no_dataset(file):
    whole = as_nanogpt_saves(ours())
    del whole["config"]
    torch.save(whole, file)
    assert nanogpt.read(file)[1] == {"iter_num": 250, "dataset": None}


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, 2))])
def test_a_file_with_code_in_it_is_refused_and_does_not_run(file, tmp_path, save):
    marker = tmp_path / "it-ran"
    whole = as_nanogpt_saves(ours()) if save is torch.save else {"model": {}}
    save(whole | {"config": Armed(marker)}, file)
    with pytest.raises(CheckpointError, match=r"(?s)plain tensors.*never run"):
        nanogpt.read(file)
    for ask in (checkpoint.read, checkpoint.describe, checkpoint.load_tokenizer):
        with pytest.raises(CheckpointError):
            ask(checkpoint.find(file))
    assert not marker.exists()
    if save is torch.save:  # it is loaded with a fuse
        torch.load(file, weights_only=False)
        assert marker.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped header"])
def test_a_damaged_file_is_a_sentence(file, damage):
    torch.save(as_nanogpt_saves(ours()), file)
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\n",
            "flipped header": bytes(b ^ 0xFF for b in data[:64]) + data[64:],
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"ckpt\.pt cannot be read") as caught:
        nanogpt.read(file)
    assert "\n" not in caught.value.what


@pytest.mark.parametrize(
    "whole",
    [[1, 2], torch.zeros(3), None, 7, "text", {}, {"model": torch.zeros(2)}],
    ids=["list", "tensor", "none", "number", "text", "empty", "no model_args"],
)
def test_a_file_that_holds_something_else_is_a_sentence(file, whole):
    torch.save(whole, file)
    with pytest.raises(CheckpointError, match="not a checkpoint of nanoGPT"):
        nanogpt.read(file)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model",), None),
        (("model",), [1]),
        (("model_args",), [1]),
        (("model_args", "n_head"), None),
        (("model_args", "bias"), None),
        (("model_args", "vocab_size"), None),
        (("model_args", "vocab_size"), "many"),
        (("model_args", "n_embd"), "wide"),
        (("model_args", "n_head"), 5),
        (("config",), [1]),
        (("iter_num",), "late"),
    ],
)
def test_a_part_that_is_missing_or_no_part_of_nanogpts_is_a_sentence(file, place, value):
    whole = as_nanogpt_saves(ours())
    holder = whole
    for key in place[:-1]:
        holder = holder[key]
    if value is None:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    torch.save(whole, file)
    with pytest.raises((CheckpointError, ConfigError)):
        nanogpt.read(file)[0].build()


@pytest.mark.parametrize(
    ("vocab_size", "name", "reason"),
    [
        (VOCAB, "transformer.h.1.mlp.c_fc.bias", "missing"),
        (VOCAB, "transformer.wte.weight", "missing"),
        (50_304, "transformer.wte.weight", "missing"),
        (VOCAB, "transformer.h.7.mlp.c_fc.bias", "no place"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_refused_by_name(file, vocab_size, name, reason):
    whole = as_nanogpt_saves(ours(vocab_size=vocab_size, n_head=1, n_embd=4))
    if reason == "missing":
        del whole["model"][name]
    else:
        whole["model"][name] = torch.zeros(16)
    torch.save(whole, file)
    with pytest.raises(CheckpointError, match=rf"{name}.*{reason}"):
        nanogpt.read(file)[0].build()


# --- writing ---


def write(file, model, **more):
    nanogpt.write(file, weights_of(model), **(dict(step=12, loss=1.5, dataset="tides") | more))
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_written_is_what_nanogpts_sample_py_reads(file, bias):
    model = ours(bias=bias, dropout=0.1)
    whole = write(file, model)
    assert whole["model_args"] == {
        "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": BLOCK, "bias": bias,
        "vocab_size": VOCAB, "dropout": 0.1,
    }  # fmt: skip
    assert whole["config"]["dataset"] == "tides"
    assert (whole["iter_num"], whole["best_val_loss"]) == (12, 1.5)
    assert whole["model"].keys() == model.state_dict().keys()  # nanoGPT's names, the head too
    assert torch.equal(whole["model"]["lm_head.weight"], whole["model"]["transformer.wte.weight"])


def test_a_padded_vocabulary_is_written_without_its_padding(file):
    whole = write(file, ours(vocab_size=1100))
    assert whole["model"]["transformer.wte.weight"].shape == (1100, 32)
    assert whole["model_args"]["vocab_size"] == 1100


@pytest.mark.parametrize("bias", [True, False])
def test_there_and_back_again_is_exact(file, bias):
    model = ours(bias=bias)
    write(file, model)
    again, facts = nanogpt.read(file)
    assert facts == {"iter_num": 12, "dataset": "tides"}
    assert again.config.resolved() == model.config
    assert torch.equal(logits(again.build().eval()), logits(model))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attn_type": "GK"}, "attn_type = GK"),
        ({"position": "rotary"}, "position = rotary"),
        ({"qk_norm": True}, "qk_norm = True"),
        ({"logit_softcap": 15.0}, "logit_softcap = 15.0"),
        ({"bigram": 64}, "bigram = 64"),
        ({"tied_head": False}, "tied_head = False"),
        ({"activation": "relu2"}, "activation = relu2"),
        (PRESETS["modern"], "position.*qk_norm.*tied_head.*activation"),
    ],
)
def test_a_kind_that_nanogpt_has_not_is_refused_by_name_and_nothing_is_written(
    file, changes, reason
):
    with pytest.raises(ConfigError, match=rf"(?s){reason}.*--format=safetensors"):
        nanogpt.write(file, weights_of(ours(**changes)), step=1, loss=1.0, dataset="tides")
    assert not file.exists()


# --- nanoGPT itself ---


@pytest.fixture(scope="module")
def theirs():
    """nanoGPT's model.py; its license is MIT, and no line of it is here."""
    folder = os.environ.get("NANOGPT")
    if not folder or not (Path(folder) / "model.py").is_file():
        pytest.skip("NANOGPT names no checkout of nanoGPT")
    spec = importlib.util.spec_from_file_location("model_of_nanogpt", Path(folder) / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(theirs, file):
    """As sample.py does."""
    whole = torch.load(file, map_location="cpu")
    model = theirs.GPT(theirs.GPTConfig(**whole["model_args"]))
    model.load_state_dict(whole["model"])
    return model.eval()


def their_logits(model):
    with torch.inference_mode():
        return model(IDX, IDX)[0]  # without targets they give the last position alone


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_our_export_gives_the_same_logits_in_nanogpts_own_model(theirs, file, bias, n_layer):
    model = ours(bias=bias, n_layer=n_layer)
    write(file, model)
    torch.testing.assert_close(
        their_logits(load(theirs, file)), logits(model), atol=1e-5, rtol=1e-5
    )


def test_a_tanh_gelu_differs_in_nanogpt_as_much_as_after_reading_it_back(theirs, file):
    model = ours(activation="gelu_tanh")
    write(file, model)
    difference = (their_logits(load(theirs, file)) - logits(model)).abs().max()
    again = nanogpt.read(file)[0].build().eval()
    assert difference > 1e-5
    torch.testing.assert_close(
        (logits(again) - logits(model)).abs().max(), difference, atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_of_nanogpt_gives_the_same_logits_and_gradients_in_ours(theirs, file, bias):
    torch.manual_seed(2)
    arguments = dict(n_layer=2, n_head=4, n_embd=32, block_size=BLOCK, bias=bias,
                     vocab_size=VOCAB, dropout=0.0)  # fmt: skip
    other = theirs.GPT(theirs.GPTConfig(**arguments))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    torch.save({"model": other.state_dict(), "model_args": arguments}, file)
    model = nanogpt.read(file)[0].build()
    targets = IDX.roll(-1, 1)
    expected, loss = other(IDX, targets)
    mine, _ = model(IDX)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    F.cross_entropy(mine.flatten(0, 1), targets.flatten()).backward()
    gradients = {k: v.grad for k, v in other.named_parameters()}
    gradients["transformer.wte.weight"] = other.lm_head.weight.grad
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], atol=1e-4, rtol=1e-3, msg=name)
