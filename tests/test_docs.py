"""Documents and code say the same."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from backend.__main__ import PROGRAMS, about
from backend.config.loader import find_config
from backend.scrapers import demo_site
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = ("backend", "flows")


def python_files():
    return sorted(
        p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py")
    )


def test_every_file_of_the_code_stands_on_the_map_and_nothing_else_does():
    block = re.search(r"## The map\n.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)[1]
    folder, mapped = "", set()
    for line in block.splitlines():
        names = line.strip().partition("  ")[0].split(", ")
        if names[0].endswith("/"):
            folder = names[0]
        mapped |= {folder + name for name in names if name.endswith(".py")}
    recipes = {p.as_posix() for p in python_files() if "config/" in p.as_posix()} - {
        f"backend/config/{name}.py" for name in ("schema", "loader", "kinds")}  # fmt: skip
    files = {p.as_posix() for p in python_files() if p.name not in ("__init__.py",)} - recipes
    assert mapped == files


def test_the_lengths_stay_readable():
    assert len(ARCHITECTURE.splitlines()) <= 120
    assert len(CONTRIBUTING.splitlines()) <= 80
    assert len(README.splitlines()) <= 240


@pytest.mark.parametrize("verb", PROGRAMS)
def test_every_program_says_what_it_does_and_how_it_is_called_and_stands_in_the_readme(verb):
    module, _ = PROGRAMS[verb]
    words = about(module)
    assert f"python -m {module}" in words
    assert re.search(r"Writes?\b|->", words)
    assert f"python -m {module}" in README or f"make {verb}" in README


def test_every_module_and_recipe_named_in_the_documents_exists():
    for text in (README, ARCHITECTURE, CONTRIBUTING):
        for module in re.findall(r"python -m ((?:backend|flows)[\w.]*)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
        for recipe in re.findall(r"config/[\w/]+\.py", text):
            if recipe not in ("config/schema.py", "config/loader.py"):
                assert find_config(recipe).is_file()


def test_every_make_target_named_in_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", README + CONTRIBUTING + ARCHITECTURE))
    assert named <= targets
    assert {"environment", "lyrics", "test-fast", "test", "check", "bench"} <= targets


def test_every_link_inside_the_documents_leads_somewhere():
    for name in (
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/benchmarks.md",
        "docs/scaling.md",
    ):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name}: {target}"


def test_the_documents_count_the_songs_and_artists_of_the_songbook():
    songs = Counter()
    for release in map(demo_site.read_release, demo_site.songbook_files()):
        songs[release.artist] += len(release.songs)
    page = (demo_site.SONGBOOK / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| (\d+)", page, re.MULTILINE)
    assert {artist: int(number) for artist, number in rows} == songs
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for text in (README, changes, page):
        [counts] = re.findall(
            r"(\d+) (?:original )?songs (?:of|by) (\d+) (?:invented )?artists", text
        )
        assert counts == (str(songs.total()), str(len(songs)))


def test_the_lock_pins_every_declared_dependency_and_no_cuda():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    declared = project["dependencies"] + project["optional-dependencies"]["dev"]
    for line in declared:
        name = re.match(r"[\w.-]+", line)[0].lower()
        assert name in pinned, name
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]
    assert "fastapi>=0.139,<0.151" in declared  # or every flow fails while prefect imports


def test_no_secret_no_data_and_no_run_is_tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        assert not name.startswith(("data/", "out/", ".env", ".venv", ".prefect")), name


def test_the_table_of_verbs_answers_and_a_wrong_one_is_told():
    for words, code in ((["--help"], 0), ([], 2), (["sing"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "backend", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        for verb in PROGRAMS:
            assert verb in done.stdout + done.stderr
