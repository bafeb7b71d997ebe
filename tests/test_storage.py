"""Files on disk: whole or not at all, and done again only where something changed."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend import storage
from backend.errors import Terminated, UserError
from backend.storage import Stage, Summary, alone, atomic_write, sha256, write_json

FAULTS = [ValueError("bug"), OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt(), Terminated()]


# --- atomic_write ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_fault_while_writing_leaves_the_old_file_whole_and_no_other(tmp_path, mode, fault):
    path = tmp_path / "songs.txt"
    path.write_text("the old tide\n")
    with pytest.raises(type(fault)), atomic_write(path, mode) as file:
        file.write("half of the n" if mode == "w" else b"half of the n")
        file.flush()
        raise fault
    assert path.read_text() == "the old tide\n"
    assert [path.name for path in tmp_path.iterdir()] == ["songs.txt"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_before_the_first_version_leaves_nothing(tmp_path, fault):
    with pytest.raises(type(fault)), atomic_write(tmp_path / "songs.txt") as file:
        file.write("half")
        raise fault
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_disk_that_fills_up_at_the_last_moment_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "songs.txt"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["songs.txt"]


def test_the_old_file_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "songs.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["songs.txt"]


def test_text_is_utf_8_with_plain_line_ends_in_a_folder_made_on_the_way(tmp_path):
    path = tmp_path / "a" / "b" / "songs.txt"
    with atomic_write(path) as file:
        file.write("fähre\n日\n")
    assert path.read_bytes() == "fähre\n日\n".encode()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_file_modes_follow_the_umask(tmp_path, umask):
    # A process of its own: a process has one umask from its start to its end.
    code = (
        "import os, sys; from pathlib import Path; os.umask(int(sys.argv[2]))\n"
        "from backend.storage import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file: file.write('x')\n"
    )
    path = tmp_path / "songs.txt"
    subprocess.run([sys.executable, "-c", code, str(path), str(umask)], check=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_json_keeps_its_order_and_its_letters(tmp_path):
    write_json(tmp_path / "a.json", {"b": "ä", "a": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "ä" in text
    assert list(json.loads(text)) == ["b", "a"]


# --- Stage ----------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    """A folder with one input, and one output that a stage made of it."""
    folder = tmp_path / "corpus"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "songs.txt").write_text("the tide\n")
    (folder / "data.txt").write_text("THE TIDE\n")
    shout(folder).finish([folder / "data.txt"], {"in": 1, "out": 1, "dropped": {"empty": 0}})
    return folder


def shout(folder, version=1, inputs=("raw/songs.txt",), **settings):
    return Stage(
        "shout",
        version,
        folder,
        settings={"letters": ("a", "b"), "loud": True} | settings,
        inputs=[folder / name for name in inputs],
    )


def manifest_of(folder):
    return folder / "shout.manifest.json"


def shift_mtime(path, seconds=10):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def test_a_stage_that_never_ran_has_something_to_do(tmp_path):
    assert Stage("shout", 1, tmp_path, settings={}).unchanged() is None


def test_with_nothing_changed_there_is_nothing_to_do_and_the_old_counts_are_told(corpus):
    done = shout(corpus).unchanged()
    assert done is not None
    assert done.skipped
    assert done.counts == {"in": 1, "out": 1, "dropped": {"empty": 0}}
    assert "nothing to do" in done.line()


def test_untouched_files_are_not_read_again(corpus, monkeypatch):
    monkeypatch.setattr(storage, "sha256", lambda path: pytest.fail(f"read {path}"))
    assert shout(corpus).unchanged()


def test_a_changed_setting_is_new_work(corpus):
    assert shout(corpus, loud=False).unchanged() is None
    assert shout(corpus, added=1).unchanged() is None


def test_a_new_version_of_the_stage_is_new_work(corpus):
    assert shout(corpus, version=2).unchanged() is None


@pytest.mark.parametrize("text", ["the fish\n", "the tide and more\n", ""])
@pytest.mark.parametrize("name", ["raw/songs.txt", "data.txt"])
def test_an_edited_input_or_output_is_new_work(corpus, name, text):
    (corpus / name).write_text(text)
    shift_mtime(corpus / name)
    assert shout(corpus).unchanged() is None


def test_a_deleted_output_or_input_is_new_work(corpus):
    (corpus / "data.txt").unlink()
    assert shout(corpus).unchanged() is None
    (corpus / "data.txt").write_text("THE TIDE\n")
    assert shout(corpus).unchanged()
    (corpus / "raw" / "songs.txt").unlink()
    assert shout(corpus).unchanged() is None


@pytest.mark.parametrize("name", ["raw/songs.txt", "data.txt"])
def test_a_file_that_was_only_touched_is_no_work(corpus, name):
    shift_mtime(corpus / name)
    assert shout(corpus).unchanged()


def test_one_more_or_one_less_input_is_new_work(corpus):
    (corpus / "raw" / "more.txt").write_text("more\n")
    assert shout(corpus, inputs=("raw/songs.txt", "raw/more.txt")).unchanged() is None
    assert shout(corpus, inputs=()).unchanged() is None


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", "{}", '"text"', '{"stage_version": 1}', "\udcff"]
)
def test_a_manifest_that_cannot_be_read_is_new_work(corpus, text):
    manifest_of(corpus).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert shout(corpus).unchanged() is None


@pytest.mark.parametrize(
    "key", ["stage_version", "settings", "inputs", "outputs", "counts", "seconds"]
)
def test_a_manifest_that_lacks_a_part_is_new_work(corpus, key):
    manifest = json.loads(manifest_of(corpus).read_text())
    del manifest[key]
    manifest_of(corpus).write_text(json.dumps(manifest))
    assert shout(corpus).unchanged() is None


def test_a_manifest_cut_anywhere_is_new_work_and_mended_by_the_next_run(corpus):
    whole = manifest_of(corpus).read_bytes()
    for end in range(0, len(whole.rstrip()) - 1, 40):
        manifest_of(corpus).write_bytes(whole[:end])
        assert shout(corpus).unchanged() is None
    shout(corpus).finish([corpus / "data.txt"], {"in": 1})
    assert shout(corpus).unchanged()


def test_a_moved_folder_stays_valid(corpus, tmp_path):
    moved = tmp_path / "elsewhere" / "songs"
    moved.parent.mkdir()
    shutil.move(corpus, moved)
    assert shout(moved).unchanged()
    (moved / "raw" / "songs.txt").write_text("the moved tide\n")
    assert shout(moved).unchanged() is None


def test_a_folder_given_relative_or_absolute_is_the_same_folder(corpus, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    assert shout(type(corpus)("corpus")).unchanged()


def test_a_manifest_holds_what_the_contract_says(corpus):
    manifest = json.loads(manifest_of(corpus).read_text())
    assert manifest["stage"] == "shout"
    assert manifest["stage_version"] == 1
    assert manifest["settings"] == {"letters": ["a", "b"], "loud": True}
    status = (corpus / "raw" / "songs.txt").stat()
    (size, mtime_ns, digest) = manifest["inputs"]["raw/songs.txt"]
    assert (size, mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert digest == storage.sha256(corpus / "raw" / "songs.txt")
    assert list(manifest["outputs"]) == ["data.txt"]
    assert {"counts", "seconds", "packages", "git"} <= set(manifest)


def test_a_summary_line_shows_counts_drops_and_folder(tmp_path):
    counts = {"in": 1024, "out": 1000, "dropped": {"duplicate": 24}}
    line = Summary("clean", tmp_path, counts, seconds=1.26).line()
    for part in ("clean", "1,024 in", "1,000 out", "24 duplicate", "1.3 s", str(tmp_path)):
        assert part in line


def test_an_input_edited_while_the_stage_ran_is_new_work(tmp_path):
    source, result = tmp_path / "in", tmp_path / "out"
    source.write_text("old")
    stage = Stage("s", 1, tmp_path, settings={}, inputs=[source])
    result.write_text("made of old")
    source.write_text("new!")
    stage.finish([result], {})
    assert Stage("s", 1, tmp_path, settings={}, inputs=[source]).unchanged() is None


def test_a_folder_behind_a_symbolic_link_stays_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk/deep/er").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk/deep/er")
    (tmp_path / "in").write_text("x")
    folder = Path("data")
    (folder / "out").write_text("y")
    Stage("s", 1, folder, settings={}, inputs=[Path("in")]).finish([folder / "out"], {})
    assert Stage("s", 1, folder, settings={}, inputs=[Path("in")]).unchanged()


def test_two_programs_do_not_write_in_one_folder_and_the_lock_goes_with_the_first(tmp_path):
    (tmp_path / ".tmp-data.json-1").write_text("left by a kill")
    with alone(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".held-by"]
        with (
            pytest.raises(UserError, match=rf"another .*process {os.getpid()} on \S+, since 20"),
            alone(tmp_path),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path), alone(tmp_path / "not there"):
        pass


def test_an_output_of_known_hash_is_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "out").write_text("whole")
    known = sha256(tmp_path / "out")
    stage = Stage("s", 1, tmp_path, settings={})
    monkeypatch.setattr(storage, "sha256", lambda path: pytest.fail("read again"))
    stage.finish({tmp_path / "out": known}, {})
    monkeypatch.undo()
    assert Stage("s", 1, tmp_path, settings={}).unchanged()
