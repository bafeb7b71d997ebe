"""What a run will need: how a step is dealt out, memory, minutes, advice."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config.schema import ModelConfig, TrainConfig
from backend.data.batches import IGNORE, Batch
from backend.data.bins import Bins
from backend.errors import ConfigError, UserError
from backend.models.gpt import on_meta
from backend.runtime import detect
from backend.training import estimate, optim
from backend.training.estimate import Division
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def runtime():
    return detect(device="cpu", memory_gb=4.0)


def model_of(config, vocab_size=50):
    return on_meta(config.part(ModelConfig), vocab_size)


@given(
    processes=st.integers(1, 8), batch_size=st.integers(1, 9), accumulation=st.integers(1, 6),
    eighths=st.integers(1, 8),
)  # fmt: skip
def test_every_sequence_of_a_step_is_dealt_out_exactly_once(
    processes, batch_size, accumulation, eighths
):  # fmt: skip
    division = Division(processes * batch_size * accumulation, batch_size, processes)
    share = max(1, division.sequences * eighths // 8 // processes)
    of = share * processes
    dealt = [division.rows(rank, of) for rank in range(processes)]
    assert sorted(i for mine in dealt for rows in mine for i in rows) == list(range(of))
    assert all(0 < len(rows) <= batch_size for mine in dealt for rows in mine)
    # under FSDP a forward is a collective
    assert len({len(mine) for mine in dealt}) == 1
    if of == division.sequences:
        assert len(dealt[0]) == division.accumulation == accumulation


@given(
    sequences=st.integers(1, 200), processes=st.integers(1, 8), warmup=st.integers(0, 30),
    tokens=st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_a_step_is_divided_evenly_while_it_warms_up_or_refused_with_what_would_do(
    sequences, processes, warmup, tokens
):  # fmt: skip
    several = replace(detect(device="cpu", memory_gb=4.0), world_size=processes)

    def divided(**more):
        division = estimate.divide(TrainConfig(**TINY | said | more), several, 50)
        for step in range(warmup + 1):
            of = optim.sequences(division.sequences, warmup, step)
            assert sum(len(r) for i in range(processes) for r in division.rows(i, of)) == of
        return division

    said = dict(batch_warmup_iters=warmup)
    if tokens:
        said |= dict(tokens_per_step=sequences * 32, batch_size="auto")
    else:
        said |= dict(tokens_per_step=None, batch_size=1, gradient_accumulation_steps=sequences)
    try:
        division = divided()
    except ConfigError as error:
        key, value = re.match(r"--(\w+)=(\d+)", error.mend).groups()
        divided(**{key: int(value)})
    else:
        assert division.sequences == sequences


def test_a_batch_that_warms_up_through_odd_sizes_is_refused_by_two_processes(tiny, runtime):
    config = tiny(tokens_per_step=20 * 32, batch_size=2, batch_warmup_iters=9)
    assert estimate.divide(config, runtime, 50).accumulation == 10
    two = replace(runtime, world_size=2)
    with pytest.raises(ConfigError, match=r"(?s)2, 5, 10, 20 .*--tokens_per_step=512"):
        estimate.divide(config, two, 50)
    assert estimate.divide(replace(config, batch_warmup_iters=0), two, 50).accumulation == 5


def test_nanogpts_keys_are_dealt_out_over_all_processes(tiny, runtime):
    config = tiny(tokens_per_step=None, batch_size=3, gradient_accumulation_steps=8)
    division = estimate.divide(config, replace(runtime, world_size=4), 50)
    assert (division.sequences, division.accumulation) == (24, 2)
    with pytest.raises(ConfigError, match=r"(?s)8 is not a multiple of 3.*=9"):
        estimate.divide(config, replace(runtime, world_size=3), 50)


def test_the_time_left_counts_the_smaller_batches_and_only_the_steps_to_come(tiny):
    config = tiny(max_iters=40, batch_warmup_iters=24, tokens_per_step=32 * 32)
    division = Division(32, 2, 2)
    torch.manual_seed(0)
    model = model_of(config)

    def left(step):
        said = estimate.forecast(config, division, model, 6.0, step)
        return re.search(r"time: +(\S+) for (\d+) steps of (\S+) s", said).groups()

    # rows: 8 steps each of 4, 8 and 16, and 16 of 32; micro-batches of 2 in 2 processes
    assert left(0) == (estimate.clock((32 + 64 + 128 + 512) / 4 * 6.0), "40", "48.00")
    assert left(24) == (estimate.clock(512 / 4 * 6.0), "16", "48.00")
    assert left(99)[:2] == ("0:00", "0")


@pytest.mark.parametrize(
    ("max_iters", "dropout", "wanted"),
    [(8, 0.0, None), (40, 0.0, "0.1"), (40, 0.1, None), (120, 0.0, "0.2"), (200, 0.2, "0.3")],
)
def test_songs_that_will_be_learnt_by_heart_are_told_with_what_helps(
    corpus, tiny, max_iters, dropout, wanted
):  # fmt: skip
    bins = Bins.open("tiny/char")
    config = tiny(max_iters=max_iters, dropout=dropout)
    division = Division(4, 2, 1)
    said = estimate.advice(config, bins, model_of(config), division)
    assert (said is None) == (wanted is None)
    if wanted:
        epochs = max_iters * 128 / len(bins.train.tokens)
        assert said.startswith(f"{epochs:.0f} passes over {bins.train.chars:,} characters")
        assert f"--dropout={wanted} helps" in said
    assert estimate.advice(replace(config, lora_rank=4), bins, model_of(config), division) is None


def test_one_batch_again_and_again_needs_no_advice(corpus, tiny):
    config = tiny(max_iters=9999, dropout=0.0, overfit_one_batch=True)
    bins = Bins.open("tiny/char")
    assert estimate.advice(config, bins, model_of(config), Division(4, 2, 1)) is None


def test_an_excerpt_shows_what_is_read_above_what_is_guessed_and_no_padding(corpus):
    bins = Bins.open("tiny/char")
    windows = (bins.train.tokens[i : i + 14].tolist() for i in range(1000))
    ids = torch.tensor([next(w for w in windows if bins.tokenizer.decode(w) == "The wheel goes")])
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[0, -4:] = IGNORE
    assert estimate.excerpt(Batch(x, y, None), bins) == "  x | 'The wheel goe'\n  y | 'he wheel '"


def test_when_memory_does_not_suffice_each_knob_is_told_with_less_than_now(tiny, runtime):
    config = tiny(block_size=128, n_embd=64, tokens_per_step=1024, batch_size=8)
    division = estimate.divide(config, runtime, 5000)
    there = replace(runtime, device_gb=16.0)
    error = estimate.out_of_memory(config, division, 5000, there)
    [needs] = re.findall(r"a step needs about ([\d.]+) GB, and the device has 16.0 GB", str(error))
    knobs = re.findall(r"--(\S+) \(.*\): ([\d.]+) GB", error.mend)
    assert [name for name, _ in knobs] == [
        "batch_size=4", "activation_checkpointing", "block_size=64"
    ]  # fmt: skip
    assert all(float(gb) <= float(needs) for _, gb in knobs)
    assert "8 sequences of 128 tokens" in error.what


def test_no_knob_is_offered_that_is_turned_already(tiny, runtime):
    config = tiny(tokens_per_step=32, batch_size=1, activation_checkpointing=True)
    division = estimate.divide(config, runtime, 50)
    error = estimate.out_of_memory(config, division, 50, runtime)
    assert re.findall(r"--(\w+)", error.mend) == ["n_layer", "n_embd"]


def test_what_the_machine_cannot_hold_is_refused_before_it_is_tried(tiny, runtime):
    # the kernel kills whoever tries, and no message comes
    config = tiny(block_size=999_999, tokens_per_step=999_999, batch_size=1, batches="songs")
    division = estimate.divide(config, runtime, 50)
    with pytest.raises(UserError, match="out of memory on cpu") as caught:
        estimate.check_memory(config, division, 50, runtime)
    [(size, gb)] = re.findall(r"--block_size=(\d+) .*: ([\d.]+) GB", caught.value.mend)
    assert 1000 < int(size) < 999_999
    assert float(gb) <= runtime.device_gb
    estimate.check_memory(tiny(), estimate.divide(tiny(), runtime, 50), 50, runtime)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("block_size"), False),
    ],
)  # fmt: skip
def test_lack_of_memory_is_known_on_any_device(error, is_one):
    assert estimate.is_out_of_memory(error) == is_one
