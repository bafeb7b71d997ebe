"""The loop: it learns, it resumes bit for bit, and it never loses or overwrites a run."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from backend.config.loader import load
from backend.config.schema import TrainConfig
from backend.errors import CheckpointError, ConfigError, DataError
from backend.models import checkpoint
from backend.training import train
from backend.training.log import read_metrics, read_status
from tests.training.conftest import TINY


def weights(run):
    return load_file(checkpoint.find(run, "last").path / "model.safetensors")


def trainer(run):
    folder = checkpoint.find(run, "last").path
    values = json.loads((folder / "trainer.json").read_text())
    return load_file(folder / "trainer.safetensors"), values


def rows(run):
    timed = ("tokens_per_s", "seconds", "mfu")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(run)]


def assert_same_run(a, b):
    for ours, theirs in ((weights(a), weights(b)), (trainer(a)[0], trainer(b)[0])):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert trainer(a)[1] == trainer(b)[1]
    assert rows(a) == rows(b)


def test_a_run_leaves_everything_that_the_formats_promise(corpus, tiny):
    train.main(tiny())
    run = corpus / "out/tiny"
    for name in ("config.json", "tokenizer.json", "status.json", "metrics.jsonl", "loss.png",
                 "report.md", "train.manifest.json", "checkpoints/index.json"):  # fmt: skip
        assert (run / name).is_file(), name
    assert len(list((run / "samples").iterdir())) == 4
    assert read_status(run)["state"] == "done"
    assert [row["step"] for row in rows(run) if row["split"] == "val"] == [0, 4, 8, 12]
    assert [row["step"] for row in rows(run) if row["split"] == "train"] == list(range(1, 13))
    best = min((row for row in rows(run) if row["split"] == "val"), key=lambda row: row["bpc"])
    assert checkpoint.find(run, "best").step == best["step"]


def test_it_overfits_a_small_corpus(corpus, tiny):
    train.main(tiny(max_iters=200, eval_interval=200, dropout=0.0, n_embd=32, min_lr=1e-2))
    losses = [row["loss"] for row in rows(corpus / "out/tiny") if row["split"] == "train"]
    assert losses[0] > 3
    assert losses[-1] < 0.5


def test_the_same_seed_gives_the_same_run_and_another_seed_another(corpus, tiny):
    train.main(tiny(out_dir="out/a"))
    train.main(tiny(out_dir="out/b"))
    train.main(tiny(out_dir="out/c", seed=7))
    assert_same_run(corpus / "out/a", corpus / "out/b")
    assert not torch.equal(*(weights(corpus / f"out/{n}")["transformer.wpe.weight"] for n in "ac"))


@pytest.mark.parametrize("stop_at", [3, 4, 7])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(corpus, tiny, monkeypatch, stop_at):
    train.main(tiny(out_dir="out/whole"))
    # Ctrl-C while a batch of step `stop_at` is drawn: the loop ends that step, saves, stops
    real = train.random_windows

    def interrupting(split, *, step, micro, **rest):
        if step == stop_at - 1 and micro == 1:
            signal.raise_signal(signal.SIGINT)
        return real(split, step=step, micro=micro, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(train, "random_windows", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train.main(tiny(out_dir="out/parts"))
    run = corpus / "out/parts"
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.find(run, "last").step == stop_at
    train.main(tiny(out_dir="out/parts", init_from="resume"))
    assert_same_run(corpus / "out/whole", run)


def test_a_run_killed_between_checkpoints_repeats_no_step_in_its_log(corpus, tiny, monkeypatch):
    train.main(tiny(out_dir="out/whole"))
    real = train.random_windows

    def dying(split, *, step, **rest):
        if step == 6:
            raise MemoryError  # anything that gives no chance to save
        return real(split, step=step, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(train, "random_windows", dying)
        with pytest.raises(MemoryError):
            train.main(tiny(out_dir="out/parts"))
    run = corpus / "out/parts"
    assert read_status(run)["state"] == "failed"
    assert checkpoint.find(run, "last").step == 4
    assert rows(run)[-1]["step"] == 6
    train.main(tiny(out_dir="out/parts", init_from="auto"))
    assert_same_run(corpus / "out/whole", run)


def test_auto_does_nothing_for_a_finished_run(corpus, tiny):
    assert not train.main(tiny(init_from="auto")).skipped
    before = (corpus / "out/tiny/metrics.jsonl").stat().st_mtime_ns
    assert train.main(tiny(init_from="auto")).skipped
    assert (corpus / "out/tiny/metrics.jsonl").stat().st_mtime_ns == before


def test_auto_makes_a_lost_output_again_without_training_again(corpus, tiny):
    train.main(tiny(init_from="auto"))
    before = weights(corpus / "out/tiny"), rows(corpus / "out/tiny")
    (corpus / "out/tiny/loss.png").unlink()
    assert not train.main(tiny(init_from="auto")).skipped
    assert (corpus / "out/tiny/loss.png").is_file()
    assert rows(corpus / "out/tiny") == before[1]
    assert all(torch.equal(v, before[0][k]) for k, v in weights(corpus / "out/tiny").items())


def test_auto_moves_a_run_with_other_settings_aside_rather_than_losing_it(corpus, tiny, capsys):
    train.main(tiny(init_from="auto"))
    old = weights(corpus / "out/tiny")
    train.main(tiny(init_from="auto", seed=8))
    assert "seed changed" in capsys.readouterr().out
    [aside] = [p for p in (corpus / "out").iterdir() if p.name.startswith("tiny.")]
    assert all(torch.equal(v, old[k]) for k, v in weights(aside).items())
    assert json.loads((corpus / "out/tiny/config.json").read_text())["seed"] == 8


def test_scratch_never_overwrites_a_run_unasked(corpus, tiny):
    train.main(tiny(max_iters=4))
    with pytest.raises(CheckpointError, match=r"(?s)resume.*--out_dir.*--overwrite"):
        train.main(tiny(max_iters=4))
    train.main(tiny(max_iters=4, overwrite=True, seed=3))
    assert json.loads((corpus / "out/tiny/config.json").read_text())["seed"] == 3


@pytest.mark.parametrize("beside", ["notes.txt", "config.json"])
def test_overwrite_deletes_no_folder_that_is_no_run(corpus, tiny, beside):
    precious = corpus / "out/tiny/holiday.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"x")
    (precious.parent / beside).write_text("{}")
    with pytest.raises(ConfigError, match="no run folder"):
        train.main(tiny(overwrite=True))
    assert precious.is_file()


def test_a_run_folder_may_be_a_symbolic_link(corpus, tiny):
    (corpus / "big disk").mkdir()
    (corpus / "out").mkdir()
    (corpus / "out/tiny").symlink_to(corpus / "big disk")
    train.main(tiny(max_iters=4))
    train.main(tiny(max_iters=4, overwrite=True))
    assert (corpus / "big disk/train.manifest.json").is_file()


def test_the_machine_is_no_part_of_the_experiment(corpus, tiny):
    train.main(tiny(init_from="auto"))
    other = tiny(init_from="auto", dtype="float32", memory_gb=3.0, batch_size=2, threads=1)
    assert train.main(other).skipped


def test_the_settings_of_a_run_are_saved_with_where_each_came_from(corpus):
    argv = [f"--{k}={v}" for k, v in TINY.items()]
    train.main(load(TrainConfig, [*argv, "--max_iters=2", "--warmup_iters=1"]))
    saved = json.loads((corpus / "out/tiny/config.json").read_text())
    assert saved["max_iters"] == 2
    assert saved["origins"]["max_iters"] == "command line"
    assert "weight_decay" not in saved["origins"]


def test_a_new_run_can_start_from_the_weights_of_another(corpus, tiny):
    train.main(tiny(out_dir="out/base"))
    train.main(tiny(out_dir="out/fine", init_from="out/base", checkpoint="last", max_iters=1,
                    warmup_iters=0, learning_rate=0.0, min_lr=0.0))  # fmt: skip
    base, fine = weights(corpus / "out/base"), weights(corpus / "out/fine")
    assert all(torch.equal(base[k], fine[k]) for k in base)
    assert checkpoint.find(corpus / "out/fine", "last").step == 1


def test_another_shape_or_another_tokenizer_is_refused_with_the_reason(corpus, tiny):
    train.main(tiny(out_dir="out/base", max_iters=4))
    with pytest.raises(CheckpointError, match="another shape"):
        train.main(tiny(out_dir="out/fine", init_from="out/base", n_layer=1))
    with pytest.raises(CheckpointError, match="n_layer"):
        train.main(tiny(out_dir="out/base", init_from="resume", n_layer=1))
    tokenizer = corpus / "data/tiny/char/tokenizer.json"
    other = json.loads(tokenizer.read_text())
    other["model"]["vocab"] = {chr(ord(k) + 1) if len(k) == 1 else k: v
                               for k, v in other["model"]["vocab"].items()}  # fmt: skip
    (corpus / "out/base/tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train.main(tiny(out_dir="out/fine", init_from="out/base"))


def test_a_resume_on_other_data_is_refused(corpus, tiny):
    train.main(tiny(max_iters=4))
    meta = corpus / "data/tiny/char/meta.json"
    facts = json.loads(meta.read_text())
    facts["splits"]["train"]["sha256"] = "0" * 64
    meta.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="not those"):
        train.main(tiny(init_from="resume", max_iters=8))


def test_missing_data_names_the_command_that_makes_them(corpus, tiny):
    with pytest.raises(DataError, match=r"backend\.data\.binarize --data_dir=data/nope"):
        train.main(tiny(dataset="nope/char"))


def test_data_smaller_than_a_block_are_refused_with_a_smaller_block(corpus, tiny):
    with pytest.raises(DataError, match=r"(?s)fewer than block_size.*--block_size="):
        train.main(tiny(block_size=4096, tokens_per_step=8192))


@pytest.mark.parametrize("eval_interval", [1, 4])
def test_a_loss_that_is_no_number_stops_the_run_and_is_never_best(corpus, tiny, eval_interval):
    wild = dict(learning_rate=1e30, min_lr=1e30, grad_clip=0.0, warmup_iters=0)
    with pytest.raises(ConfigError, match=r"(?s)loss became (nan|inf).*step 0, the best, is kept"):
        train.main(tiny(**wild, eval_interval=eval_interval))
    run = corpus / "out/tiny"
    assert read_status(run)["state"] == "failed"
    best = checkpoint.load_model(checkpoint.find(run, "best"))
    assert all(torch.isfinite(weight).all() for weight in best.parameters())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_eval_only_evaluates_the_named_run_and_writes_nothing(corpus, tiny, capsys):
    train.main(tiny())
    before = sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*"))
    capsys.readouterr()
    summary = train.main(tiny(init_from="out/tiny", eval_only=True))
    best = min(row["bpc"] for row in rows(corpus / "out/tiny") if row["split"] == "val")
    assert summary.counts["bits per character"] == f"{best:.4f}"
    for init_from in ("resume", "auto"):  # whatever else differs, nothing is moved or trained
        summary = train.main(tiny(init_from=init_from, eval_only=True, max_iters=99))
        assert float(summary.counts["bits per character"]) < 4.5
    assert sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*")) == before


def test_without_always_save_only_improvements_and_the_end_are_saved(corpus, tiny, monkeypatch):
    saved = []
    real = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda *a, step, **k: saved.append(step) or real(*a, step=step, **k)
    )
    train.main(tiny(always_save_checkpoint=False, learning_rate=0.0, min_lr=0.0, max_iters=9))
    assert saved == [0, 9]  # with a learning rate of zero nothing improves on step 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(tokens_per_step=1024, batch_size=4), (4, 8)),
        (dict(tokens_per_step=1024, batch_size="auto", memory_gb=1.0), (32, 1)),
        (dict(tokens_per_step=1024, batch_size="auto", gradient_accumulation_steps=4), (8, 4)),
        (dict(tokens_per_step=None, batch_size=3, gradient_accumulation_steps=5), (3, 5)),
        (dict(tokens_per_step=96, batch_size="auto"), (1, 3)),
    ],
)
def test_the_step_is_divided_so_that_its_tokens_stay_the_same(tiny, changes, expected):
    config = tiny(**changes)
    runtime = train.detect(device="cpu", memory_gb=config.memory_gb)
    assert train._batch(config, runtime, 50) == expected


def test_a_small_memory_gives_smaller_micro_batches_of_the_same_step():
    runtime = train.detect(device="cpu")
    config = load(TrainConfig, ["config/train_darklyrics.py"])
    sizes = {}
    for gb in (1.0, 2.0, 8.0):
        from dataclasses import replace

        sizes[gb] = train._batch(config, replace(runtime, memory_gb=gb), 905)
        assert sizes[gb][0] * sizes[gb][1] * 512 == 16_384
    assert sizes[1.0][0] < sizes[8.0][0]


def test_a_step_that_disagrees_is_refused_with_the_multiplication(tiny):
    runtime = train.detect(device="cpu")
    with pytest.raises(ConfigError, match=r"2 x block_size 32 x .* 3 = 192 tokens"):
        train._batch(tiny(gradient_accumulation_steps=3), runtime, 50)
    with pytest.raises(ConfigError, match="not a multiple"):
        train._batch(tiny(tokens_per_step=100), runtime, 50)


def test_a_device_that_is_not_there_is_a_sentence():
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device=auto"):
            train.detect(device="cuda")
    with pytest.raises(ConfigError, match="no device"):
        train.detect(device="gpu")


def test_several_processes_are_refused_rather_than_run_over_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"):
        train.detect()


@pytest.mark.e2e
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_program_saves_and_a_resume_goes_on(corpus, number, code):
    settings = TINY | dict(max_iters=100_000, eval_interval=50_000)
    command = [sys.executable, "-m", "backend.training.train",
               *(f"--{k}={v}" for k, v in settings.items())]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("step     20/"):
                child.send_signal(number)
                if number == signal.SIGTERM:
                    child.send_signal(number)  # service managers and parents repeat it
                break
        began = time.monotonic()
        rest, _ = child.communicate(timeout=30)
    assert child.returncode == code
    assert time.monotonic() - began < 20
    assert "go on with --init_from=resume" in rest
    run = corpus / "out/tiny"
    stopped_at = checkpoint.find(run, "last").step
    assert stopped_at >= 20
    command[-1:] = [command[-1], "--init_from=resume", f"--max_iters={stopped_at + 2}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checkpoint.find(run, "last").step == stopped_at + 2
