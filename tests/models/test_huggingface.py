"""Hugging Face's GPT-2, both ways: transformers itself says what is right."""

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from backend.config.schema import PRESETS, ModelConfig
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint, huggingface
from backend.models.gpt import GPT
from backend.models.weights import Weights
from tests.models.conftest import Armed

VOCAB, BLOCK = 61, 24
# layers, heads and width of every preset: its heads, fewer layers, narrower
FAMILIES = {
    "gpt2": (2, 12, 48),
    "gpt2-medium": (2, 16, 64),
    "gpt2-large": (3, 20, 40),
    "gpt2-xl": (3, 25, 50),
    "xs": (2, 8, 32),
    "xxs": (3, 4, 24),
}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
IDX = torch.randint(VOCAB, (2, BLOCK), generator=torch.Generator().manual_seed(1))  # (B, T)


def theirs(n_layer=2, n_head=4, n_embd=32, vocab_size=VOCAB, **more):
    """A random GPT-2 of transformers in which every weight, bias and norm counts."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    silent = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_positions": BLOCK}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(**(shape | {"vocab_size": vocab_size} | silent | ends | more))
    return decided(GPT2LMHeadModel(config)).eval()


@torch.no_grad()
def decided(model):
    """Away from its first values, where a bias is 0 and a norm 1."""
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    return model


def ours(vocab_size=VOCAB, **shape):
    """Random weights of ours."""
    torch.manual_seed(0)
    config = ModelConfig(**(dict(block_size=BLOCK, n_layer=2, n_head=4, n_embd=32) | shape))
    model = decided(GPT(config, vocab_size))
    return Weights(model.config, vocab_size, {k: v.clone() for k, v in model.weights().items()})


def logits(model, idx=IDX):
    with torch.inference_mode():
        out = model(idx)
    return out[0] if isinstance(out, tuple) else out.logits


def assert_close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def write(weights, folder):
    """What export writes: settings and tensors."""
    folder.mkdir()
    values = huggingface.to_settings(weights.config, weights.vocab_size, eot=0)
    (folder / "config.json").write_text(json.dumps(values))
    checkpoint.save_tensors(huggingface.to_tensors(weights), folder / "model.safetensors")
    return folder


def from_pretrained(folder):
    """Their model of a folder, and that nothing was missing, left over or of another shape."""
    from transformers import GPT2LMHeadModel

    model, told = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def change_settings(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def folder(tmp_path):
    """A small model as transformers saves it."""
    theirs().save_pretrained(tmp_path / "small")
    return tmp_path / "small"


# --- reading ---


CASES = [(name, "gelu_new", True) for name in FAMILIES] + [
    ("xxs", activation, tied)
    for activation, tied in [("gelu_new", False), ("gelu", True), ("gelu", False)]
]


@pytest.mark.parametrize(("family", "activation", "tied"), CASES)
def test_a_saved_gpt2_gives_the_same_logits_and_gradients(tmp_path, family, activation, tied):
    n_layer, n_head, n_embd = FAMILIES[family]
    assert n_head == PRESETS[family]["n_head"]
    other = theirs(
        n_layer, n_head, n_embd, activation_function=activation, tie_word_embeddings=tied
    )
    other.save_pretrained(tmp_path)
    weights = huggingface.read(tmp_path)
    model = weights.build()
    assert weights.vocab_size == VOCAB
    assert model.config.tied_head is tied
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd) == FAMILIES[family]

    targets = IDX.roll(-1, 1)
    expected = other(IDX).logits
    assert_close(logits(model), expected)
    model(IDX, targets)[1].backward()
    F.cross_entropy(expected.flatten(0, 1), targets.flatten()).backward()
    gradients = {name: weight.grad for name, weight in other.named_parameters()}
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        other_grad = gradients[name].T if name.endswith(CONV1D) else gradients[name]
        torch.testing.assert_close(weight.grad, other_grad, atol=1e-4, rtol=1e-3, msg=name)


def test_a_model_in_several_files_is_one_model(tmp_path):
    other = theirs(n_layer=3)
    other.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_close(logits(huggingface.read(tmp_path).build()), logits(other))


def test_one_of_several_files_that_is_gone_is_no_smaller_model(tmp_path):
    theirs(n_layer=3).save_pretrained(tmp_path, max_shard_size="40KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(CheckpointError, match="missing"):
        huggingface.read(tmp_path).build()


@pytest.mark.parametrize("shards", [1, 2])
def test_the_old_files_of_pytorch_are_read_with_their_bare_names_and_masks(tmp_path, shards):
    other = theirs()
    other.config.save_pretrained(tmp_path)
    tensors = {
        k.removeprefix("transformer."): v
        for k, v in other.state_dict().items()
        if k != "lm_head.weight"
    }
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, BLOCK, BLOCK).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    assert "h.0.attn.c_attn.weight" in tensors and "wte.weight" in tensors
    names = sorted(tensors)
    if shards == 1:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    for i in range(shards) if shards > 1 else ():
        part = {k: tensors[k] for k in names[i::shards]}
        torch.save(part, tmp_path / f"pytorch_model-0000{i + 1}-of-0000{shards}.bin")
    assert_close(logits(huggingface.read(tmp_path).build()), logits(other))


def test_weights_in_half_precision_are_read_as_full(tmp_path):
    other = theirs().half()
    other.save_pretrained(tmp_path)
    weights = huggingface.read(tmp_path)
    assert {v.dtype for v in weights.tensors.values()} == {torch.float32}
    assert_close(logits(weights.build()), logits(other.float()))


def test_what_a_config_leaves_out_has_the_default_of_gpt2():
    from transformers import GPT2Config

    config, vocab_size = huggingface.from_settings({"model_type": "gpt2"})
    default = GPT2Config()
    assert vocab_size == default.vocab_size
    for key, name in huggingface.SETTINGS.items():
        if key not in ("activation", "dropout"):  # dropout is the recipe's, never the weights'
            assert getattr(config, key) == getattr(default, name), key
    assert huggingface.ACTIVATIONS[config.activation] == default.activation_function


@pytest.mark.parametrize("name", sorted(huggingface.SAME_ACTIVATION))
def test_other_names_of_a_gelu_mean_the_one_they_compute(tmp_path, name):
    other = theirs(activation_function=name)
    other.save_pretrained(tmp_path)
    assert_close(logits(huggingface.read(tmp_path).build()), logits(other))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": None}, "model_type is None"),
        ({"n_inner": 100}, "n_inner = 100"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"activation_function": "silu"}, "activation_function is 'silu'"),
        ({"activation_function": ["gelu"]}, "config|unhashable|activation"),
        ({"n_head": 5}, "n_embd = 32 is not a multiple of n_head = 5"),
        ({"n_layer": "two"}, "n_layer|two"),
        ({"vocab_size": None}, "None"),
    ],
)
def test_a_config_that_is_no_gpt2_of_ours_is_refused_with_what_it_has(folder, changes, reason):
    change_settings(folder, **changes)
    with pytest.raises(CheckpointError, match=reason):
        huggingface.describe(folder)
    with pytest.raises(CheckpointError, match=reason):
        huggingface.read(folder)


def test_an_inner_width_that_is_said_and_usual_is_fine(folder):
    before = logits(huggingface.read(folder).build())
    change_settings(folder, n_inner=128)
    assert torch.equal(logits(huggingface.read(folder).build()), before)


@pytest.mark.parametrize("text", ["", "{ broken", "[]", "null", "7"])
def test_a_config_that_is_no_object_is_a_sentence(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="no model that can be read"):
        huggingface.read(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "text"])
def test_damaged_weights_are_a_sentence(folder, damage):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[:-100],
            "empty": b"",
            "header": b"\xff" * 8 + data[8:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",  # a clone without git-lfs
        }[damage]
    )
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        huggingface.read(folder)
    assert "\n" not in caught.value.what


def test_a_folder_without_weights_is_told(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json but no model\.safetensors"):
        huggingface.read(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("transformer.h.1.mlp.c_fc.bias", "missing"),
        ("transformer.wte.weight", "missing"),
        ("transformer.wpe.weight", "missing"),
        ("transformer.ln_f.weight", "missing"),
        ("transformer.h.2.attn.c_attn.weight", "no place"),
        ("transformer.h.0.crossattention.c_attn.weight", "no place"),
        ("score.weight", "no place"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_refused_by_name(folder, name, reason):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if reason == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(32, 96)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"{name}.*{reason}"):
        huggingface.read(folder).build()


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight"])
def test_a_tensor_of_another_shape_is_refused_by_name(folder, name):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[f"transformer.{name}"] = tensors[f"transformer.{name}"][:-1].contiguous()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=name):
        huggingface.read(folder).build()


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, 2))])
def test_an_old_file_with_code_in_it_is_refused_and_does_not_run(folder, tmp_path, save):
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "it-ran"
    save({"wte.weight": Armed(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        huggingface.read(folder)
    assert not marker.exists()


# --- writing ---


SHAPES = {name: dict(zip(("n_layer", "n_head", "n_embd"), f, strict=True))
          for name, f in FAMILIES.items()}  # fmt: skip
KINDS = SHAPES | {
    "gelu": {"activation": "gelu"},
    "relu2": {"activation": "relu2"},
    "untied": {"tied_head": False},
    "no bias": {"bias": False},
    "no bias, untied, relu2": {"bias": False, "tied_head": False, "activation": "relu2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_gives_transformers_the_same_logits(tmp_path, kind):
    weights = ours(**KINDS[kind])
    folder = write(weights, tmp_path / "hf")
    assert_close(logits(from_pretrained(folder)), logits(weights.build()))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again_is_exact(tmp_path, kind):
    weights = ours(**KINDS[kind])
    again = huggingface.read(write(weights, tmp_path / "hf"))
    assert again.vocab_size == weights.vocab_size
    assert again.config == replace(weights.config, bias=True, attn_scale=again.config.attn_scale)
    assert again.config.resolved().attn_scale == "none"
    assert all(torch.equal(again.tensors[k], v) for k, v in weights.tensors.items())
    added = again.tensors.keys() - weights.tensors.keys()
    assert bool(added) is not weights.config.bias
    assert all(not again.tensors[k].any() for k in added)  # theirs has biases: zero is none
    assert torch.equal(logits(again.build()), logits(weights.build()))


def test_from_transformers_and_back_again_is_exact(tmp_path):
    other = theirs(tie_word_embeddings=False)
    other.save_pretrained(tmp_path / "theirs")
    weights = huggingface.read(tmp_path / "theirs")
    again = from_pretrained(write(weights, tmp_path / "ours")).state_dict()
    assert again.keys() == other.state_dict().keys()
    assert all(torch.equal(again[k], v) for k, v in other.state_dict().items())


def test_the_padding_of_a_large_vocabulary_changes_no_logit_and_is_never_written(tmp_path):
    idx = torch.randint(1100, (2, BLOCK))
    other = theirs(vocab_size=1100)
    other.save_pretrained(tmp_path / "theirs")
    weights = huggingface.read(tmp_path / "theirs")
    model = weights.build()
    assert model.transformer.wte.weight.shape == (1152, 32)
    with torch.no_grad():
        model.transformer.wte.weight[1100:] = 1e6  # whatever stands there
    assert logits(model, idx).shape == (2, BLOCK, 1100)
    assert_close(logits(model, idx), logits(other, idx))
    again = from_pretrained(write(Weights(model.config, 1100, model.weights()), tmp_path / "ours"))
    assert again.transformer.wte.weight.shape == (1100, 32)
    assert_close(logits(again, idx), logits(other, idx))


def test_the_settings_are_whole_and_their_ends_lie_in_the_vocabulary():
    from transformers import GPT2Config

    config = ModelConfig(block_size=BLOCK, n_layer=2, n_head=4, n_embd=32, dropout=0.2)
    values = huggingface.to_settings(config, 50, eot=48)
    assert values["n_positions"] == values["n_ctx"] == BLOCK
    assert values["bos_token_id"] == values["eos_token_id"] == 48
    assert values["activation_function"] == "gelu_new"
    read = GPT2Config(**values)
    assert (read.resid_pdrop, read.embd_pdrop, read.attn_pdrop) == (0.2, 0.2, 0.2)
    assert (read.hidden_size, read.num_hidden_layers, read.num_attention_heads) == (32, 2, 4)
    known = {key for key in values if hasattr(GPT2Config(), key)}
    assert values.keys() - known <= {"n_ctx"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attn_type": "GK"}, r"attn_type = GK \(GPT-2 has SM\)"),
        ({"attn_type": "PA_relu"}, "attn_type = PA_relu"),
        ({"position": "rotary"}, r"position = rotary \(GPT-2 has learned\)"),
        ({"position": "alibi"}, "position = alibi"),
        ({"qk_norm": True}, r"qk_norm = True \(GPT-2 has False\)"),
        ({"logit_softcap": 15.0}, r"logit_softcap = 15.0 \(GPT-2 has None\)"),
        ({"bigram": 64}, r"bigram = 64 \(GPT-2 has 0\)"),
        (PRESETS["modern"], "position.*qk_norm.*logit_softcap.*bigram"),
    ],
)
def test_a_kind_that_gpt2_cannot_express_is_refused_by_name_with_another_format(changes, reason):
    weights = ours(**changes)
    with pytest.raises(ConfigError, match=rf"(?s){reason}.*--format=safetensors"):
        huggingface.to_settings(weights.config, VOCAB, eot=0)


# --- the hub's cache ---


CLOSED = "http://127.0.0.1:9"  # where nobody listens


def cached(hub, model, repo="models--openai-community--gpt2", **save):
    """A repository in a cache of the hub, laid out as huggingface_hub lays it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot, blobs = hub / repo / "snapshots" / commit, hub / repo / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    (hub / repo / "refs").mkdir()
    (hub / repo / "refs/main").write_text(commit)
    model.save_pretrained(snapshot, **save)
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / f"{i:040}")
        file.symlink_to(f"../../blobs/{i:040}")
    return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, and nobody behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.mark.parametrize("repo", ["models--openai-community--gpt2", "models--gpt2"])
def test_gpt2_in_the_cache_is_found_by_its_name_without_a_network(hub, repo):
    other = theirs()
    snapshot = cached(hub, other, repo)
    source = checkpoint.find("gpt2")
    assert (source.kind, source.name, str(source)) == ("huggingface", "gpt2", "gpt2")
    assert source.path == snapshot
    assert_close(logits(checkpoint.load_model(source)), logits(other))


def test_any_hub_id_in_the_cache_is_found_even_in_several_files(hub):
    other = theirs(n_layer=3)
    cached(hub, other, "models--you--songs", max_shard_size="40KB")
    assert_close(logits(checkpoint.load_model(checkpoint.find("you/songs"))), logits(other))


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "you/nothing"])
def test_nothing_cached_and_no_network_is_one_sentence_at_once(hub, name):
    with pytest.raises(CheckpointError):
        huggingface.locate("you/first")  # imports are not what is timed
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"(?s)'{name}' is neither.*mend:.*hf download") as c:
        checkpoint.find(name)
    assert time.monotonic() - began < 1
    assert "\n" not in c.value.what
    assert c.value.__cause__ is None


def test_a_cache_with_a_config_but_no_weights_is_not_taken_for_a_model(hub):
    snapshot = cached(hub, theirs())
    (snapshot / "model.safetensors").unlink()  # as AutoTokenizer alone leaves a cache
    with pytest.raises(CheckpointError, match="hf download openai-community/gpt2"):
        huggingface.locate("gpt2")


class Broken(http.server.BaseHTTPRequestHandler):
    """A hub, or a proxy before it, that is not what it should be."""

    answer = "nothing"

    def do_GET(self):
        if self.answer == "nothing":
            return  # hangs up
        self.send_response(500 if self.answer == "500" else 200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in to this hotel</html>")

    do_HEAD = do_GET

    def do_CONNECT(self):
        self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("answer", ["nothing", "500", "text", "proxy says no"])
def test_a_hub_that_cannot_be_understood_is_a_sentence(hub, monkeypatch, answer):
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(Broken, "answer", answer)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        if answer == "proxy says no":
            monkeypatch.setenv("HTTPS_PROXY", address)
            monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
        else:
            monkeypatch.setattr(constants, "ENDPOINT", address)
        close_session()  # it was made with the proxies of its time
        try:
            with pytest.raises(CheckpointError, match="'you/nothing' is neither"):
                huggingface.locate("you/nothing")
        finally:
            server.shutdown()
            close_session()


@pytest.mark.e2e
def test_a_program_with_gpt2_in_hf_home_needs_no_network(tmp_path):
    other = theirs()
    cached(tmp_path / "home/hub", other)
    code = (
        "import torch; from backend.models import checkpoint;"
        f"model = checkpoint.load_model(checkpoint.find('gpt2'));"
        f"torch.save(model(torch.tensor({IDX.tolist()}))[0].detach(), 'logits.pt')"
    )
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("proxy")}
    env |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": CLOSED}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), logits(other))
