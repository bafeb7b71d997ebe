"""The loop: it learns, it resumes bit for bit, and it never loses or overwrites a run."""

import hashlib
import itertools
import json
import math
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

from backend.config.loader import load
from backend.config.schema import PRESETS, TrainConfig
from backend.errors import CheckpointError, ConfigError, DataError, UserError
from backend.models import checkpoint
from backend.models.gpt import GPT
from backend.training import begin, estimate, parallel, train
from backend.training.log import read_metrics, read_status
from tests.training.conftest import TINY


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch, request):
    """The loss curve is test_log's, and half of the time that such a run takes."""
    if request.node.function is not test_a_run_leaves_everything_that_the_formats_promise:
        monkeypatch.setattr(train, "plot_loss", lambda run, *_: (run / "loss.png").write_bytes(b""))


def weights(run):
    mapped = load_file(checkpoint.find(run, "last").path / "model.safetensors")
    return {k: v.clone() for k, v in mapped.items()}  # tests damage the file


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


@pytest.mark.e2e
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


def at_update(monkeypatch, n, act):
    """Do something when the gradients of update number n are ready, before it is made."""
    real, calls = parallel.clip, itertools.count(1)

    def clip(*arguments):
        norm = real(*arguments)
        return (act() or norm) if next(calls) == n else norm

    monkeypatch.setattr(parallel, "clip", clip)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def interrupted(monkeypatch, settings, n):
    """A run that Ctrl-C stops while update n is prepared: that one is not made."""
    with monkeypatch.context() as patch:
        at_update(patch, n, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train.main(settings)


VARIANTS = {
    "dropout, accumulation": {},
    "muon": dict(optimizer="muon", schedule="linear", min_lr=0.0),
    "songs": dict(batches="songs"),
    "songs, masked": dict(batches="songs", document_mask=True, position="rotary"),
    "batch warm-up, wsd": dict(batch_warmup_iters=7, tokens_per_step=256, schedule="wsd"),
    "checkpointed": dict(activation_checkpointing=True),
    "modern": dict(**PRESETS["modern"], optimizer="muon", batches="songs", dtype="bfloat16"),
}


@pytest.mark.parametrize("stop_at", [3, 8])
@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=pytest.mark.e2e if i else ()) for i, v in enumerate(VARIANTS)]
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(corpus, tiny, monkeypatch, variant,
                                                              stop_at):  # fmt: skip
    changes = VARIANTS[variant]
    train.main(tiny(out_dir="out/whole", **changes))
    interrupted(monkeypatch, tiny(out_dir="out/parts", **changes), stop_at + 1)
    run = corpus / "out/parts"
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.find(run, "last").step == stop_at
    train.main(tiny(out_dir="out/parts", init_from="resume", **changes))
    assert_same_run(corpus / "out/whole", run)


def test_a_run_killed_between_checkpoints_repeats_no_step_in_its_log(corpus, tiny, monkeypatch):
    train.main(tiny(out_dir="out/whole"))

    def die():
        raise ZeroDivisionError  # anything that gives no chance to save

    with monkeypatch.context() as patch:
        at_update(patch, 7, die)
        with pytest.raises(ZeroDivisionError):
            train.main(tiny(out_dir="out/parts"))
    run = corpus / "out/parts"
    assert read_status(run)["state"] == "failed"
    assert checkpoint.find(run, "last").step == 4
    assert rows(run)[-1]["step"] == 6
    train.main(tiny(out_dir="out/parts", init_from="auto"))
    assert_same_run(corpus / "out/whole", run)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "trainer.json"])
def test_a_damaged_step_is_told_and_the_one_before_goes_on(
    corpus, tiny, capsys, damage, name
):  # fmt: skip
    train.main(tiny())
    run = corpus / "out/tiny"
    before = weights(run), rows(run)
    file = run / "checkpoints/step_00000012" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        kept = {"flip": content, "truncate": content[:-7], "empty": b""}[damage]
        file.write_bytes(kept)
    capsys.readouterr()
    train.main(tiny(init_from="resume"))
    if (name, damage) == ("trainer.json", "missing"):  # as if it were an old best step
        assert "step_00000012.damaged" in {p.name for p in (run / "checkpoints").iterdir()}
    else:
        assert re.search(
            r"note: .*step_00000012.*is damaged.*the step before", capsys.readouterr().out
        )
    assert rows(run) == before[1]
    assert all(torch.equal(v, before[0][k]) for k, v in weights(run).items())
    assert (run / "checkpoints/step_00000012.damaged").is_dir()


def test_where_no_step_is_whole_nothing_is_trained_over_it(corpus, tiny):
    train.main(tiny())
    for file in corpus.glob("out/tiny/checkpoints/*/trainer.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        train.main(tiny(init_from="resume"))
    with pytest.raises(CheckpointError, match="damaged"):
        train.main(tiny(init_from="auto", max_iters=20))


def test_a_newer_format_is_no_damage(corpus, tiny):
    train.main(tiny())
    step = corpus / "out/tiny/checkpoints/step_00000012"
    complete = json.loads((step / "COMPLETE").read_text())
    for name in ("model.json", "trainer.json"):
        content = json.dumps(json.loads((step / name).read_text()) | {"format": 99})
        (step / name).write_text(content)
        complete[name] = [len(content), hashlib.sha256(content.encode()).hexdigest()]
    (step / "COMPLETE").write_text(json.dumps(complete))
    with pytest.raises(CheckpointError, match="format"):
        train.main(tiny(init_from="resume"))


@pytest.mark.parametrize("where", ["split_loss", "complete"])
def test_a_signal_while_evaluating_or_sampling_leaves_at_once_with_the_step_saved(
    corpus, tiny, monkeypatch, where
):  # fmt: skip
    real, calls = getattr(train, where), itertools.count()
    after = []

    def interrupting(*arguments, **keys):
        if next(calls) == 1:
            ctrl_c()
            after.append("went on")
        return real(*arguments, **keys)

    train.main(tiny(out_dir="out/whole"))
    monkeypatch.setattr(train, where, interrupting)
    with pytest.raises(KeyboardInterrupt):
        train.main(tiny())
    assert not after
    assert checkpoint.find(corpus / "out/tiny", "last").step == 4
    train.main(tiny(init_from="resume"))
    assert_same_run(corpus / "out/whole", corpus / "out/tiny")


def test_a_signal_while_a_step_is_saved_waits_for_it(corpus, tiny, monkeypatch):
    real = checkpoint.save

    def interrupting(*arguments, step, **keys):
        if step == 4:
            ctrl_c()
        return real(*arguments, step=step, **keys)

    monkeypatch.setattr(checkpoint, "save", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train.main(tiny())
    assert checkpoint.newest_whole(checkpoint.steps(corpus / "out/tiny")).step == 4


def test_a_full_disk_stops_the_run_and_leaves_the_step_before(corpus, tiny, monkeypatch):
    train.main(tiny(out_dir="out/whole"))
    real = checkpoint.save_tensors

    def full(tensors, path):
        if "step_00000008" in str(path) and path.name == "trainer.safetensors":
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", full)
        with pytest.raises(OSError, match="No space left"):
            train.main(tiny())
    run = corpus / "out/tiny"
    assert checkpoint.newest_whole(checkpoint.steps(run)).step == 4
    assert read_status(run)["state"] == "failed"
    train.main(tiny(init_from="resume"))
    assert_same_run(corpus / "out/whole", run)


def test_two_runs_in_one_folder_are_refused(corpus, tiny, monkeypatch):
    refused = []

    def another():
        for init_from in ("resume", "auto", "scratch"):
            with pytest.raises(UserError, match="another program is writing in out/tiny") as error:
                train.main(tiny(init_from=init_from, overwrite=True, seed=2))
            refused.append(error)

    at_update(monkeypatch, 6, another)
    train.main(tiny())
    assert len(refused) == 3
    assert checkpoint.find(corpus / "out/tiny", "last").step == 12


@pytest.mark.e2e
def test_what_a_step_learns_from_does_not_depend_on_its_micro_batches(corpus, tiny):
    for batches in ("random", "songs"):
        for size in (1, 4):
            changes = dict(batch_size=size, dropout=0.0, batches=batches, dtype="float32")
            train.main(tiny(out_dir=f"out/{batches}-{size}", **changes))
        a, b = (rows(corpus / f"out/{batches}-{size}") for size in (1, 4))
        assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], abs=1e-4)


def test_an_update_with_a_gradient_that_is_no_number_is_left_out_and_counted(
    corpus, tiny, monkeypatch, capsys
):  # fmt: skip
    at_update(monkeypatch, 5, lambda: torch.tensor(math.nan))
    summary = train.main(tiny())
    assert summary.counts["updates left out"] == 1
    assert "the weights stay as they were" in capsys.readouterr().out
    [row] = [r for r in rows(corpus / "out/tiny") if r["split"] == "train" and r["step"] == 5]
    assert row["grad_norm"] is None
    assert checkpoint.find(corpus / "out/tiny", "last").step == 12
    assert all(torch.isfinite(v).all() for v in weights(corpus / "out/tiny").values())


def test_updates_that_stay_no_numbers_end_the_run_with_the_last_good_state(
    corpus, tiny, monkeypatch
):  # fmt: skip
    monkeypatch.setattr(parallel, "clip", lambda *_: torch.tensor(math.inf))
    with pytest.raises(ConfigError, match=r"(?s)gradient became inf at step 10.*is kept"):
        train.main(tiny(max_iters=50))
    run = corpus / "out/tiny"
    first, last = (load_file(s.path / "model.safetensors") for s in checkpoint.steps(run)[::2])
    assert all(torch.equal(first[k], last[k]) for k in first)


def test_it_stops_early_where_validation_no_longer_improves(corpus, tiny, capsys):
    still = dict(learning_rate=0.0, min_lr=0.0, patience=2, init_from="auto")
    for changes in ({}, {"always_save_checkpoint": False}):
        config = tiny(**still, **changes, out_dir=f"out/{len(changes)}")
        summary = train.main(config)
        assert summary.counts["stopped early"] == "no better for 2 evaluations"
        assert checkpoint.find(corpus / config.out_dir, "last").step == 8
        assert train.main(config).skipped
    train.main(tiny(**still | dict(init_from="resume"), out_dir="out/0"))
    assert checkpoint.find(corpus / "out/0", "last").step == 8


def test_a_dry_run_says_all_and_writes_nothing(corpus, tiny, capsys):
    before = sorted(corpus.rglob("*"))
    train.main(tiny(dry_run=True))
    said = capsys.readouterr().out
    for part in ("memory: ", "time: ", "one batch", "  x | ", "  y | ", "parameters"):
        assert part in said
    assert sorted(corpus.rglob("*")) == before
    train.main(tiny(max_iters=4))
    before = sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*"))
    train.main(tiny(dry_run=True, init_from="auto", seed=9))
    assert sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*")) == before


@pytest.mark.e2e
@pytest.mark.parametrize("batches", ["random", "songs"])
def test_one_batch_is_learnt_by_heart(corpus, tiny, batches):
    config = tiny(overfit_one_batch=True, batches=batches, max_iters=150, eval_interval=150,
                  dropout=0.0, n_embd=32, min_lr=1e-2, tokens_per_step=64)  # fmt: skip
    train.main(config)
    losses = [row["loss"] for row in rows(corpus / "out/tiny") if row["split"] == "train"]
    assert losses[-1] < 0.1
    assert max(losses[-10:]) < 0.2


def test_a_first_loss_far_from_chance_is_noted(corpus, tiny, capsys):
    train.main(tiny(max_iters=2, warmup_iters=0))
    assert "pure chance gives 3" not in capsys.readouterr().out
    wild = dict(init="fan_in", tied_head=False, n_embd=16, overwrite=True, warmup_iters=0)
    with pytest.MonkeyPatch.context() as patch:
        real = begin.build

        def loud(*arguments, **keys):
            model = real(*arguments, **keys)
            model.lm_head.weight.data *= 30
            return model

        patch.setattr(begin, "build", loud)
        train.main(tiny(**wild, max_iters=2))
    assert re.search(r"note: the first loss is .*pure chance gives", capsys.readouterr().out)


def test_where_compilation_fails_it_is_said_once_and_the_run_goes_on(
    corpus, tiny, monkeypatch, capsys
):  # fmt: skip
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", lambda module: broken)
    train.main(tiny(out_dir="out/a", compile=True))
    said = capsys.readouterr().out
    assert said.count("torch.compile fails here (no C++ compiler)") == 1
    train.main(tiny(out_dir="out/b"))
    assert_same_run(corpus / "out/a", corpus / "out/b")


@pytest.mark.parametrize("when", ["rehearsal", "step"])
def test_memory_that_does_not_suffice_names_three_knobs_with_numbers(
    corpus, tiny, monkeypatch, when
):  # fmt: skip
    def out_of_memory(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: "
                           "can't allocate memory: you tried to allocate 9 bytes.")  # fmt: skip

    if when == "step":
        at_update(monkeypatch, 2, out_of_memory)
    else:
        monkeypatch.setattr(GPT, "forward", out_of_memory)
    knobs = r"--batch_size=1 .*GB\n.*--activation_checkpointing .*GB\n.*--block_size=32 .*GB"
    with pytest.raises(UserError, match=f"(?s)out of memory on cpu.*{knobs}"):
        train.main(tiny(block_size=64))


def test_health_is_kept_where_it_is_asked_for_and_changes_nothing(corpus, tiny):
    train.main(tiny(out_dir="out/a", health=True, log_interval=4))
    train.main(tiny(out_dir="out/b", log_interval=4))
    assert_same_run(corpus / "out/a", corpus / "out/b")
    lines = (corpus / "out/a/health.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12]
    assert (corpus / "out/a/health.png").is_file()
    assert not (corpus / "out/b/health.jsonl").exists()


@pytest.mark.parametrize("max_iters", [0, 12])
def test_a_run_of_no_steps_and_a_resume_past_the_end(corpus, tiny, max_iters):
    changes = dict(max_iters=max_iters, warmup_iters=0 if max_iters == 0 else 2)
    train.main(tiny(**changes))
    before = rows(corpus / "out/tiny")
    train.main(tiny(init_from="resume", **changes))
    assert rows(corpus / "out/tiny") == before
    assert checkpoint.find(corpus / "out/tiny", "last").step == max_iters


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
    division = estimate.divide(config, runtime, 50)
    assert (division.batch_size, division.accumulation) == expected


def test_a_small_memory_gives_smaller_micro_batches_of_the_same_step():
    runtime = train.detect(device="cpu")
    config = load(TrainConfig, ["config/train_darklyrics.py"])
    sizes = {}
    for gb in (1.0, 2.0, 8.0):
        from dataclasses import replace

        sizes[gb] = estimate.divide(config, replace(runtime, memory_gb=gb), 905)
        assert sizes[gb].batch_size * sizes[gb].accumulation * 512 == 16_384
    assert sizes[1.0].batch_size < sizes[8.0].batch_size


def test_a_step_that_disagrees_is_refused_with_the_multiplication(tiny):
    runtime = train.detect(device="cpu")
    with pytest.raises(ConfigError, match=r"2 x block_size 32 x .* 3 = 192 tokens"):
        estimate.divide(tiny(gradient_accumulation_steps=3), runtime, 50)
    with pytest.raises(ConfigError, match="not a multiple"):
        estimate.divide(tiny(tokens_per_step=100), runtime, 50)


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


# --- what a stranger found ---


def test_patience_counts_an_evaluation_once_also_where_a_run_was_stopped_in_it(
    corpus, tiny, monkeypatch
):  # fmt: skip
    still = dict(learning_rate=0.0, min_lr=0.0, patience=3, always_save_checkpoint=False,
                 max_iters=40)  # fmt: skip
    train.main(tiny(**still, out_dir="out/whole"))
    assert checkpoint.find("out/whole", "last").step == 12
    real, calls = train.complete, itertools.count()

    def interrupting(*arguments, **keys):
        if next(calls) == 2:  # after the evaluation of step 8
            ctrl_c()
        return real(*arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(train, "complete", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train.main(tiny(**still))
    assert checkpoint.find("out/tiny", "last").step == 8
    train.main(tiny(**still, init_from="resume"))
    assert_same_run(corpus / "out/whole", corpus / "out/tiny")


def test_a_best_step_that_is_resumed_from_is_best_again(corpus, tiny, monkeypatch):
    changes = dict(always_save_checkpoint=False, patience=2)
    train.main(tiny(out_dir="out/whole", **changes))

    def die():
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        at_update(patch, 6, die)
        with pytest.raises(ZeroDivisionError):
            train.main(tiny(**changes))
    train.main(tiny(init_from="resume", **changes))
    assert_same_run(corpus / "out/whole", corpus / "out/tiny")


def test_the_evaluated_end_of_a_run_that_goes_on_longer_stays_in_its_log_and_may_be_best(
    corpus, tiny
):  # fmt: skip
    train.main(tiny(max_iters=10))
    first = [row for row in rows(corpus / "out/tiny") if row["split"] == "val"]
    ruin = dict(learning_rate=1.0, min_lr=1.0)
    train.main(tiny(max_iters=20, init_from="resume", **ruin))
    val = [row for row in rows(corpus / "out/tiny") if row["split"] == "val"]
    assert [row["step"] for row in val] == [0, 4, 8, 10, 12, 16, 20]
    assert val[3]["loss"] == first[-1]["loss"]
    assert checkpoint.find("out/tiny", "best").step == 10


@pytest.mark.parametrize("batches", ["random", "songs"])
def test_a_resume_with_larger_steps_goes_on_in_the_data_where_the_run_was(corpus, tiny, batches,
                                                                          monkeypatch):  # fmt: skip
    begun = []
    kind = type(train.open_batches(batches, train.Bins.open("tiny/char"), seed=0, block_size=32,
                                   document_mask=False))  # fmt: skip
    real = kind.take

    def take(self, step, *, done, of, rows):
        begun.append((done, of))
        return real(self, step, done=done, of=of, rows=rows)

    train.main(tiny(batches=batches, max_iters=6))
    monkeypatch.setattr(kind, "take", take)
    larger = dict(batches=batches, tokens_per_step=256, init_from="resume", max_iters=8)
    train.main(tiny(**larger))
    assert (24, 8) in begun
    assert (32, 8) in begun
    assert not any(done > 32 for done, _ in begun)
    epochs = [row["epoch"] for row in rows(corpus / "out/tiny") if row["split"] == "train"]
    steps = [b - a for a, b in itertools.pairwise(epochs)]
    assert steps[-1] == pytest.approx(2 * steps[1], rel=0.3)


def test_an_epoch_of_songs_is_over_when_every_token_was_read(corpus, tiny):
    config = tiny(batches="songs", block_size=256, tokens_per_step=512, max_iters=12)
    train.main(config)
    bins = train.Bins.open("tiny/char")
    batches = train.open_batches("songs", bins, seed=config.seed, block_size=256,
                                 document_mask=False)  # fmt: skip
    last = [row for row in rows(corpus / "out/tiny") if row["split"] == "train"][-1]
    learnt = batches.targets(0, done=0, of=24)
    assert learnt < 24 * 256  # rows are filled up
    assert last["epoch"] == pytest.approx(learnt / len(bins.train.tokens), abs=1e-4)


@pytest.mark.e2e
@pytest.mark.parametrize("batches", ["random", "songs"])
def test_the_estimate_of_the_training_loss_stands_beside_validation(corpus, tiny, capsys, batches):
    config = tiny(eval_iters=3, batches=batches, document_mask=True, position="rotary",
                  block_size=1500 if batches == "songs" else 32, tokens_per_step=3000)  # fmt: skip
    if batches == "random":
        config = tiny(eval_iters=3)
    train.main(config)
    val = [row for row in rows(corpus / "out/tiny") if row["split"] == "val"]
    assert all(0 < row["train_loss"] < 6 for row in val)
    before = sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*"))
    capsys.readouterr()
    only = tiny(init_from="out/tiny", eval_only=True, eval_iters=3, batches=batches,
                block_size=config.block_size, tokens_per_step=config.tokens_per_step,
                position=config.position)  # fmt: skip
    summary = train.main(only)
    assert re.search(r"training +[\d.]+ nats/token, on 3 random batches", capsys.readouterr().out)
    assert 0 < float(summary.counts["training loss"]) < 6
    assert sorted((p, p.stat().st_mtime_ns) for p in (corpus / "out").rglob("*")) == before


@pytest.mark.e2e
def test_hellaswag_is_asked_at_every_evaluation_and_no_step_twice_after_a_resume(corpus, tiny):
    examples = [
        {"ctx": "The wheel goes", "endings": ["round", "the", "6", "wind"], "label": 0},
        {"ctx": "The cup", "endings": ["year", "goes round", "times", "n"], "label": 1},
        {"ctx": "never", "endings": ["asked", "a", "b", "c"], "label": 1},
    ]
    with pytest.raises(DataError, match="hellaswag is not here"):
        train.main(tiny(hellaswag_samples=2))
    path = corpus / "data/hellaswag/val.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in examples))
    train.main(tiny(hellaswag_samples=2))
    asked = [row for row in rows(corpus / "out/tiny") if row["split"] == "hellaswag"]
    assert [row["step"] for row in asked] == [0, 4, 8, 12]
    assert all(row["n"] == 2 and row["acc"] in (0, 0.5, 1) for row in asked)
    train.main(tiny(hellaswag_samples=2, init_from="resume", max_iters=16))
    again = [row for row in rows(corpus / "out/tiny") if row["split"] == "hellaswag"]
    assert [row["step"] for row in again] == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_another_program_began_meanwhile_is_not_touched(
    corpus, tiny, monkeypatch, overwrite
):  # fmt: skip
    real, calls = estimate.rehearse, itertools.count()

    def rehearse(*arguments):
        if next(calls) == 0:
            train.main(tiny(seed=5, max_iters=4))
        return real(*arguments)

    monkeypatch.setattr(estimate, "rehearse", rehearse)
    with pytest.raises(CheckpointError, match="another program trained in out/tiny meanwhile"):
        train.main(tiny(overwrite=overwrite))
    assert json.loads((corpus / "out/tiny/config.json").read_text())["seed"] == 5
    assert len(rows(corpus / "out/tiny")) == 6


def test_float16_with_its_scaler_leaves_out_what_overflows_and_resumes_bit_for_bit(
    corpus, tiny, monkeypatch
):  # fmt: skip
    """On a CPU, which runtime.py refuses to users: the path that GPUs without bfloat16 take."""
    from dataclasses import replace

    real = train.detect
    monkeypatch.setattr(train, "detect", lambda **keys: replace(real(**keys), dtype=torch.float16))
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(
        device, enabled=enabled, init_scale=2.0**22, growth_interval=3))  # fmt: skip
    changes = dict(optimizer="muon", sample_chars=0, max_iters=16)
    summary = train.main(tiny(out_dir="out/whole", **changes))
    assert summary.counts.get("updates left out", 0) >= 1
    losses = [r["loss"] for r in rows(corpus / "out/whole") if r["split"] == "val"]
    assert losses[-1] < losses[0] - 0.1
    interrupted(monkeypatch, tiny(**changes), 7)
    train.main(tiny(init_from="resume", **changes))
    assert_same_run(corpus / "out/whole", corpus / "out/tiny")
    assert trainer(corpus / "out/tiny")[1]["scaler"]["scale"] != 2.0**22
    monkeypatch.setattr(train, "detect", real)  # and on a machine that needs none
    train.main(tiny(init_from="resume", **changes | dict(max_iters=18)))
    assert checkpoint.find("out/tiny", "last").step == 18


def test_a_run_goes_on_in_another_precision_without_complaint(corpus, tiny, capsys):
    train.main(tiny(max_iters=4, dtype="bfloat16", lr_decay_iters=12))
    for dtype, max_iters in (("float32", 8), ("bfloat16", 12)):
        capsys.readouterr()
        train.main(tiny(max_iters=max_iters, dtype=dtype, init_from="resume", lr_decay_iters=12))
        said = capsys.readouterr().out
        assert "resuming with other values than before for: max_iters\n" in said
    assert [r["step"] for r in rows(corpus / "out/tiny") if r["split"] == "train"] == [
        *range(1, 13)
    ]


def test_a_resume_beyond_its_end_counts_no_time_backwards(corpus, tiny, capsys):
    train.main(tiny(max_iters=8))
    capsys.readouterr()
    train.main(tiny(max_iters=4, init_from="resume"))
    assert "0:00 for 0 steps" in capsys.readouterr().out


def test_evaluations_and_lines_may_be_rarer_than_the_run_is_long(corpus, tiny):
    train.main(tiny(eval_interval=1000, log_interval=1000))
    assert [row["step"] for row in rows(corpus / "out/tiny")] == [0, 12]
    assert (corpus / "out/tiny/report.md").is_file()
