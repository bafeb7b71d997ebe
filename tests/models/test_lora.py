"""LoRA: little is trained, nothing is lost, and peft reads what is saved."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.config.schema import ModelConfig
from backend.errors import CheckpointError
from backend.models import checkpoint, huggingface, lora
from backend.models.gpt import n_params, on_meta
from backend.models.weights import Weights
from tests.models.conftest import random_weights

VOCAB, BLOCK, RANK, ALPHA = 50, 24, 4, 6.0
IDX = torch.randint(VOCAB, (2, BLOCK), generator=torch.Generator().manual_seed(1))  # (B, T)


def base_weights(**shape):
    return random_weights(VOCAB, **{"block_size": BLOCK} | shape)


def trained(weights, rank=RANK, alpha=ALPHA):
    """A model with adapters that do something."""
    model = weights.build()
    lora.add(model, rank, alpha)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.normal_(std=0.1)
    return model.eval()


def logits(model):
    with torch.inference_mode():
        return model.eval()(IDX)[0]


def save(out_dir, model, step=8):
    trainer = ({"rng.cpu": torch.get_rng_state()}, {})
    return checkpoint.save(out_dir, model, step=step, run={}, trainer=trainer, best=None)


@pytest.fixture
def run(tmp_path):
    """(run folder, the model in it, its base)"""
    weights = base_weights()
    base = checkpoint.Source(tmp_path / "elsewhere")
    model = trained(weights)
    checkpoint.save_base(tmp_path / "run", base, model)
    save(tmp_path / "run", model)
    return tmp_path / "run", model, weights


def test_only_the_adapters_have_gradients():
    model = trained(base_weights())
    _, loss = model(IDX, IDX.roll(-1, 1))
    loss.backward()
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {n for n, _ in model.named_parameters() if n.endswith(("lora_A", "lora_B"))}
    assert len(learning) == 2 * 2 * 4  # layers x targets x (A, B)
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) is (name in learning), name
        assert name not in learning or weight.grad.any(), name


def test_a_few_per_cent_of_a_real_model_are_trained():
    model = on_meta(ModelConfig(n_layer=24, n_head=16, n_embd=1024), 50_257)
    whole = n_params(model)
    assert whole == 354_823_168  # GPT-2 medium
    lora.add(model, 16, 32.0)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # rank x (inputs + outputs) of c_attn, c_proj, c_fc and c_proj
    assert learning == 24 * 16 * 1024 * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    assert 0.01 < learning / whole < 0.05
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) >= whole


def test_at_the_start_the_adapted_model_is_its_base_exactly():
    weights = base_weights()
    model = weights.build()
    before = logits(model)
    lora.add(model, RANK, ALPHA)
    assert torch.equal(logits(model), before)
    assert all(v.any() for k, v in lora.adapters(model).items() if "lora_A" in k)
    kept = {k: v for k, v in model.weights().items() if not k.endswith(lora.OWN)}
    assert kept.keys() == weights.tensors.keys()
    assert all(torch.equal(kept[k], v) for k, v in weights.tensors.items())


def test_rank_and_alpha_are_read_back_from_the_model():
    for rank, alpha in [(1, 1.0), (4, 6.0), (16, 32.0), (49, 1.0), (25, 7.0)]:
        assert lora.rank_and_alpha(trained(base_weights(), rank, alpha)) == (rank, alpha)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (4, 6.0), (8, 16.0)])
def test_merged_weights_give_what_the_adapters_gave(bias, rank, alpha):
    weights = base_weights(bias=bias)
    model = trained(weights, rank, alpha)
    assert not torch.allclose(logits(model), logits(weights.build()), atol=1e-2)
    tensors = lora.merged(weights.tensors, lora.adapters(model), alpha / rank)
    merged = Weights(weights.config, VOCAB, tensors).build()
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)


# --- saved ---


def test_a_step_holds_the_adapters_alone(run):
    out_dir, model, _ = run
    step = checkpoint.find(out_dir)
    assert sorted(f.name for f in step.path.iterdir()) == [
        "COMPLETE", "adapter_config.json", "adapter_model.safetensors", "model.json",
        "trainer.json", "trainer.safetensors",
    ]  # fmt: skip
    saved = load_file(step.path / "adapter_model.safetensors")
    assert all(".lora_" in name for name in saved)
    assert step.files == [step.path / "adapter_model.safetensors"]


def test_a_saved_model_is_read_whole_or_as_its_base(run):
    out_dir, model, weights = run
    step = checkpoint.find(out_dir)
    loaded = checkpoint.load_model(step)
    assert not any(name.endswith(lora.OWN) for name, _ in loaded.named_parameters())
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)
    base = checkpoint.read(step, merge=False)
    assert base.tensors.keys() == weights.tensors.keys()
    assert all(torch.equal(base.tensors[k], v) for k, v in weights.tensors.items())
    again = base.build()
    lora.add(again, RANK, ALPHA)
    lora.load(again, checkpoint.load_adapters(step))
    assert torch.equal(logits(again), logits(model))


def test_a_run_folder_may_move_with_its_base(run, tmp_path):
    out_dir, model, _ = run
    out_dir.rename(tmp_path / "moved")
    loaded = checkpoint.load_model(checkpoint.find(tmp_path / "moved"))
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


def test_the_base_can_be_named_itself(run):
    out_dir, _, weights = run
    assert torch.equal(
        logits(checkpoint.load_model(checkpoint.find(out_dir / "base"))), logits(weights.build())
    )


def test_without_its_base_a_step_is_a_sentence_with_a_way_on(run):
    out_dir, _, _ = run
    shutil.rmtree(out_dir / "base")
    step = checkpoint.find(out_dir)
    with pytest.raises(CheckpointError, match=r"(?s)base is gone.*only LoRA adapters.*mend"):
        checkpoint.load_model(step)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("part", ["base/model.safetensors", "adapter_model.safetensors"])
def test_damaged_adapters_or_a_damaged_base_are_refused(run, damage, part):
    out_dir, _, _ = run
    step = checkpoint.find(out_dir)
    file = out_dir / part if part.startswith("base") else step.path / part
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "flip" else data[:-7])
    if damage == "missing":
        file.unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_model(step)


def adapters_of(weights):
    return lora.adapters(trained(weights))


@pytest.mark.parametrize("other", [{"n_layer": 1}, {"n_layer": 3}, {"n_embd": 16}], ids=str)
def test_adapters_of_another_shape_are_refused(other):
    model = trained(base_weights())
    before = logits(model)
    with pytest.raises(ValueError, match="lora"):
        lora.load(model, adapters_of(base_weights(**other)))
    assert torch.equal(logits(model), before)


def swap_base(out_dir, weights):
    shutil.rmtree(out_dir / "base")
    checkpoint.save_weights(out_dir / "base", weights, step=0, facts={})


@pytest.mark.parametrize("other", [{"n_layer": 1}, {"n_embd": 16}], ids=str)
def test_adapters_that_do_not_fit_their_base_are_a_sentence(run, other):
    out_dir, _, _ = run
    swap_base(out_dir, base_weights(**other))
    with pytest.raises(CheckpointError, match="does not fit its base"):
        checkpoint.load_model(checkpoint.find(out_dir))


# --- peft ---

QUIET = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing", "ignore:Could not find a config file"
)


def gpt2_of(weights, folder):
    """transformers' GPT-2 with these weights."""
    from transformers import GPT2LMHeadModel

    folder.mkdir()
    values = huggingface.to_settings(weights.config, VOCAB, eot=0)
    (folder / "config.json").write_text(json.dumps(values))
    checkpoint.save_tensors(huggingface.to_tensors(weights), folder / "model.safetensors")
    return GPT2LMHeadModel.from_pretrained(folder).eval()


@QUIET
def test_peft_reads_a_step_folder_with_the_same_logits(run, tmp_path):
    peft = pytest.importorskip("peft")
    out_dir, model, weights = run
    theirs = gpt2_of(weights, tmp_path / "hf")
    adapted = peft.PeftModel.from_pretrained(theirs, checkpoint.find(out_dir).path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(adapted(IDX).logits, logits(model), atol=1e-4, rtol=1e-4)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(
            merged(IDX).logits, logits(checkpoint.load_model(checkpoint.find(out_dir))),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip


@QUIET
def test_a_step_has_the_names_shapes_and_settings_that_peft_itself_would_save(run, tmp_path):
    peft = pytest.importorskip("peft")
    out_dir, _, weights = run
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(lora.TARGETS), fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = peft.get_peft_model(gpt2_of(weights, tmp_path / "hf"), settings)
    theirs.save_pretrained(tmp_path / "peft")
    expected = load_file(tmp_path / "peft/adapter_model.safetensors")
    saved = load_file(checkpoint.find(out_dir).path / "adapter_model.safetensors")
    assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in expected.items()}
    ours, others = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (checkpoint.find(out_dir).path, tmp_path / "peft")
    )
    for key in ours.keys() - {"base_model_name_or_path", "target_modules"}:
        assert ours[key] == others[key], key
    assert set(ours["target_modules"]) == set(others["target_modules"])


@QUIET
def test_adapters_that_peft_trained_are_read_here(run, tmp_path):
    peft = pytest.importorskip("peft")
    out_dir, _, weights = run
    theirs = peft.PeftModel.from_pretrained(
        gpt2_of(weights, tmp_path / "hf"), checkpoint.find(out_dir).path, is_trainable=True
    )
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "lora_" in name:
                weight.add_(0.05 * torch.randn_like(weight))
    theirs.save_pretrained(tmp_path / "peft")
    again = weights.build()
    lora.add(again, RANK, ALPHA)
    lora.load(again, load_file(tmp_path / "peft/adapter_model.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(logits(again), theirs.eval()(IDX).logits, atol=1e-4, rtol=1e-4)


def test_half_an_adapter_is_no_adapter(run):
    out_dir, model, weights = run
    tensors = {k: v for k, v in lora.adapters(model).items() if "h.1.mlp.c_fc.lora_B" not in k}
    with pytest.raises(ValueError, match="no counterpart"):
        lora.merged(weights.tensors, tensors, ALPHA / RANK)
    save_file(tensors, out_dir / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.lora_B.*one side only"):
        lora.load(trained(weights), load_file(out_dir / "adapter_model.safetensors"))
