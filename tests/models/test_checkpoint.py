"""Checkpoints: whole or not at all, found again, and refused where they are damaged."""

import json

import pytest
import torch

from backend.errors import CheckpointError
from backend.models import checkpoint


@pytest.fixture
def run(tmp_path, model):
    def save(step, best=None):
        trainer = ({"rng.cpu": torch.get_rng_state()}, {})
        return checkpoint.save(
            tmp_path, model, step=step, run={"data": "x"}, trainer=trainer, best=best
        )

    return tmp_path, save


def test_a_saved_model_gives_the_same_logits(run, model):
    _, save = run
    idx = torch.randint(50, (2, 20))
    loaded = checkpoint.load_model(save(10))
    assert torch.equal(model(idx)[0], loaded(idx)[0])
    assert not loaded.training
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_best_and_the_last_two_are_kept_and_only_those_two_can_resume(run):
    out, save = run
    best = None
    for step in (0, 10, 20, 30):
        save(step, best)
        if step == 10:
            best = checkpoint.Best(10, 2.5)
            checkpoint.write_index(out, best)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20, 30]
    assert checkpoint.find(out, "best").step == 10
    assert checkpoint.find(out, "last").step == 30
    assert checkpoint.find(out, "20").step == 20
    checkpoint.load_trainer(checkpoint.find(out, "20"))
    with pytest.raises(CheckpointError, match="no optimizer"):
        checkpoint.load_trainer(checkpoint.find(out, "best"))
    checkpoint.load_model(checkpoint.find(out, "best"))


def test_where_the_index_is_wrong_or_gone_the_folders_win(run):
    out, save = run
    save(10), save(20)
    index = out / "checkpoints" / "index.json"
    index.write_text(json.dumps({"last": 99, "best": 77, "best_val_bpc": 1.0}))
    assert checkpoint.find(out, "last").step == 20
    assert checkpoint.find(out, "best").step == 20
    index.write_text("{ broken")
    assert checkpoint.find(out, "best").step == 20
    index.unlink()
    assert checkpoint.find(out, "best").step == 20
    save(30, checkpoint.Best(10, 2.0))  # the run itself remembers its best
    save(40, checkpoint.Best(10, 2.0))
    assert [s.step for s in checkpoint.steps(out)] == [10, 30, 40]
    assert checkpoint.find(out, "best").step == 10


def test_a_save_that_dies_leaves_the_step_before_as_the_last(run, monkeypatch):
    out, save = run
    save(10)
    for fatal in ("save_file", "sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, fatal, lambda *_, **__: (_ for _ in ()).throw(OSError(28)))
            with pytest.raises(OSError):
                save(20)
        assert [s.step for s in checkpoint.steps(out)] == [10]
        checkpoint.load_model(checkpoint.find(out, "last"))
    save(20)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20]


def test_a_copy_beside_the_steps_and_the_rest_of_a_killed_save_do_no_harm(run):
    import shutil

    out, save = run
    first = save(10)
    shutil.copytree(first.path, first.path.with_name("step_00000010.bak"))
    first.path.with_name(".tmp-step_00000011").mkdir()
    save(20)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20]
    assert not list((out / "checkpoints").glob(".tmp-*"))


def test_a_complete_step_is_never_written_again(run):
    _, save = run
    first = save(10)
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    save(10)
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damaged_weights_are_refused_with_a_way_on(run, damage):
    _, save = run
    step = save(10)
    file = step.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        kept = {"flip": len(data), "truncate": len(data) - 7, "empty": 0}[damage]
        file.write_bytes(data[:kept])
    with pytest.raises(CheckpointError, match=r"(?s)damaged.*mend"):
        checkpoint.load_model(step)


def test_a_newer_format_is_refused(run):
    _, save = run
    step = save(10)
    facts = json.loads((step.path / "model.json").read_text())
    (step.path / "model.json").write_text(json.dumps(facts | {"format": 2}))
    with pytest.raises(CheckpointError, match="format"):
        checkpoint.describe(step)


def test_a_folder_without_checkpoints_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint.*backend\.training\.train"):
        checkpoint.find(tmp_path)


def test_an_unknown_step_lists_the_known_ones(run):
    out, save = run
    save(10)
    with pytest.raises(CheckpointError, match=r"(?s)'11'.*10"):
        checkpoint.find(out, "11")


def test_the_newest_run_is_the_one_trained_last(run, tmp_path, model):
    import os

    out, save = run
    for name, age in (("old", 100), ("new", 10)):
        trainer = ({"x": torch.zeros(1)}, {})
        step = checkpoint.save(
            out / "out" / name, model, step=1, run={}, trainer=trainer, best=None
        )
        now = step.path.stat().st_mtime
        os.utime(step.path, (now - age, now - age))
    assert checkpoint.newest_run(out / "out").name == "new"
    with pytest.raises(CheckpointError, match="make lyrics"):
        checkpoint.newest_run(tmp_path / "nothing")
