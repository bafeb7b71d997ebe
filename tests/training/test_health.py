"""Norms and ratios per group of layers, against the same by hand."""

import math

import pytest
import torch

from backend.config.schema import ModelConfig
from backend.models import lora
from backend.models.gpt import GPT
from backend.training.health import Health, group_of, plot_health
from backend.training.log import RunLog, read_rows


def make(**changes):
    torch.manual_seed(0)
    shape = dict(block_size=8, n_layer=2, n_head=2, n_embd=8) | changes
    return GPT(ModelConfig(**shape), vocab_size=30)


def backward(model):
    ids = torch.arange(8).view(1, 8)
    model(ids, ids)[1].backward()


def norm(tensors):
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("transformer.wte.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("_orig_mod.transformer.pairs.weight", "embeddings"),
        ("module.transformer.h.11.mlp.c_fc.bias", "h.11"),
        ("transformer.h.0._checkpoint_wrapped_module.attn.c_attn.weight", "h.0"),
        ("transformer.h.3.ln_1.weight", "norms"),
        ("transformer.ln_f.bias", "norms"),
        ("module.lm_head.weight", "head"),
    ],
)
def test_every_parameter_has_its_group_whatever_wraps_the_model(name, group):
    assert group_of(name) == group


def test_norms_and_ratios_are_those_by_hand():
    model, health = make(tied_head=False), Health()
    backward(model)
    old = {k: p.detach().clone() for k, p in model.named_parameters()}
    grads = {k: p.grad.clone() for k, p in model.named_parameters()}
    health.before(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)  # later than what is measured
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    row = health.after(model, step=7, clipped=3)
    assert (row["step"], row["clipped"]) == (7, 3)
    assert list(row["groups"]) == ["embeddings", "norms", "h.0", "h.1", "head"]
    new = dict(model.named_parameters())
    for group, found in row["groups"].items():
        names = [k for k in old if group_of(k) == group]
        weight = norm(old[k] for k in names)
        assert found["grad_norm"] == pytest.approx(norm(grads[k] for k in names), rel=1e-4)
        assert found["weight_norm"] == pytest.approx(weight, rel=1e-4)
        moved = norm(new[k].detach() - old[k] for k in names)
        assert found["update_ratio"] == pytest.approx(moved / weight, rel=1e-3)


def test_a_tied_head_is_the_embedding_and_frozen_weights_do_not_count():
    model, health = make(), Health()
    backward(model)
    health.before(model)
    assert "head" not in health.after(model, step=1, clipped=0)["groups"]
    model = make()
    lora.add(model, 2, 4.0)
    backward(model)
    health.before(model)
    assert set(health.after(model, step=1, clipped=0)["groups"]) == {"h.0", "h.1"}


def test_what_starts_at_zero_has_no_ratio_and_a_step_that_is_skipped_has_none():
    model, health = make(tied_head=False, zero_init=True), Health()
    backward(model)
    health.before(model)
    groups = health.after(model, step=1, clipped=0)["groups"]
    assert groups["head"]["update_ratio"] is None
    assert groups["h.0"]["update_ratio"] == 0.0


def test_squares_are_summed_over_the_processes_that_share_the_weights():
    """Two processes with the same part each: every norm grows by the root of two, ratios do not."""
    rows = []
    for total in (None, lambda squares: 2 * squares):
        model, health = make(), Health(total)
        backward(model)
        health.before(model)
        torch.optim.AdamW(model.parameters(), lr=1e-2).step()
        rows.append(health.after(model, step=1, clipped=0)["groups"])
    for group, alone in rows[0].items():
        both = rows[1][group]
        assert both["grad_norm"] == pytest.approx(math.sqrt(2) * alone["grad_norm"])
        assert both["weight_norm"] == pytest.approx(math.sqrt(2) * alone["weight_norm"])
        assert both["update_ratio"] == pytest.approx(alone["update_ratio"])


def test_sharded_weights_are_measured_by_the_part_that_is_here():
    class Sharded(torch.nn.Parameter):
        def to_local(self):
            return self.data[:1]

    model, health = torch.nn.Linear(1, 4, bias=False), Health()
    model.weight = Sharded(torch.full((4, 1), 3.0))
    health.before(model)
    found = health.after(model, step=1, clipped=0)["groups"]["embeddings"]
    assert found["weight_norm"] == pytest.approx(3.0)
    assert found["grad_norm"] == 0.0  # no backward pass has been


def test_the_run_keeps_rows_once_and_draws_them(tmp_path):
    assert plot_health(tmp_path) is None
    tracked = []

    class Tracker:
        def log(self, row):
            tracked.append(row)

        def finish(self):
            pass

    groups = {
        name: {"grad_norm": 1.0, "weight_norm": 2.0, "update_ratio": None}
        for name in ("embeddings", "h.0", "h.1", "norms")
    }
    groups["h.1"] |= {"grad_norm": math.inf, "update_ratio": 1e-3}
    with RunLog(tmp_path, resumed_at=None, trackers=[Tracker()]) as log:
        for step in range(1, 6):
            log.health({"step": step, "clipped": step % 2, "groups": groups})
    rows = read_rows(tmp_path / "health.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["groups"]["h.1"]["grad_norm"] is None  # no infinity in JSON
    assert tracked[0]["grad_norm.h.0"] == 1.0
    assert tracked[0]["split"] == "health"
    assert plot_health(tmp_path).read_bytes().startswith(b"\x89PNG")
    with RunLog(tmp_path, resumed_at=3):
        pass
    assert [row["step"] for row in read_rows(tmp_path / "health.jsonl")] == [1, 2, 3]
    with RunLog(tmp_path, resumed_at=None):
        pass
    assert not (tmp_path / "health.jsonl").exists()
