"""Real Prefect flows on its own temporary server: an import alone shows no broken one."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from backend.config.loader import fields_of
from backend.config.schema import PipelineConfig
from backend.models import checkpoint
from backend.training.log import read_status
from tests.conftest import ROOT

SMALL = ["n_layer=1", "n_embd=16", "n_head=2", "block_size=32", "tokens_per_step=128",
         "max_iters=6", "eval_interval=3", "warmup_iters=1", "sample_chars=8"]  # fmt: skip


@pytest.fixture(scope="module")
def run_flow(tmp_path_factory):
    """Runs the flow as a person does, in an empty folder and with nothing but loopback."""
    cwd = tmp_path_factory.mktemp("flow")
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        # any request that leaves the machine goes to a port that refuses it
        "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-m", "flows.lyrics_pipeline", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return SimpleNamespace(cwd=cwd, run=run, environment=environment)


@pytest.mark.e2e
def test_flow_parameters_are_the_keys_of_the_schema_with_its_defaults():
    from flows.lyrics_pipeline import lyrics_pipeline

    parameters = inspect.signature(lyrics_pipeline.fn).parameters
    assert list(parameters) == [k for k in PARAMETER_ORDER if k in parameters]
    assert set(parameters) == set(fields_of(PipelineConfig))
    defaults = PipelineConfig().as_dict()
    for name, parameter in parameters.items():
        given = parameter.default
        assert given is None or given == defaults[name], name


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("tokenizer", "folder"), [("char", "char"), ("gpt2", "gpt2"), ("bpe", "bpe4096")]
)
def test_the_flow_trains_on_the_bins_that_its_tokenizer_makes(tokenizer, folder):
    from flows.stages import train_command

    command = train_command(PipelineConfig(tokenizer=tokenizer))
    assert f"--dataset=data/demo/{folder}" in command


@pytest.mark.e2e
def test_without_a_recipe_the_flow_finetunes_lyrics_base_where_it_is_and_the_songs_are_english(
    tmp_path, monkeypatch
):
    from backend.data import tokenizers
    from flows.stages import train_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tokenizers, "LYRICS_BASE", tmp_path / "none")
    assert "--dataset=data/demo/char" in train_command(PipelineConfig())
    base = tmp_path / "base"
    base.mkdir()
    (base / "COMPLETE").touch()
    monkeypatch.setattr(tokenizers, "LYRICS_BASE", base)
    command = train_command(PipelineConfig())
    assert command[1:3] == ["config/finetune_lyrics_base.py", "--dataset=data/demo/lyrics-base"]
    assert "--init_from=auto" in command
    assert "--init_from=lyrics-base" in train_command(PipelineConfig(force=True))
    for recipe, bins in (("lyrics_cpu", "char"), ("finetune_lyrics", "gpt2"),
                         ("train_lyrics_base", "bpe4096")):  # fmt: skip
        command = train_command(PipelineConfig(config=f"config/{recipe}.py"))
        assert f"--dataset=data/demo/{bins}" in command
    (tmp_path / "data/demo").mkdir(parents=True)
    songs = [{"text": "x", "language": code} for code in ("en", "de", "fr")]
    for some, bins in (
        (songs[:2], "lyrics-base"),
        (songs, "char"),
        ([{"text": "x"}], "lyrics-base"),
    ):
        (tmp_path / "data/demo/data.json").write_text(json.dumps(some))
        assert f"--dataset=data/demo/{bins}" in train_command(PipelineConfig())


PARAMETER_ORDER = (
    "profile", "source", "artists", "artist_file", "max_songs", "path", "dataset", "run",
    "tokenizer", "config", "train_overrides", "num_samples", "start", "stages", "force",
)  # fmt: skip


@pytest.mark.e2e
def test_the_demo_from_the_site_to_the_songs_then_nothing_to_do_then_only_what_changed(run_flow):
    cwd, run = run_flow.cwd, run_flow.run
    code, out, err = run("--train_overrides", *SMALL)
    assert code == 0, out + err
    assert "Traceback" not in out + err
    assert out.count("(seed ") == 3
    for path in ("data/demo/raw/crawl.sqlite", "data/demo/data.json", "data/demo/char/train.bin",
                 "out/demo/loss.png", "out/demo/report.md"):  # fmt: skip
        assert (cwd / path).is_file(), path
    [songs] = (cwd / "out/demo/lyrics").glob("*.jsonl")
    rows = [json.loads(line) for line in songs.read_text(encoding="utf-8").splitlines()]
    assert [row["seed"] for row in rows] == [1337, 1338, 1339]
    assert str(songs.relative_to(cwd).with_suffix(".txt")) in out
    report = (cwd / "out/demo/report.md").read_text(encoding="utf-8")
    assert all(
        f"| {name} |" in report for name in ("crawl", "clean", "binarize", "train", "sample")
    )
    assert rows[0]["text"].strip()[:40] in report

    before = {p: p.stat().st_mtime_ns for p in cwd.rglob("*") if p.is_file()}
    code, out, err = run("--train_overrides", *SMALL)
    assert code == 0, out + err
    assert out.count("nothing to do") == 5
    assert out.count("(seed ") == 3  # the songs are shown again
    changed = [p for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert [p.name for p in changed] == ["report.md"]

    (cwd / "data/demo/data.json").unlink()  # a deleted output is made again, and no more than that
    code, out, err = run("--train_overrides", *SMALL)
    assert code == 0, out + err
    assert [line.split()[0] for line in out.splitlines() if "nothing to do" in line] == [
        "crawl", "binarize", "train", "sample",
    ]  # fmt: skip


@pytest.mark.e2e
def test_a_stage_that_cannot_run_says_why_in_a_sentence_and_keeps_what_was_there(run_flow):
    cwd, run = run_flow.cwd, run_flow.run
    (cwd / "songs").mkdir()
    (cwd / "songs/Anon - Tide.txt").write_text("one line\n")
    code, out, err = run("--source=files", "--path=songs")
    assert code == 2
    assert "binarize" in err
    assert "holds no songs" in err
    assert "Traceback" not in out + err
    assert (cwd / "data/songs/dropped.jsonl").is_file()


@pytest.mark.e2e
def test_training_that_fails_names_the_stage_and_its_own_sentence_stands_above(run_flow):
    run = run_flow.run
    code, out, err = run(
        "--run=broken", "--train_overrides", "block_size=999999", "tokens_per_step=999999"
    )
    assert code == 2
    assert "train: training did not finish" in err
    assert "out of memory on cpu" in err
    assert "Traceback" not in out + err


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, True, 143)],
)
def test_a_stopped_flow_saves_its_training_and_leaves_soon(run_flow, number, to_group, code):
    """A terminal's Ctrl-C and a service manager's stop reach the whole group; an editor's button
    reaches the flow alone."""
    cwd = run_flow.cwd
    run = cwd / f"out/stopped-{number}-{to_group}"
    command = [sys.executable, "-m", "flows.lyrics_pipeline", f"--run={run.name}",
               "--train_overrides", *SMALL, "max_iters=1000000",
               "eval_interval=1000000"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=cwd, env=run_flow.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as child:  # fmt: skip
        for line in child.stdout:
            if re.match(r"step +20/", line):
                break
        began = time.monotonic()
        if to_group:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        rest, _ = child.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert child.returncode == code, rest
    assert "Traceback" not in rest
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.find(run, "last").step >= 20


@pytest.mark.e2e
def test_the_flow_imports_without_starting_anything_and_settings_can_be_overridden():
    script = (
        "import os; os.environ['PREFECT_LOGGING_LEVEL'] = 'DEBUG'\n"
        "import flows.lyrics_pipeline, sys\n"
        "assert os.environ['PREFECT_LOGGING_LEVEL'] == 'DEBUG'\n"
        "assert os.environ['DO_NOT_TRACK'] == '1'\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
