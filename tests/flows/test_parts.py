"""The parts of the flow, without a server."""

import inspect
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config.loader import field_docs, fields_of, from_values, help_text, load
from backend.config.schema import PipelineConfig
from backend.data import tokenizers
from backend.errors import ConfigError
from flows import artifacts, child, deployments, prefect_hook, server, stages
from flows.lyrics_pipeline import again, incomplete, lyrics_pipeline, one_at_a_time
from tests.conftest import ROOT
from tests.flows.conftest import until

# --- parameters and deployments -------------------------------------------------------------------


def test_the_form_has_the_keys_choices_defaults_and_words_of_help():
    form = lyrics_pipeline.parameters.properties
    hints, defaults = fields_of(PipelineConfig), PipelineConfig().as_dict()
    assert sorted(form, key=lambda k: form[k]["position"]) == list(hints)
    shown = " ".join(help_text(PipelineConfig, "").split())
    for key, about in form.items():
        assert about["description"] == field_docs(PipelineConfig)[key]
        assert about["description"] in shown
        default = defaults[key]
        assert about["default"] == (list(default) if isinstance(default, tuple) else default)
        choices = [
            choice
            for hint in (hints[key], *typing.get_args(hints[key]))
            if typing.get_origin(hint) is typing.Literal
            for choice in typing.get_args(hint)
        ]
        found = about if "enum" in about else about.get("items", {})
        assert found.get("enum", []) == choices, key
    assert not {"token", "user_token", "password"} & set(form)  # a secret is never a parameter


def test_prefect_yaml_declares_the_deployments_that_are_served():
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    served = {d.name: d for d in deployments.build()}
    assert [d["name"] for d in declared] == list(served)
    for one in declared:
        twin = served[one["name"]]
        assert one["parameters"] == twin.parameters
        assert one["tags"] == twin.tags
        assert one["entrypoint"] == twin.entrypoint
        assert one["concurrency_limit"] == twin.concurrency_limit == 1
        assert one["work_pool"]["name"]
        assert from_values(PipelineConfig, twin.parameters).profile == twin.parameters["profile"]
    profiles = typing.get_args(fields_of(PipelineConfig)["profile"])
    assert sorted(d.parameters["profile"] for d in served.values()) == sorted(profiles)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("deployment run lyrics-pipeline", "deployment run lyrics-pipeline/default"),
        (
            "deployment run --watch lyrics-pipeline",
            "deployment run --watch lyrics-pipeline/default",
        ),
        ("deployment run -p a=b lyrics-pipeline", "deployment run -p a=b lyrics-pipeline/default"),
        ("deployment run lyrics-pipeline/cpu", None),
        ("deployment run --tag lyrics-pipeline other/flow", None),
        ("deployment inspect lyrics-pipeline", None),
        ("flow-run ls", None),
        ("", None),
    ],
)
def test_the_bare_name_means_the_default_deployment_and_nothing_else_changes(words, written):
    argv = ["prefect", *words.split()]
    assert prefect_hook.written_out(argv) == ["prefect", *(written or words).split()]


def test_the_hook_stands_in_pyproject_and_has_the_form_that_prefect_asks_for():
    import tomllib

    import pluggy
    from prefect._internal.plugins.spec import HookSpec

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [(name, module)] = project["project"]["entry-points"]["prefect.plugins"].items()
    assert module == prefect_hook.__name__
    assert project["tool"]["prefect"]["plugins"] == {"enabled": True, "allow": [name]}
    manager = pluggy.PluginManager("prefect-experimental")
    manager.add_hookspecs(HookSpec)
    manager.register(prefect_hook)
    assert [i.plugin for i in manager.hook.setup_environment.get_hookimpls()] == [prefect_hook]


texts = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12).filter(
    lambda t: not t.startswith("-") and t.strip() == t and t.lower() != "none"
)
configs = st.builds(
    PipelineConfig,
    profile=st.sampled_from(["auto", "cpu", "a100_node"]),
    artists=st.lists(texts, max_size=3).map(tuple),
    max_songs=st.none() | st.integers(1, 9),
    run=st.none() | texts,
    start=st.just("") | texts,
    stages=st.sampled_from([("crawl",), ("train", "sample"), ("clean",)]),
    force=st.booleans(),
)


@settings(deadline=None, max_examples=30)
@given(config=configs)
def test_the_command_that_continues_a_run_says_the_same_settings_but_never_force(config):
    words = shlex.split(again(config, deployed=False))
    assert words[:3] == ["python", "-m", "flows.lyrics_pipeline"]
    expected = config.as_dict() | {"force": False}
    assert load(PipelineConfig, words[3:]).as_dict() == expected

    words = shlex.split(again(config, deployed=True))
    assert words[:3] == ["prefect", "deployment", "run"]
    given_ = {"profile": deployments.PROFILES[words[3].removeprefix("lyrics-pipeline/")]}
    for option, value in zip(words[4::2], words[5::2], strict=True):
        assert option == "-p"
        key, _, text = value.partition("=")
        try:  # as prefect reads it
            given_[key] = json.loads(text)
        except ValueError:
            given_[key] = text
    assert from_values(PipelineConfig, given_).as_dict() == expected


def test_what_a_site_did_not_give_is_told(tmp_path):
    def crawled(failed, notes=(), **more):
        rows = [{"artist": str(n), "failed": ["why"] * (n < failed)} for n in range(40)]
        (tmp_path / "crawl.json").write_text(json.dumps({"artists": rows}))
        return [stages.Summary("crawl", tmp_path, {"failed": failed}, notes=notes, **more)]

    assert incomplete(crawled(3)) == "3 of 40 artists incomplete"
    assert incomplete(crawled(2, ["blocked"])) == "2 of 40 artists incomplete; blocked"
    assert incomplete(crawled(0, ["blocked"])) == "blocked"
    assert incomplete(crawled(0)) is None
    assert incomplete(crawled(3, skipped=True)) is None
    assert incomplete([]) is None


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "folder"), [("char", "char"), ("gpt2", "gpt2"), ("bpe", "bpe4096")]
)
def test_the_flow_trains_on_the_bins_that_its_tokenizer_makes(tokenizer, folder):
    command = stages.train_command(PipelineConfig(tokenizer=tokenizer))
    assert f"--dataset=data/demo/{folder}" in command
    assert "--init_from=auto" in command


def test_without_a_recipe_the_flow_finetunes_lyrics_base_where_it_is_and_the_songs_are_english(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tokenizers, "LYRICS_BASE", tmp_path / "none")
    assert "--dataset=data/demo/char" in stages.train_command(PipelineConfig())
    base = tmp_path / "base"
    base.mkdir()
    (base / "COMPLETE").touch()
    monkeypatch.setattr(tokenizers, "LYRICS_BASE", base)
    command = stages.train_command(PipelineConfig())
    assert command[1:3] == ["config/finetune_lyrics_base.py", "--dataset=data/demo/lyrics-base"]
    assert "--init_from=auto" in command
    assert "--init_from=lyrics-base" in stages.train_command(PipelineConfig(force=True))
    for recipe, bins in (("lyrics_cpu", "char"), ("finetune_lyrics", "gpt2"),
                         ("train_lyrics_base", "bpe4096")):  # fmt: skip
        command = stages.train_command(PipelineConfig(config=f"config/{recipe}.py"))
        assert f"--dataset=data/demo/{bins}" in command
    (tmp_path / "data/demo").mkdir(parents=True)
    songs = [{"text": "x", "language": code} for code in ("en", "de", "fr")]
    for some, bins in (
        (songs[:2], "lyrics-base"),
        (songs, "char"),
        ([{"text": "x"}], "lyrics-base"),
    ):
        (tmp_path / "data/demo/data.json").write_text(json.dumps(some))
        assert f"--dataset=data/demo/{bins}" in stages.train_command(PipelineConfig())


@pytest.mark.e2e  # imports torch
def test_the_node_profile_runs_torchrun_as_a_cluster_says_or_wants_gpus(monkeypatch):
    import torch

    node = PipelineConfig(profile="a100_node")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="no GPU"):
        stages.check(node)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=8", "-m"]
    assert stages.train_command(node)[:5] == [*launcher, "backend.training.train"]
    monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
    assert stages.train_command(node)[:3] == [
        "torch.distributed.run",
        "-m",
        "backend.training.train",
    ]


def test_a_key_of_training_that_does_not_exist_is_told_before_the_first_stage():
    with pytest.raises(ConfigError, match="did you mean 'max_iters'"):
        stages.check(PipelineConfig(train_overrides=("max_itres=3",)))
    stages.check(PipelineConfig(train_overrides=("max_itres=3",), stages=("crawl",)))


def test_how_training_ended_is_its_own_sentence():
    lines = [
        "step 1/2 ",
        "error: it is full",
        "  or so",
        "  why:  small",
        "  mend: buy",
        "torchrun: rc 2",
    ]
    fault = stages._fault(lines, 2, {})
    assert (fault.what.endswith(": it is full\n  or so"), fault.why, fault.mend) == (
        True, "small", "buy",
    )  # fmt: skip
    assert "SIGKILL" in stages._fault(["step 1/2 "], -9, {}).what
    said = {"reason": "RuntimeError"}
    assert stages._fault(["x"], 1, said).what.endswith(": RuntimeError (exit code 1)")
    assert stages._fault([], 1, {}).what.endswith(": it said nothing (exit code 1)")


# --- what is said ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(screen, *texts):
    lines = []
    log = logging.Logger("run")
    log.addHandler(handler := logging.Handler())
    handler.emit = lambda record: lines.append(record.getMessage())
    out = stages.Told(screen, log)
    for text in texts:
        out.write(text)
    return screen.getvalue(), lines


def test_lines_go_to_the_screen_as_they_are_and_to_the_log_whole_but_not_every_step():
    steps = [f"step {n:>3}/100  loss\n" for n in range(5)]
    shown, lines = told(io.StringIO(), "a", "b\nc\n\n", *steps, "end\n")
    assert shown == "ab\nc\n\n" + "".join(steps) + "end\n"
    assert lines == ["ab", "c", "", steps[0].strip("\n"), "end"]


def test_on_a_terminal_a_step_takes_the_place_of_the_one_before():
    shown, _ = told(Terminal(), "a\n", "step 1/9 x\n", "step 2/9 y\n", "end\n")
    assert shown == "a\nstep 1/9 x\r\033[Kstep 2/9 y\r\033[Kend\n"


def test_a_file_is_shown_without_what_machines_read_and_its_pictures_need_no_host(tmp_path):
    page = tmp_path / "card.md"
    assert "There is no" in artifacts.page(page)
    page.write_text("---\nlicense: x\n---\n\n# Songs\n\n---\n![a](loss.png) ![b](gone.png)\n")
    (tmp_path / "loss.png").write_bytes(b"\x89PNG")
    assert artifacts.page(page) == (
        "# Songs\n\n---\n![a](data:image/png;base64,iVBORw==) ![b](gone.png)\n"
    )
    assert artifacts.novelty({"novelty": None}) == "novelty unknown"
    assert artifacts.key("lyrics", "Ärzte & Co/1") == "lyrics-rzte-co-1"


# --- the child ------------------------------------------------------------------------------------


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A module that behaves as training does: it says steps, and saves when it is told to stop."""
    (tmp_path / "toy_trainer.py").write_text(
        textwrap.dedent("""
        import pathlib, signal, sys, time
        asked = []
        def ask(number, _):
            if asked and number == signal.SIGINT:
                sys.exit(130)
            asked.append(number)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)
        mode = sys.argv[1]
        print("begins", flush=True)
        for step in range(3 if mode == "short" else 10**9):
            if asked and mode != "deaf":
                pathlib.Path("saved").write_text(str(asked[0]))
                sys.exit(143)
            print(f"step {step}", file=sys.stderr)
            time.sleep(0.02)
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path


def test_the_lines_of_a_child_come_as_they_are_said_and_its_exit_code_is_returned(trainer):
    lines = []
    assert child.run(["toy_trainer", "short"], lines.append) == 0
    assert lines == ["begins", "step 0", "step 1", "step 2"]


def test_who_cannot_be_told_any_more_stops_the_child_and_it_saves(trainer):
    def tell(line):
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        child.run(["toy_trainer", "long"], tell)
    assert (trainer / "saved").read_text() == str(int(signal.SIGTERM))


def interrupt_soon(times, apart=0.5):
    def send():
        for _ in range(times):
            time.sleep(apart)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()


def test_a_ctrl_c_is_a_sigterm_for_the_child_and_is_waited_for(trainer):
    interrupt_soon(1)
    with pytest.raises(KeyboardInterrupt):
        child.run(["toy_trainer", "long"], lambda line: None)
    assert (trainer / "saved").read_text() == str(int(signal.SIGTERM))


@pytest.mark.e2e
def test_a_second_ctrl_c_cannot_wait(trainer):
    interrupt_soon(2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        child.run(["toy_trainer", "deaf"], lambda line: None)
    assert time.monotonic() - began < 10
    assert not (trainer / "saved").exists()


@pytest.mark.e2e
def test_a_killed_parent_leaves_a_child_that_saves_and_ends(trainer):
    script = (
        "from flows import child\n"
        "child.run(['toy_trainer', 'long'], lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"begins\n"
        parent.kill()
        parent.wait()
        until(lambda: (trainer / "saved").exists(), 10)


# --- one at a time, and what a crash left ---------------------------------------------------------


def test_of_two_runs_on_one_corpus_the_second_waits(tmp_path, monkeypatch, capsys):
    import flows.lyrics_pipeline as pipeline

    monkeypatch.setattr(pipeline, "get_run_logger", lambda: logging.getLogger("run"))
    order = []

    def second():
        with one_at_a_time(tmp_path / "data"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with one_at_a_time(tmp_path / "data"):
        waiting.start()
        until(lambda: "waits" in capsys.readouterr().out, 5)
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]


def test_a_pid_file_of_a_crash_is_no_server_whoever_has_the_number_now(tmp_path):
    file = tmp_path / "server.pid"
    assert server.running(file) is None
    for text in ("", "no number", "99999999", str(os.getpid())):
        file.write_text(text)
        assert server.running(file) is None, text


def test_a_server_of_another_machine_is_not_started_here():
    from backend.errors import UserError

    with pytest.raises(UserError, match="another machine's"):
        server.start("http://prefect.example.org/api")


def test_songs_are_asked_for_in_the_manner_of_the_artist_with_most_songs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = PipelineConfig(dataset="mine")
    assert stages.voice(config) is None
    (tmp_path / "data/mine").mkdir(parents=True)
    artists = [None, None, None, "Ann", "Bo", "Bo"]
    rows = [{"text": "la", "id": str(i), "artist_name": a} for i, a in enumerate(artists)]
    (tmp_path / "data/mine/data.json").write_text(json.dumps(rows), encoding="utf-8")
    assert stages.voice(config) == "Bo"


def test_the_flow_takes_keywords_only_and_is_described():
    assert all(
        p.kind is inspect.Parameter.KEYWORD_ONLY
        for p in inspect.signature(lyrics_pipeline.fn).parameters.values()
    )
    assert lyrics_pipeline.description == "Songs in the manner of the artists you love."
