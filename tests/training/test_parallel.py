"""Two processes are one: DDP and FSDP train, save, go on and evaluate as one process does.

The module is also the program that torchrun starts, once for all tests:

    python -m torch.distributed.run --nproc_per_node=2 -m tests.training.test_parallel FOLDER

Each case leaves FOLDER/<case>.safetensors: losses, norms, weights, the optimizers' state.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.config.schema import ModelConfig
from backend.errors import ConfigError
from backend.evaluation.loss import split_loss
from backend.models import lora
from backend.models.attention import KVCache
from backend.models.gpt import GPT
from backend.runtime import _cores, detect
from backend.training import parallel
from tests.conftest import ROOT
from tests.evaluation.test_loss import make_split

B, T, V = 2, 16, 53
SPLIT = [(5, 40), (0, 7), (30, 1), (2, 90), (0, 3), (1, 9), (0, 4)]  # an odd number of batches
PROCESSES = 2
CASES = {  # what differs from a plain run
    "tied": {},
    "untied": dict(tied_head=False, position="rotary"),
    "dropout": dict(dropout=0.2),
    "checkpointed": dict(dropout=0.2, checkpointing=True),
    "muon": dict(muon=True),
    "lora": dict(lora=True, dropout=0.2),
    "bfloat16": dict(dtype="bfloat16"),
}


def make_model(*, seed=0, **changes):
    torch.manual_seed(seed)
    # no biases: a key's has no gradient but rounding errors, and AdamW makes steps of those
    shape = dict(block_size=T, n_layer=2, n_head=2, n_embd=32, bias=False)
    return GPT(ModelConfig(**(shape | changes)), vocab_size=V)


def train(runtime, how, steps, *, start=None, muon=False, lora=False, checkpointing=False,
          dtype="float32", **shape):  # fmt: skip
    """Steps of 4 micro-batches among all processes; returns the tensors of a case on rank 0."""
    runtime = replace(runtime, dtype=getattr(torch, dtype))
    model = make_model(**shape)
    if lora:
        add_adapters(model)
    if start:
        model.load_weights({k.removeprefix("model."): v for k, v in start.items() if "model." in k})
    if checkpointing:
        parallel.checkpointing(model)
    wrapped = parallel.wrap(model, how, runtime)
    named = {k: p for k, p in model.named_parameters() if p.requires_grad}
    hidden = {k: p for k, p in named.items() if muon and ".h." in k and p.dim() == 2}
    rest = [p for k, p in named.items() if k not in hidden]
    optimizers = [torch.optim.AdamW(rest, lr=1e-3, fused=True)]
    if hidden:
        kind = parallel.ShardedMuon if how == "fsdp" else torch.optim.Muon
        # Newton-Schulz is in bf16: another last bit of a gradient is 1e-2 of a step
        optimizers.append(kind(hidden.values(), lr=0.001))
    states = {k: o.state for o in optimizers for g in o.param_groups for p in g["params"]
              for k, mine in named.items() if p is mine}  # fmt: skip
    for name, parameter in named.items() if start else ():
        prefix = f"optimizer.{name}."
        states[name][parameter] = {k.removeprefix(prefix): parallel.shard_like(v, parameter)
                                   for k, v in start.items() if k.startswith(prefix)}  # fmt: skip
    losses, norms = [], []
    for step in steps:
        micros = range(runtime.rank, 4, runtime.world_size)
        total = torch.zeros(())
        for micro in micros:
            torch.manual_seed(1000 * step + micro)
            x, y = torch.randint(0, V, (2, B, T))
            with parallel.accumulating(wrapped, last=micro == micros[-1]):
                with runtime.autocast():
                    _, loss = wrapped(x, y)
                (loss / len(micros)).backward()
            total += loss.detach() / 4
        norms.append(parallel.clip(model.parameters(), 0.5))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(runtime.sum(total))
    tensors = {f"model.{k}": v for k, v in model.weights().items()}
    tensors |= {f"optimizer.{k}.{name}": v for k, p in named.items()
                for name, v in states[k][p].items()}  # fmt: skip
    numbers = {"losses": torch.stack(losses), "norms": torch.stack(norms)}
    return numbers | {k: v.clone() for k, v in parallel.gathered(tensors, runtime).items()}


def add_adapters(model):
    lora.add(model, rank=2, alpha=4.0)
    for name, p in model.named_parameters():  # B is zero at first, and with it A's gradient
        if name.endswith("lora_B"):
            torch.nn.init.normal_(p, std=0.02)


def main(folder):
    """What each of the two processes does."""
    with closing(detect(device="cpu", dtype="float32", training=True)) as runtime:
        for case, changes in CASES.items():
            for how in ("ddp", "fsdp"):
                keep(folder, f"{case}-{how}", runtime, train(runtime, how, range(5), **changes))
        start = load_file(folder / "start.safetensors")
        on = train(runtime, "fsdp", range(5, 8), start=start, seed=9, muon=True)
        keep(folder, "on", runtime, on)
        found = {"shown": runtime.shown(), "threads": torch.get_num_threads()}
        for how in ("ddp", "fsdp"):
            model = make_model()
            parallel.wrap(model, how, runtime)
            forwards = []
            model.register_forward_hook(lambda _, x, __, seen=forwards: seen.append(x[0].shape))
            got = split_loss(model, make_split(SPLIT), runtime, batch_size=2)
            found[how] = [got.nats, got.tokens, got.chars, len(forwards)]
        found["muon"] = muon_of_equal_gradients(runtime)
        found["any"] = [runtime.any(False), runtime.any(runtime.rank == 1), runtime.any(True)]
        found["sum"] = runtime.sum(torch.tensor([1.0, runtime.rank], dtype=torch.float64)).tolist()
        with runtime.main_first():
            time.sleep(0.3 * runtime.is_main)
            with (folder / "order").open("a") as file:
                file.write(str(runtime.rank))
        (folder / f"found{runtime.rank}.json").write_text(json.dumps(found))


def muon_of_equal_gradients(runtime):
    """The largest difference between PyTorch's Muon on whole matrices and ours on shards."""
    plain, sharded = make_model(), make_model()
    parallel.wrap(sharded, "fsdp", runtime)
    pairs = [(a, b) for (name, a), b in zip(plain.named_parameters(), sharded.parameters(),
             strict=True) if ".h." in name and a.dim() == 2]  # fmt: skip
    optimizers = [torch.optim.Muon([a for a, _ in pairs], lr=0.02),
                  parallel.ShardedMuon([b for _, b in pairs], lr=0.02)]  # fmt: skip
    for step in range(3):
        torch.manual_seed(step)  # in both processes
        x, y = torch.randint(0, V, (2, B, T))
        for model, optimizer in zip((plain, sharded), optimizers, strict=True):
            model(x, y)[1].backward()
            optimizer.step()
            model.zero_grad()
    return max((a - parallel.whole(b)).abs().max().item() for a, b in pairs)


def keep(folder, case, runtime, tensors):
    if runtime.is_main:
        save_file(tensors, folder / f"{case}.safetensors")
    else:
        assert tensors.keys() == {"losses", "norms"}


@pytest.fixture(scope="module")
def alone():
    return detect(device="cpu", dtype="float32", training=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory, alone):
    """The folder in which two processes left what they did."""
    folder = tmp_path_factory.mktemp("both")
    save_file(train(alone, "none", range(5), muon=True), folder / "start.safetensors")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc_per_node={PROCESSES}", "-m", "tests.training.test_parallel",
               str(folder)]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def found(folder):
    return [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(PROCESSES)]


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        assert mine.shape == theirs[name].shape, name
        assert (mine - theirs[name]).abs().max() <= tolerance, name


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [("tied", 1e-6), ("untied", 1e-6), ("dropout", 1e-6), ("muon", 1e-4), ("lora", 1e-6),
     ("bfloat16", 2e-3)],
)  # fmt: skip
def test_two_processes_train_as_one(both, alone, case, how, tolerance):
    one = train(alone, "none", range(5), **CASES[case])
    assert_close(load_file(both / f"{case}-{how}.safetensors"), one, tolerance)


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_compute_activations_again_bit_for_bit(both, how):
    assert_close(*(load_file(both / f"{c}-{how}.safetensors") for c in ("checkpointed", "dropout")),
                 0.0)  # fmt: skip


@pytest.mark.e2e
def test_muon_on_shards_is_muon_bit_for_bit(both):
    assert [process["muon"] for process in found(both)] == [0.0, 0.0]


@pytest.mark.e2e
def test_what_two_sharded_processes_saved_goes_on_in_one(both, alone):
    whole = train(alone, "none", range(8), muon=True)
    start = load_file(both / "muon-fsdp.safetensors")
    rest = train(alone, "none", range(5, 8), start=start, seed=9, muon=True)
    for tensors in (whole, rest):
        tensors["losses"], tensors["norms"] = tensors["losses"][-3:], tensors["norms"][-3:]
    assert_close(rest, whole, 1e-4)
    assert_close(load_file(both / "on.safetensors"), whole, 1e-4)  # and the other way round


@pytest.mark.e2e
def test_a_split_dealt_out_unevenly_scores_as_in_one_process(both, alone):
    forwards = []
    model = make_model()
    model.register_forward_hook(lambda _, x, __: forwards.append(x[0].shape))
    one = split_loss(model, make_split(SPLIT), alone, batch_size=2)
    assert len(forwards) % PROCESSES
    for process in found(both):
        for how in ("ddp", "fsdp"):
            nats, tokens, chars, n = process[how]
            assert nats == pytest.approx(one.nats, rel=1e-6)
            assert (tokens, chars) == (one.tokens, one.chars)
            assert n == len(forwards) // PROCESSES + 1


@pytest.mark.e2e
def test_processes_agree_and_wait_for_each_other(both):
    for rank, process in enumerate(found(both)):
        assert process["any"] == [False, True, True]
        assert process["sum"] == [2.0, 1.0]
        assert process["shown"].endswith(f"process {rank + 1} of 2")
        assert process["threads"] == max(1, _cores() // 2)
    assert (both / "order").read_text() == "01"


def test_activations_computed_again_change_no_bit_and_no_name(alone):
    plain, again = make_model(dropout=0.3), make_model(dropout=0.3)
    parallel.checkpointing(again)
    calls = []
    again.transformer.h[0].attn.register_forward_hook(lambda *_: calls.append(1))
    x, y = torch.randint(0, V, (2, B, T))
    for model in (plain, again):
        torch.manual_seed(1)
        model(x, y)[1].backward()
    assert len(calls) == 2
    ours, theirs = (dict(model.named_parameters()) for model in (again, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k].grad, theirs[k].grad) for k in ours)


def test_generation_from_a_checkpointed_model_keeps_its_cache():
    model = make_model().eval()
    ids = torch.randint(0, V, (1, 6))
    expected = model(ids)[0]
    parallel.checkpointing(model)
    with torch.no_grad():
        cache = KVCache(model.config, 1, model.lm_head.weight)
        parts = [model(ids[:, :4], cache=cache)[0], model(ids[:, 4:], cache=cache)[0]]
    assert cache.lengths == [6]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)


def test_one_process_runs_plain_and_says_so(alone, capsys):
    assert parallel.strategy("auto", alone) == "none"
    assert not capsys.readouterr().out
    assert parallel.strategy("fsdp", alone) == "none"
    assert "one process" in capsys.readouterr().out
    model = make_model()
    assert parallel.wrap(model, "none", alone) is model


def test_several_processes_share_the_work_or_are_refused(alone):
    two = replace(alone, world_size=2)
    assert parallel.strategy("auto", two) == "ddp"
    assert parallel.strategy("fsdp", two) == "fsdp"
    with pytest.raises(ConfigError, match="--parallel=ddp"):
        parallel.strategy("none", two)
    with pytest.raises(ConfigError, match=r"(?s)float16.*--parallel=ddp"):
        parallel.strategy("fsdp", replace(two, dtype=torch.float16))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
