"""Config files and --key=value -> settings: what a user types, and what they are told."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import __main__ as verbs
from backend.config.loader import find_config, from_values, help_text, load, program
from backend.config.schema import (
    BinarizeConfig,
    CrawlConfig,
    PipelineConfig,
    SampleConfig,
    Settings,
    TrainConfig,
)
from backend.errors import ConfigError, DataError, Terminated

ROOT = Path(__file__).resolve().parents[2]
STEP = "--tokens_per_step=1024"  # a training config says at least this


@dataclass(frozen=True, kw_only=True)
class Toy(Settings):
    """Toy: a program with one key of each kind"""

    steps: int = 10
    """Steps to take."""
    rate: float = 0.5
    """Length of a step."""
    name: str = "toy"
    """What it is called."""
    fast: bool = False
    """Run rather than walk."""
    gait: Literal["walk", "trot", "gallop"] = "walk"
    """How it moves."""
    limit: int | None = 5
    """Where it stops."""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a config file in the current folder, gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def refused(config_type, *argv):
    with pytest.raises(ConfigError) as caught:
        load(config_type, argv)
    return str(caught.value)


# --- order ---------------------------------------------------------------------------------------


def test_without_words_every_key_has_its_default():
    assert load(Toy, []) == Toy()


def test_config_files_come_first_then_keys_and_the_last_one_wins(recipe):
    first = recipe("steps = 1\nrate = 0.1\nname = 'first'", "first.py")
    second = recipe("rate = 0.2\nname = 'second'", "second.py")
    config = load(Toy, [first, second, "--name=keyed", "--name=last"])
    assert (config.steps, config.rate, config.name) == (1, 0.2, "last")
    assert load(Toy, [second, first]).name == "first"


def test_each_value_remembers_where_it_came_from(recipe):
    config = load(Toy, [recipe("steps = 1\nname = 'x'"), "--name=y"])
    assert config.origins == {"steps": "mine.py", "name": "command line"}
    assert "steps = 1  (mine.py)" in config.shown()
    assert "name = 'y'  (command line)" in config.shown()
    assert "rate" not in config.shown()


def test_a_config_file_after_a_key_is_refused_rather_than_ignored(recipe):
    assert "'mine.py' stands alone" in refused(Toy, "--fast=True", recipe("steps = 1"))


# --- spellings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--max_iters=7", "--warmup_iters=1"],
        ["--max_iters", "7", "--warmup_iters", "1"],
        ["--max-iters=7", "--warmup-iters", "1"],
        ["--max_iters=0_7", "--warmup_iters=1"],
    ],
)
def test_keys_may_be_written_with_equals_or_a_space_and_with_dashes(argv):
    config = load(TrainConfig, [STEP, *argv])
    assert (config.max_iters, config.warmup_iters) == (7, 1)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--fast"], True),
        (["--fast", "--steps=3"], True),
        (["--fast=True"], True),
        (["--fast", "true"], True),
        (["--fast=1"], True),
        (["--fast=False"], False),
        (["--fast", "False"], False),
        (["--fast=no"], False),
        (["--fast", "--fast=False"], False),
    ],
)
def test_a_bare_boolean_is_true_and_false_can_be_said(argv, expected):
    assert load(Toy, argv).fast is expected


@pytest.mark.parametrize("text", ["auto", "True", "False"])
@pytest.mark.parametrize("join", ["--compile={}", "--compile {}"])
def test_a_key_that_is_a_boolean_or_a_word_takes_either_spelling(text, join):
    config = load(TrainConfig, [STEP, *join.format(text).split()])
    assert config.compile == {"auto": "auto", "True": True, "False": False}[text]


def test_a_negative_number_is_a_value_not_a_key():
    assert load(Toy, ["--rate", "-0.5"]).rate == -0.5


def test_a_value_may_hold_equals_signs_and_dashes():
    assert load(Toy, ["--name=--a=b--"]).name == "--a=b--"


@given(st.text())
def test_any_text_after_the_equals_sign_arrives_as_it_is(text):
    assert load(SampleConfig, [f"--start={text}"]).start == text


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_what_python_prints_is_read_back(steps, rate, fast):
    config = load(Toy, [f"--steps={steps}", f"--rate={rate}", f"--fast={fast}"])
    assert (config.steps, config.rate, config.fast) == (steps, rate, fast)


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_takes_words_up_to_the_next_key():
    config = load(CrawlConfig, ["--artists", "Opeth", "At the Gates", "--max_songs", "3"])
    assert config.artists == ("Opeth", "At the Gates")
    assert config.max_songs == 3


def test_words_after_an_equals_sign_join_the_list():
    assert load(CrawlConfig, ["--artists=Opeth", "Bathory"]).artists == ("Opeth", "Bathory")


@pytest.mark.parametrize(
    "argv",
    [
        ["--artists", "Rust, Rain & Ruin", "Earth, Wind & Fire"],
        ["--artists=Rust, Rain & Ruin", "Earth, Wind & Fire"],
    ],
)
def test_artists_are_never_split_at_commas(argv):
    assert load(CrawlConfig, argv).artists == ("Rust, Rain & Ruin", "Earth, Wind & Fire")
    assert load(PipelineConfig, argv).artists == ("Rust, Rain & Ruin", "Earth, Wind & Fire")


@pytest.mark.parametrize("words", [["crawl,clean"], ["crawl", "clean"], ["crawl, clean,"]])
def test_source_and_stages_also_split_at_commas(words):
    assert load(PipelineConfig, ["--stages", *words]).stages == ("crawl", "clean")
    config = load(CrawlConfig, ["--source=demo,files", "--path=songs"])
    assert config.source == ("demo", "files")


def test_a_list_in_a_config_file_is_a_list(recipe):
    name = recipe("artists = ['Rust, Rain & Ruin']\nsource = ('demo',)")
    config = load(CrawlConfig, [name])
    assert config.artists == ("Rust, Rain & Ruin",)
    assert config.source == ("demo",)


# --- types ---------------------------------------------------------------------------------------


def test_an_int_is_fine_where_a_float_is_declared(recipe):
    rate = load(Toy, [recipe("rate = 2")]).rate
    assert rate == 2.0
    assert type(rate) is float
    assert type(load(Toy, ["--rate=2"]).rate) is float
    assert type(from_values(Toy, {"rate": 2}).rate) is float


@pytest.mark.parametrize("line", ["steps = True", "rate = True", "limit = False"])
def test_a_boolean_is_no_number(recipe, line):
    said = refused(Toy, recipe(line))
    assert line in said
    assert "is bool, expected" in said


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        ("steps = 1.5", "1.5 is float", "int"),
        ("steps = '5'", "'5' is str", "int"),
        ("name = 5", "5 is int", "str"),
        ("fast = 1", "1 is int", "bool"),
        ("rate = None", "None is NoneType", "float"),
    ],
)
def test_a_wrong_type_is_told_with_value_type_and_expectation(recipe, line, kind, expected):
    said = refused(Toy, recipe(line))
    assert f"mine.py: {line}" in said
    assert f"{kind}, expected {expected}" in said


@pytest.mark.parametrize("word", ["--steps=many", "--steps=1.5", "--rate=fast", "--fast=maybe"])
def test_a_word_of_the_wrong_type_is_told_with_its_key(word):
    said = refused(Toy, word)
    assert word in said
    assert "expected" in said


@pytest.mark.parametrize(
    ("config_type", "key", "given"),
    [
        (Toy, "limit", ()),  # int | None
        (TrainConfig, "lr_decay_iters", (STEP,)),
        (TrainConfig, "memory_gb", (STEP,)),  # float | None
        (SampleConfig, "top_k", ()),
        (SampleConfig, "title", ()),  # str | None
        (CrawlConfig, "data_dir", ("--source=demo",)),
    ],
)
@pytest.mark.parametrize("text", ["None", "none"])
def test_none_clears_a_key_that_may_be_absent(config_type, key, given, text):
    assert getattr(load(config_type, [*given, f"--{key}={text}"]), key) is None


def test_none_in_a_config_file_is_none(recipe):
    assert load(Toy, [recipe("limit = None")]).limit is None


def test_one_of_several_words_is_checked_and_the_nearest_named(recipe):
    for argv in (["--gait=galop"], [recipe("gait = 'galop'")]):
        said = refused(Toy, *argv)
        assert "'galop'" in said
        assert "walk | trot | gallop" in said
        assert "did you mean 'gallop'?" in said


def test_a_word_in_a_list_of_choices_is_checked_too():
    said = refused(PipelineConfig, "--stages=crawl,trian")
    assert "'trian'" in said
    assert "did you mean 'train'?" in said


# --- what is told --------------------------------------------------------------------------------


def test_an_unknown_key_names_the_nearest():
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in refused(
        TrainConfig, STEP, "--learning_rat=1"
    )


def test_an_unknown_key_of_a_config_file_names_file_and_nearest(recipe):
    said = refused(Toy, recipe("stesp = 3"))
    assert "mine.py: unknown key 'stesp'; did you mean 'steps'?" in said


def test_an_unknown_key_like_no_other_is_told_without_a_guess():
    said = refused(Toy, "--xyzzy=1")
    assert "unknown key 'xyzzy'" in said
    assert "did you mean" not in said


def test_where_values_came_from_is_no_key():
    assert "unknown key 'origins'" in refused(Toy, "--origins=x")


@pytest.mark.parametrize("argv", [["--steps"], ["--steps", "--fast"], ["--artists"]])
def test_a_missing_value_is_told(argv):
    config_type = CrawlConfig if "--artists" in argv else Toy
    assert f"{argv[0]} needs a value" in refused(config_type, *argv)


def test_a_name_whose_quotes_were_forgotten_is_told():
    said = refused(CrawlConfig, "--source=demo", "--data_dir", "my", "songs")
    assert "'songs' stands alone after --data_dir" in said
    assert "quote" in said


def test_a_bare_word_is_told():
    assert "'demo' is neither a config file (*.py) nor --key=value" in refused(Toy, "demo")


def test_several_problems_are_told_at_once(recipe):
    name = recipe("steps = 'x'\nstesp = 3")
    said = refused(Toy, name, "--rat=3", "--gait=fly", "--limit", "--fast=maybe", "word")
    for part in ("steps = 'x'", "'stesp'", "'rat'", "'fly'", "--limit needs", "--fast=maybe"):
        assert part in said
    assert said.startswith("7 problems with the settings")


def test_several_impossible_values_are_told_at_once():
    said = refused(TrainConfig, STEP, "--n_layer=0", "--dropout=1", "--beta1=2", "--n_embd=10")
    for key in ("n_layer", "dropout", "beta1", "n_embd"):
        assert f"{key} = " in said


def test_unknown_keys_wrong_types_and_impossible_values_are_told_together():
    said = refused(TrainConfig, STEP, "--max_itres=5", "--seed=x", "--n_layer=0")
    for part in ("max_itres", "--seed=x", "n_layer = 0"):
        assert part in said


def test_every_refusal_says_how_to_mend_it():
    assert "--help" in refused(Toy, "--xyzzy=1")


# --- config files --------------------------------------------------------------------------------


def test_a_config_file_is_looked_up_in_the_current_folder_then_in_backend(recipe):
    shipped = find_config("config/train_darklyrics.py")
    assert shipped == ROOT / "backend" / "config" / "train_darklyrics.py"
    recipe("max_iters = 4", "config/train_darklyrics.py")
    assert find_config("config/train_darklyrics.py").resolve() != shipped
    assert find_config("config/hardware/cpu.py").is_file()


def test_an_unknown_config_file_names_the_places_and_the_nearest(recipe):
    said = refused(TrainConfig, "config/train_darklyrcs.py")
    assert "no config file 'config/train_darklyrcs.py'" in said
    assert "did you mean config/train_darklyrics.py?" in said
    assert str(ROOT / "backend" / "config" / "train_darklyrcs.py") in said
    assert "shipped recipes: " in said
    assert "config/lyrics_cpu.py" in said
    assert "schema.py" not in said.split("shipped recipes: ")[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps = 1 / 0", "ZeroDivisionError"),
        ("steps = ", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_config_file_that_raises_is_named_with_its_error(recipe, text, reason):
    said = refused(Toy, recipe(text))
    assert "mine.py does not run" in said
    assert reason in said


def test_a_config_file_may_compute_and_keep_names_of_its_own(recipe):
    name = recipe(
        "import math\nfrom pathlib import Path\n_half = 4\n"
        "def double(x):\n    return 2 * x\nsteps = double(_half) + math.floor(0.5)"
    )
    assert load(Toy, [name]).steps == 8


# --- profiles ------------------------------------------------------------------------------------


def test_a_profile_is_laid_under_recipe_and_command_line(recipe):
    name = recipe("dtype = 'bfloat16'\ntokens_per_step = 1024")
    config = load(TrainConfig, [name, "--profile=cpu", "--memory_gb=3"])
    assert (config.dtype, config.memory_gb) == ("bfloat16", 3.0)
    assert (config.device, config.compile) == ("cpu", False)
    assert config.origins["dtype"] == "mine.py"
    assert config.origins["memory_gb"] == config.origins["profile"] == "command line"
    assert config.origins["device"] == config.origins["compile"] == "config/hardware/cpu.py"


def test_a_recipe_may_name_the_profile(recipe):
    config = load(TrainConfig, [recipe("profile = 'cpu'\ntokens_per_step = 1024")])
    assert config.device == "cpu"


def test_a_profile_may_be_named_as_a_config_file():
    config = load(TrainConfig, ["config/train_darklyrics.py", "config/hardware/rtx3050.py"])
    assert config.dtype == "bfloat16"
    assert config.origins["dtype"] == "rtx3050.py"


def test_without_a_profile_nothing_is_laid_under():
    assert set(load(TrainConfig, [STEP]).origins) == {"tokens_per_step"}


# --- values from another program -----------------------------------------------------------------


def test_values_of_another_program_become_settings():
    values = {"source": ["demo"], "artists": ["Rust, Rain & Ruin"], "max_songs": None}
    config = from_values(CrawlConfig, values)
    assert config == CrawlConfig(source=("demo",), artists=("Rust, Rain & Ruin",))
    assert set(config.origins.values()) == {"parameter"}


def test_values_of_another_program_are_checked_like_words():
    with pytest.raises(ConfigError) as caught:
        from_values(CrawlConfig, {"source": ["dem"], "max_song": 3, "force": 1})
    said = str(caught.value)
    for part in ("did you mean 'demo'?", "did you mean 'max_songs'?", "force: 1 is int"):
        assert part in said


def test_impossible_values_of_another_program_are_refused():
    with pytest.raises(ConfigError, match="val_fraction"):
        from_values(BinarizeConfig, {"val_fraction": 2})


# --- the frame of a program ----------------------------------------------------------------------


def test_a_program_that_ends_well_exits_with_0_and_got_its_settings():
    seen = []
    assert program(seen.append, Toy, ["--steps=3"]) == 0
    assert seen == [Toy(steps=3)]


def test_a_fault_of_the_user_exits_with_2_and_a_sentence(capsys):
    def main(config):
        raise DataError("no songs here", why="the folder is empty", mend="crawl some")

    assert program(main, Toy, []) == 2
    said = capsys.readouterr().err
    assert said == "error: no songs here\n  why:  the folder is empty\n  mend: crawl some\n"


def test_wrong_settings_exit_with_2_before_the_program_runs(capsys):
    def main(config):
        raise AssertionError("ran")

    assert program(main, Toy, ["--stesp=3"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err


def test_a_file_where_a_folder_should_be_exits_with_2_and_names_it(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")

    def main(config):
        (tmp_path / "taken" / "inner").write_text("x")

    assert program(main, Toy, []) == 2
    said = capsys.readouterr().err
    assert f"cannot use {tmp_path / 'taken' / 'inner'}" in said
    assert "mend:" in said


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EISDIR])
def test_faults_of_the_disk_exit_with_2(code, capsys):
    def main(config):
        raise OSError(code, os.strerror(code), "out/run")

    assert program(main, Toy, []) == 2
    assert f"cannot use out/run: {os.strerror(code)}" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk_is_told_in_words_that_make_sense(capsys):
    def main(config):
        with Path("/dev/full").open("w") as file:
            file.write("x")

    assert program(main, Toy, []) == 2
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "None" not in said


def test_ctrl_c_exits_with_130(capsys):
    def main(config):
        os.kill(os.getpid(), signal.SIGINT)

    assert program(main, Toy, []) == 130
    assert "interrupted" in capsys.readouterr().err


def test_sigterm_exits_with_143_after_cleaning_up(capsys):
    cleaned = []

    def main(config):
        try:
            with contextlib.suppress(Exception):  # as a handler for faults would
                os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("SIGTERM was swallowed")
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert program(main, Toy, []) == 143
    assert cleaned
    assert "terminated" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("bug", [KeyError("x"), AssertionError("y"), OSError(errno.EBADF, "z")])
def test_a_bug_keeps_its_traceback(bug):
    def main(config):
        raise bug

    with pytest.raises(type(bug)) as caught:
        program(main, Toy, [])
    assert caught.value is bug


def test_terminated_is_not_a_fault_that_handlers_catch():
    assert not issubclass(Terminated, Exception)


# --- help and the table of programs --------------------------------------------------------------


def test_help_of_a_program_is_printed_and_exits_with_0(capsys):
    def main(config):
        raise AssertionError("ran")

    assert program(main, Toy, ["--steps=3", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--gait=walk  (walk | trot | gallop)" in said
    assert "How it moves." in said


def test_help_shows_key_default_type_and_meaning():
    said = help_text(Toy, "What it does.")
    assert said.startswith("What it does.")
    assert "--limit=5  (int | none)\n      Where it stops." in said
    assert "--fast=False  (bool)" in said
    assert "origins" not in said


@pytest.mark.parametrize("verb", verbs.PROGRAMS)
def test_every_verb_answers_help_with_its_keys(verb, capsys):
    assert verbs.main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    module, config_type = verbs.PROGRAMS[verb]
    assert verbs.about(module).splitlines()[0] in said
    for key in config_type().as_dict():
        assert f"  --{key}=" in said


def test_the_table_of_programs_is_shown_for_help_and_for_an_unknown_verb(capsys):
    assert verbs.main(["--help"]) == 0
    table = capsys.readouterr().out
    for verb in verbs.PROGRAMS:
        assert f"  {verb} " in table
    for argv in ([], ["crwal"]):
        assert verbs.main(argv) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.endswith(table)
    assert error.startswith("error: no verb 'crwal'; did you mean 'crawl'?")


def test_a_verb_runs_its_program(tmp_path, capsys):
    argv = ["crawl", "--source=files", f"--path={tmp_path / 'none'}", f"--data_dir={tmp_path}/d"]
    assert verbs.main(argv) == 2
    assert "no such file or folder" in capsys.readouterr().err


def loaded_by(code):
    """Heavy modules that are in memory after the code ran in a fresh Python."""
    heavy = ["torch", "transformers", "pandas", "prefect", "matplotlib", "numpy"]
    code += f"\nimport sys\nprint('\\nloaded:', *[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("loaded:")[2].split()


def test_help_imports_nothing_heavy():
    code = """
import runpy, sys
sys.argv = ["backend", "crawl", "--help"]
try:
    runpy.run_module("backend.__main__", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
else:
    raise AssertionError("did not exit")
"""
    assert loaded_by(code) == []


def test_help_of_every_verb_imports_nothing_heavy():
    code = "from backend.__main__ import PROGRAMS, main\nfor v in PROGRAMS: main([v, '--help'])"
    assert loaded_by(code) == []


def test_the_loader_and_the_crawler_never_import_torch():
    assert loaded_by("import backend.config.loader") == []
    assert "torch" not in loaded_by("import backend.scrapers.crawl, backend.data.clean")


def test_help_piped_into_a_reader_that_stops_early_shows_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)  # what `--help | head -1` does sooner or later
    done = subprocess.run(
        [sys.executable, "-m", "backend", "crawl", "--help"],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr
