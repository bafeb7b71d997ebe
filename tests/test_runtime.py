"""What the machine has, what was asked for, and what is said where they disagree."""

import os
from dataclasses import replace

import pytest
import torch

from backend import runtime
from backend.errors import ConfigError
from backend.runtime import detect


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of one of two processes, which do not really meet."""
    monkeypatch.setattr(runtime, "_meet", lambda backend, device: None)
    facts = dict(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, OMP_NUM_THREADS=1,
                 MASTER_ADDR="localhost", MASTER_PORT=1)  # fmt: skip
    for name, value in facts.items():
        monkeypatch.setenv(name, str(value))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pretend_gpus(monkeypatch, n, capability=(8, 0)):
    for name, value in {
        "is_available": True, "device_count": n, "get_device_capability": capability,
        "get_device_name": "Pretended",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(runtime, "_device_gb", lambda device: 1.0)


def test_one_process_is_the_main_one_and_sums_to_itself():
    alone = detect(device="cpu")
    assert alone.is_main
    assert alone.world_size == 1
    tensor = torch.ones(3)
    assert alone.sum(tensor) is tensor
    assert alone.any(True)
    assert not alone.any(False)
    with alone.main_first():
        alone.barrier()
    alone.close()
    assert "process" not in alone.shown()


def test_processes_on_one_machine_share_its_cores(torchrun, monkeypatch):
    monkeypatch.setattr(runtime, "_cores", lambda: 6)
    second = detect(device="cpu", training=True)
    assert torch.get_num_threads() == 3
    assert (second.rank, second.local_rank, second.world_size) == (1, 1, 2)
    assert not second.is_main
    assert second.shown().endswith("process 2 of 2")
    detect(device="cpu", training=True, threads=2)
    assert torch.get_num_threads() == 2
    os.environ["OMP_NUM_THREADS"] = "5"  # somebody's choice, which PyTorch followed at its start
    detect(device="cpu", training=True)
    assert torch.get_num_threads() == 2


def test_each_process_has_a_gpu_of_its_own(torchrun, monkeypatch):
    pretend_gpus(monkeypatch, 2)
    for device in ("auto", "cuda"):
        assert detect(device=device, training=True).device == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"one device, and torchrun started 2"):
        detect(device="cuda:0", training=True)
    pretend_gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match="(?s)has 1 GPU\n.*--nproc_per_node=1"):
        detect(training=True)


def test_a_program_that_does_not_train_refuses_several_processes(torchrun):
    with pytest.raises(ConfigError, match="torchrun started several"):
        detect(device="cpu")


def test_half_an_environment_of_torchrun_is_a_sentence(torchrun, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError, match=r"(?s)MASTER_ADDR is not set.*make ddp-train"):
        detect(device="cpu", training=True)


@pytest.mark.parametrize(("backend", "said"), [("nope", "has none here"), ("nccl", "nccl")])
def test_a_backend_that_cannot_serve_is_a_sentence(backend, said):
    with pytest.raises(ConfigError, match=said):
        runtime._meet(backend, torch.device("cpu"))


@pytest.mark.parametrize(
    ("table", "dtype", "why"),
    [
        ({"avx512_bf16": True}, torch.bfloat16, "the processor has it"),
        ({"bf16": True}, torch.bfloat16, "the processor has it"),
        ({"avx512_f": True}, torch.float32, "the processor has no bfloat16"),
    ],
)
def test_training_takes_bfloat16_where_the_processor_has_it(monkeypatch, table, dtype, why):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: table, raising=False)
    found = detect(device="cpu", training=True)
    assert (found.dtype, found.dtype_reason) == (dtype, why)
    assert detect(device="cpu").dtype == torch.float32  # to generate, always
    asked = detect(device="cpu", dtype="bfloat16")
    assert asked.dtype == torch.bfloat16
    assert ("emulated" in asked.dtype_reason) == (dtype == torch.float32)


@pytest.mark.parametrize("has", [True, False])
def test_an_older_pytorch_is_asked_by_its_probes(monkeypatch, has):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    assert runtime.cpu_has_bfloat16() == has


def test_a_gpu_without_bfloat16_takes_float16(monkeypatch):
    pretend_gpus(monkeypatch, 1, capability=(7, 5))
    assert detect(training=True).dtype == torch.float16
    pretend_gpus(monkeypatch, 1)
    assert detect(training=True).dtype == torch.bfloat16


def test_float16_is_refused_where_it_cannot_train():
    with pytest.raises(ConfigError, match="CUDA only"):
        detect(device="cpu", dtype="float16", training=True)


def test_only_several_processes_say_which_they_are():
    alone = detect(device="cpu")
    assert replace(alone, world_size=2).shown() == alone.shown() + ", process 1 of 2"


def test_a_container_has_no_more_memory_than_it_was_given(monkeypatch, tmp_path):
    whole = runtime._device_gb(torch.device("cpu"))
    assert 0.1 < whole < 100_000
    limits = {"max": "max\n", "given": f"{2**28}\n"}
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(runtime, "CGROUP_LIMITS", [tmp_path / "max", tmp_path / "absent"])
    assert runtime._device_gb(torch.device("cpu")) >= whole
    monkeypatch.setattr(runtime, "CGROUP_LIMITS", [tmp_path / "max", tmp_path / "given"])
    assert runtime._device_gb(torch.device("cpu")) == 0.25
