"""Workers: results in the order of the pieces, faults as sentences, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from backend import workers
from backend.errors import DataError, UserError
from backend.workers import FEW, in_order
from tests.conftest import ROOT


def square(x):
    return x * x


def uneven(x):
    """The first pieces take longest."""
    time.sleep(0.2 if x == 0 else 0)
    return x, os.getpid()


def refuse(x, bad):
    if x == bad:
        raise DataError(f"piece {x} is no piece", mend="another")
    return x


def killed(x):
    if x == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def marked(x, folder):
    """Leaves a file that says it was begun."""
    (folder / str(x)).touch()
    time.sleep(0.05)
    return x


@pytest.fixture
def pieces():
    """pieces(n): numbers, and a list of those that were taken."""

    def make(n):
        taken = []

        def stream():
            for i in range(n):
                taken.append(i)
                yield i

        return stream(), taken

    return make


def test_results_come_in_the_order_of_the_pieces_from_other_processes():
    done = list(in_order(uneven, range(12), workers=2))
    assert [x for x, _ in done] == list(range(12))
    assert os.getpid() not in {pid for _, pid in done}


@pytest.mark.parametrize("n", [0, 1, FEW])
def test_a_few_pieces_start_no_process(monkeypatch, n):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    assert list(in_order(lambda x: x * x, range(n), workers=8)) == [x * x for x in range(n)]


def test_one_worker_is_this_process_and_takes_one_piece_at_a_time(monkeypatch, pieces):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    stream, taken = pieces(100)
    results = in_order(lambda x: x * x, stream, workers=1)
    assert [next(results) for _ in range(10)] == [x * x for x in range(10)]
    assert len(taken) <= 10 + FEW + 1
    assert list(results) == [x * x for x in range(10, 100)]


def test_zero_workers_are_as_many_as_cores(monkeypatch):
    asked = []

    class Pool(workers.ProcessPoolExecutor):
        def __init__(self, n, **more):
            asked.append(n)
            super().__init__(1, **more)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert list(in_order(square, range(FEW + 1))) == [x * x for x in range(FEW + 1)]
    assert asked == [3]


@pytest.mark.parametrize(("n", "count"), [(3, 1), (40, 2)])
def test_an_exception_of_the_work_arrives_after_the_results_before_it(n, count):
    results = in_order(partial(refuse, bad=n - 1), range(n), workers=count)
    found = []
    with pytest.raises(DataError) as error:
        found += (x for x in results)
    assert f"piece {n - 1}" in error.value.what
    assert error.value.mend == "another"


def test_an_exception_of_the_pieces_arrives():
    def broken():
        yield from range(10)
        raise DataError("cut off")

    with pytest.raises(DataError, match="cut off"):
        list(in_order(square, broken(), workers=2))


def test_a_killed_worker_is_a_sentence_with_a_way_out():
    with pytest.raises(UserError, match="killed") as error:
        list(in_order(killed, range(40), workers=2))
    assert "memory" in error.value.why
    assert "--workers=1" in error.value.mend


def test_pieces_are_not_taken_far_ahead_of_their_results(pieces):
    stream, taken = pieces(200)
    for n, result in enumerate(in_order(square, stream, workers=2)):
        assert result == n * n
        assert len(taken) - n <= 2 * 2 + FEW + 2
    assert len(taken) == 200


def test_what_waits_is_cancelled_where_the_results_are_no_longer_wanted(pieces, tmp_path):
    stream, taken = pieces(1000)
    results = in_order(partial(marked, folder=tmp_path), stream, workers=2)
    assert next(results) == 0
    results.close()
    begun = len(list(tmp_path.iterdir()))
    assert begun <= len(taken) <= 2 * 2 + FEW + 2
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == begun


PARENT = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from functools import partial
from pathlib import Path
from test_workers import busy
from backend.workers import in_order
if __name__ == "__main__":
    list(in_order(partial(busy, folder=Path(sys.argv[3])), range(8), workers=2))
"""


def busy(x, folder):
    (folder / f"{x}.{os.getpid()}").touch()
    time.sleep(60)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not stat.stdout.startswith("Z")


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_no_worker_survives_a_parent_that_is_killed(tmp_path):
    script, folder = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(PARENT)
    folder.mkdir()
    words = [str(script), str(ROOT), str(ROOT / "tests"), str(folder)]
    parent = subprocess.Popen([sys.executable, *words])
    try:
        for _ in range(600):
            if len(begun := list(folder.iterdir())) >= 2 or parent.poll() is not None:
                break
            time.sleep(0.1)
        assert len(begun) == 2
    finally:
        parent.kill()
        parent.wait()
    children = [int(path.suffix[1:]) for path in begun]
    for _ in range(100):
        if not any(map(alive, children)):
            break
        time.sleep(0.1)
    assert not any(map(alive, children))
