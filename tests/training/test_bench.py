"""The bench: what it reads from other programs, its arithmetic, and the page it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config import schema
from backend.config.loader import from_values, load
from backend.config.schema import BenchConfig, TrainConfig
from backend.errors import ConfigError
from backend.models import checkpoint, nanogpt
from backend.models.gpt import GPT, on_meta
from backend.training import bench, bench_generation, bench_model, bench_step, bench_train
from backend.training.bench_train import OURS, SHORT, Race, Result, Run, closing, steps_for
from backend.training.measure import Measured, measure
from tests.conftest import ROOT

PRINTED = """found vocab_size = 65 (inside data/shakespeare_char/meta.pkl)
step 0: train loss 4.2000, val loss 4.3000
iter 0: loss 4.2516, time 900.00ms, mfu -100.00%
iter 1: loss 4.1000, time 50.00ms, mfu -100.00%
iter 2: loss 4.0000, time 70.00ms, mfu -100.00%
step 3: train loss 3.7000, val loss 3.8000
saving checkpoint to out
iter 3: loss 3.9000, time 800.00ms, mfu 0.05%
iter 4: loss 3.8000, time 60.00ms, mfu 0.05%
"""
MARKS = "a\n<!-- bench:{0} -->\nold\n<!-- /bench:{0} -->\nz\n"


def run(seconds, tokens=1000.0, steps=10):
    return Run(steps, seconds, tokens, [], Measured(1.0, 2.0, 300.0, ""), Path("nowhere"))


def result(seconds, loss, rate=200.0):
    return Result(seconds, rate, loss, loss, 0.0)


# --- what other programs print -------------------------------------------------------------------


def test_an_iteration_of_nanogpt_that_holds_an_evaluation_counts_as_the_median_of_the_others():
    seconds, curve = bench_train.read_nanogpt(PRINTED)
    assert seconds == pytest.approx([0.06, 0.05, 0.07, 0.06, 0.06])
    assert curve == [(0, 4.3), (pytest.approx(0.18), 3.8)]


def test_output_without_an_iteration_is_told():
    with pytest.raises(ConfigError, match="no iteration"):
        bench_train.read_nanogpt("Traceback")
    with pytest.raises(ConfigError, match="no time"):
        bench_step.read_bench("Traceback")
    assert bench_step.read_bench("time per iteration: 135.1234ms, MFU: 25.00%") == 135.1234


def test_our_seconds_are_the_steps_and_the_curve_lies_at_their_sums(tmp_path):
    rows = [
        {"step": 0, "split": "val", "loss": 4.0},
        {"step": 1, "split": "train", "seconds": 0.5, "tokens_per_s": 200, "loss": 3.0},
        {"step": 2, "split": "train", "seconds": 0.25, "tokens_per_s": 400, "loss": 2.5},
        {"step": 2, "split": "val", "loss": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seconds, tokens, curve = bench_train.read_ours(tmp_path)
    assert (seconds, tokens) == ([0.5, 0.25], 200)
    assert curve == [(0, 4.0), (0.75, 2.0)]


def test_a_child_has_no_way_of_waiting_from_us_and_its_processor_time_is_told(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    program = "import os; print(os.environ.get('OMP_WAIT_POLICY')); sum(range(10**7))"
    got = measure([sys.executable, "-c", program])
    assert got.output == "None\n"
    assert 0 < got.cpu_seconds < 60


def test_a_child_that_fails_is_told_with_its_last_lines():
    with pytest.raises(ConfigError, match="ended with 3:\nwhy"):
        measure([sys.executable, "-c", "print('why'); raise SystemExit(3)"])


# --- equal time ----------------------------------------------------------------------------------


def test_steps_fill_the_time_by_what_a_step_cost():
    assert steps_for(100.0, 0.1, 1) == 1000
    assert steps_for(100.0, 120.0, 1200) == 1000
    assert steps_for(1.0, 10.0, 1) == 2  # a run has a step to learn from


@pytest.mark.parametrize(
    ("costs", "steps", "kept"),
    [
        ([0.1], [1000], 1000),  # as calibrated
        ([0.2, 0.2], [1000, 500], 500),  # twice as slow as calibrated: again
        ([0.2, 0.15], [1000, 500], 500),  # once
        ([0.05, 0.05], [1000, 2000], 2000),  # too short counts as well
        ([0.11, 0.3], [1000, 909], 1000),  # the machine grew slow: the nearer one stays
    ],
)
def test_a_run_that_missed_its_time_is_run_again_once(monkeypatch, costs, steps, kept):
    asked, left = [], iter(costs)

    def ours(self, words, n, **more):
        asked.append(n)
        return run(n * next(left), steps=n)

    monkeypatch.setattr(Race, "__init__", lambda self: None)
    monkeypatch.setattr(Race, "cost", lambda self, words: 0.1)
    monkeypatch.setattr(Race, "ours", ours)
    race = Race()
    race.config = BenchConfig()
    [last] = race.in_time(100.0, ("recipe",), 1, "ours")
    assert asked == steps
    assert last.steps == kept


def test_the_next_seed_takes_its_steps_from_the_run_before(monkeypatch):
    asked = []

    def ours(self, words, n, *, seed, name):
        asked.append((seed, n))
        return run(n * 0.101, steps=n)

    monkeypatch.setattr(Race, "__init__", lambda self: None)
    monkeypatch.setattr(Race, "cost", lambda self, words: 0.1)
    monkeypatch.setattr(Race, "ours", ours)
    race = Race()
    race.config = BenchConfig(seed=7)
    race.in_time(100.0, ("recipe",), 2, "ours")
    assert asked == [(7, 1000), (8, 990)]


def test_medians_over_the_seeds():
    runs = [run(10.0), run(12.0), run(11.0)]
    got = Result.of(runs, [(1.5, 1.4), (1.7, 1.6), (1.52, 1.45)])
    assert (got.seconds, got.loss, got.own) == (11.0, 1.52, 1.45)
    assert got.spread == pytest.approx(0.2)


# --- the three lines -----------------------------------------------------------------------------


def test_a_comparison_closes_with_three_lines():
    text = closing(run(120.0, 12_000.0), 1.8982, result(119.0, 1.5512, 150.0), result(14.0, 1.89))
    assert text == (
        "time to nanoGPT's loss: 14.0 s against 120.0 s, ratio 8.6\n"
        "loss at equal time: 1.5512 against 1.8982\n"
        "tokens/s ratio: 1.50"
    )


def test_a_short_run_that_did_not_reach_their_loss_claims_no_ratio():
    text = closing(run(120.0), 1.8982, result(119.0, 1.5512), result(15.0, 1.8983))
    assert text.startswith(
        "time to nanoGPT's loss: above 15.0 s against 120.0 s, ratio below 8.0\n"
    )


# --- the losses and the recipes ------------------------------------------------------------------


def test_every_token_but_the_first_is_guessed_once_by_windows():
    torch.manual_seed(0)
    shape = schema.ModelConfig(block_size=8, n_layer=1, n_head=2, n_embd=8)
    gpt, ids = GPT(shape, 20), torch.randint(20, (8 * 3 + 6,))
    nats, n = 0.0, 0
    for start in range(0, len(ids) - 1, 8):
        x = ids[start : min(start + 8, len(ids) - 1)]
        y = ids[start + 1 : start + 1 + len(x)]
        logits = gpt(x[None])[0][0]
        nats -= logits.log_softmax(-1)[torch.arange(len(y)), y].sum().item()
        n += len(y)
    assert n == len(ids) - 1
    assert bench_model.window_loss(gpt, ids, 8) == pytest.approx(nats / n, abs=1e-5)
    assert gpt.training  # as it was


def test_nanogpts_checkpoint_and_ours_are_scored_by_the_same_windows(tmp_path):
    """Our own weights, written as nanoGPT's ckpt.pt, have the same loss."""
    torch.manual_seed(0)
    shape = schema.ModelConfig(
        block_size=16, n_layer=1, n_head=2, n_embd=16, bias=False, activation="gelu"
    )
    gpt = GPT(shape, 30).eval()
    weights = checkpoint.Weights(gpt.config, 30, gpt.weights())
    nanogpt.write(tmp_path / "ckpt.pt", weights, step=1, loss=1.0, dataset="x")
    again = checkpoint.load_model(checkpoint.find(tmp_path / "ckpt.pt", "last"))
    ids = torch.randint(30, (100,))
    assert bench_model.window_loss(again, ids, 16) == bench_model.window_loss(gpt, ids, 16)


def test_our_recipes_load_and_the_short_one_lies_over_the_other():
    for words in (OURS, (*OURS, *SHORT), bench_train.SAME_RECIPE):
        load(TrainConfig, words)


def test_the_ladder_ends_with_our_recipe_and_no_rung_is_empty():
    found = bench_train.rungs()
    end, ours = load(TrainConfig, found[-1][1]), load(TrainConfig, OURS)
    for part in (schema.ModelConfig, schema.DataConfig, schema.OptimConfig):
        for key in part().as_dict().keys() - {"dataset", "max_iters", "lr_decay_iters"}:
            assert getattr(end, key) == getattr(ours, key), key
    lengths = [len(words) for _, words in found]
    assert lengths == sorted(set(lengths))
    for _, words in found:
        load(TrainConfig, words)


def test_nanogpt_gets_its_own_ids_and_its_own_split(tmp_path):
    checkout = tmp_path / "nanoGPT"
    checkout.mkdir()
    (checkout / "model.py").touch()
    text = "To be, or not to be: that is the question.\n" * 40
    (tmp_path / "text.txt").write_text(text)
    config = BenchConfig(nanogpt=str(checkout), text=str(tmp_path / "text.txt"))
    race = bench_train._text_race(config, tmp_path)
    race.laid_out()
    letters = sorted(set(text))
    ids = [letters.index(c) for c in text]
    cut = int(len(text) * 0.9)
    for name, own in (("train", ids[:cut]), ("val", ids[cut:])):
        assert np.fromfile(tmp_path / "nanogpt" / f"{name}.bin", np.uint16).tolist() == own
    assert race.characters.tolist() == ids[cut:]
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))['vocab_size'])"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "nanogpt" / "meta.pkl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == len(letters)


def test_the_picture_is_drawn_whole(tmp_path):
    theirs = Run(3, 9.0, 90.0, [(0, 4.0), (9.0, 2.0)], Measured(1, 1, 1, ""), tmp_path)
    drawn = Run(3, 9.0, 90.0, [(0, 4.0), (9.0, 1.5)], Measured(1, 1, 1, ""), tmp_path)
    path = tmp_path / "assets" / "equal_time.png"
    bench_train._draw(path, theirs, 1.9, drawn, result(9.0, 1.55), result(1.0, 1.89))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert bench_train.link(path, tmp_path / "docs" / "page.md") == "../assets/equal_time.png"


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with one section, which measures nothing."""
    path = tmp_path / "page.md"
    path.write_text(MARKS.format("lora"))
    monkeypatch.setitem(bench.SECTIONS, "lora", bench.Section(lambda config: r"12 \1 MB"))
    monkeypatch.delenv("NANOGPT", raising=False)
    return path


def test_a_section_is_replaced_between_its_marks_and_nothing_else(page):
    for _ in range(2):
        bench.main(BenchConfig(only=("lora",), file=str(page)))
        lines = page.read_text().splitlines()
        assert lines[:2] == ["a", "<!-- bench:lora -->"]
        assert "`python -m backend.training.bench --only=lora`" in lines[2]
        assert lines[4:] == [r"12 \1 MB", "<!-- /bench:lora -->", "z"]


def test_a_page_without_the_marks_is_told_before_anything_is_measured(page, monkeypatch):
    monkeypatch.setitem(bench.SECTIONS, "help", bench.Section(lambda config: pytest.fail("ran")))
    with pytest.raises(ConfigError, match="no section <!-- bench:help -->"):
        bench.main(BenchConfig(only=("help",), file=str(page)))


def test_what_lacks_something_is_left_out_with_a_line_and_refused_alone(page, capsys):
    bench.main(BenchConfig(only=("lora", "train"), file=str(page)))
    assert "leaving out train: it needs --text=FILE and --nanogpt=PATH" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing of train"):
        bench.main(BenchConfig(only=("train",), file=str(page)))


def test_a_gpu_and_its_sizes_are_asked_for_in_words(page, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        bench.main(BenchConfig(only=("small_gpu",), file=str(page)))
    with pytest.raises(ConfigError, match="--batch_size=2 --block_size=256"):
        bench.main(BenchConfig(only=("step",), device="cpu", file=str(page)))
    small = BenchConfig(batch_size=2, block_size=256, device="cpu")
    assert bench_step.too_much_for_a_cpu(small) is None


def test_the_command_names_what_the_figures_depend_on_and_no_place_of_this_machine(tmp_path):
    (tmp_path / "model.py").touch()
    config = BenchConfig(
        text="/home/me/shakespeare.txt", nanogpt=str(tmp_path), seeds=1, batch_size=2
    )
    words = " --text=shakespeare.txt --nanogpt=PATH"
    assert bench._given(config, "train") == f"{words} --seeds=1"
    assert bench._given(config, "ladder") == words
    assert bench._given(config, "step") == " --nanogpt=PATH --batch_size=2"
    assert bench._given(config, "help") == ""


def test_songs_that_are_not_there_are_missed_before_anything_is_trained(tmp_path):
    config = BenchConfig(text="unread.txt", songs=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no data\.json"):
        bench_train.train(config)


def test_a_folder_that_is_no_nanogpt_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no model\.py"):
        bench_model.checkout(BenchConfig(nanogpt=str(tmp_path)))


def test_the_keys_of_nanogpts_bench_have_its_defaults():
    config = from_values(BenchConfig, {})
    theirs = {
        "batch_size": 12, "block_size": 1024, "bias": False, "real_data": True, "seed": 1337,
        "profile": False,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in theirs} == theirs


def test_a_step_without_bins_takes_random_ids_and_says_so(tmp_path, capsys):
    assert bench_step._bins(BenchConfig(dataset=str(tmp_path / "none"))) is None
    assert "taking one batch of random ids" in capsys.readouterr().out


def test_every_section_of_the_bench_has_its_marks_on_the_page():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in bench.SECTIONS:
        assert text.count(f"<!-- bench:{name} -->") == 1, name
    by_name = {"flow", "ladder", "tokenizers", "transfer", "base"}
    assert set(BenchConfig().only) == bench.SECTIONS.keys() - by_name


# --- whole runs ----------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_few_steps_of_a_small_model_have_a_time_and_a_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_step, "BURN_IN", 1)
    monkeypatch.setattr(bench_step, "MEASURED", 2)
    shape = schema.ModelConfig(block_size=16, n_layer=1, n_head=2, n_embd=16)
    work = bench_step.Work(
        shape, 50, 2, "cpu", "float32", False, 1, accumulation=2, trace=tmp_path / "trace.json"
    )
    got = bench_step._measured(work)
    assert got.tokens_per_s == pytest.approx(2 * 16 * 2 / got.seconds)
    assert got.mfu is None
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "aten::" in got.operators


@pytest.mark.slow
def test_a_race_against_nanogpt_ends_with_the_three_lines_and_a_picture(tmp_path, monkeypatch):
    checkout = os.environ.get("NANOGPT")
    if not checkout:
        pytest.skip("NANOGPT names no checkout")
    songbook = sorted((ROOT / "assets" / "demo_songbook").rglob("*.txt"))
    (tmp_path / "text.txt").write_text("\n".join(p.read_text() for p in songbook))
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(MARKS.format("train"))
    before = sorted(p for p in Path(checkout).rglob("*") if ".git" not in p.parts)
    monkeypatch.setattr(bench_train, "CALIBRATION", 8)
    monkeypatch.setattr(bench_train, "WARM", 2)
    monkeypatch.chdir(tmp_path)
    bench.main(
        BenchConfig(
            only=("train",), nanogpt=checkout, text=str(tmp_path / "text.txt"), seeds=1,
            max_iters=20, file=str(page), picture=str(tmp_path / "assets" / "p.png"),
        )
    )  # fmt: skip
    text = page.read_text()
    lines = text.split("```text\n")[1].splitlines()[:3]
    assert [line.split(": ")[0] for line in lines] == [
        "time to nanoGPT's loss", "loss at equal time", "tokens/s ratio",
    ]  # fmt: skip
    assert "](../assets/p.png)" in text
    assert (tmp_path / "assets" / "p.png").is_file()
    after = sorted(p for p in Path(checkout).rglob("*") if ".git" not in p.parts)
    assert after == before  # nothing of ours lies in their checkout


# --- writing --------------------------------------------------------------------------------------


def test_what_a_step_of_writing_reads_is_counted_by_the_models_own_matrices():
    gpt = on_meta(schema.ModelConfig(block_size=1024), bench_model.VOCABULARY)
    sizes = [m.weight.numel() for m in gpt.modules() if isinstance(m, torch.nn.Linear)]
    assert bench_generation._matrices() == sum(sizes)


def test_the_small_model_is_written_with_all_that_sample_does(monkeypatch, capsys):
    for name, value in dict(ROUNDS=1, SAMPLES=3, SMALL_NEW=20).items():
        monkeypatch.setattr(bench_generation, name, value)
    text = bench_generation._small(BenchConfig())
    assert "| ours, 3 at once |" in text
    assert "ours, one  " in capsys.readouterr().out
