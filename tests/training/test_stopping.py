"""Signals: what changes nothing is broken off at once, what changes the run is finished first."""

import signal

import pytest

from backend.errors import Terminated
from backend.training.stopping import Stopping

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(("number", "kind"), [(INT, KeyboardInterrupt), (TERM, Terminated),
                                              (HUP, Terminated)])  # fmt: skip
def test_a_signal_breaks_off_at_once_what_changes_nothing(number, kind, capfd):
    done = []
    with Stopping() as stopping, pytest.raises(kind):
        signal.raise_signal(number)
        done.append("went on")
    assert not done
    assert isinstance(stopping.asked, kind)
    assert "stopping" in capfd.readouterr().err


def test_what_is_held_is_finished_first_also_within_another():
    done = []
    with Stopping() as stopping, pytest.raises(Terminated):
        with stopping.held():
            with stopping.held():
                signal.raise_signal(TERM)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_a_fault_in_what_is_held_is_told_rather_than_the_signal():
    with Stopping() as stopping, pytest.raises(ZeroDivisionError), stopping.held():
        signal.raise_signal(TERM)
        raise ZeroDivisionError


@pytest.mark.parametrize("again", [TERM, HUP])
def test_a_second_sigterm_or_a_terminal_that_closes_too_changes_nothing(again):
    with Stopping() as stopping, pytest.raises(Terminated):
        with stopping.held():
            signal.raise_signal(TERM)
            signal.raise_signal(again)
        pytest.fail("went on")
    assert not stopping.hurried


def test_a_second_ctrl_c_breaks_off_even_what_is_held():
    done = []
    with Stopping() as stopping, pytest.raises(KeyboardInterrupt), stopping.held():
        signal.raise_signal(INT)
        done.append("held")
        signal.raise_signal(INT)
        done.append("went on")
    assert done == ["held"]
    assert stopping.hurried


def test_of_several_processes_none_leaves_by_itself(capfd):
    with Stopping(together=True, quiet=True) as stopping:
        for number in (INT, INT, TERM):  # the terminal, then torchrun
            signal.raise_signal(number)
        with stopping.held():
            pass
    assert isinstance(stopping.asked, KeyboardInterrupt)
    assert not stopping.hurried
    assert capfd.readouterr().err == ""


def test_a_hangup_that_somebody_ignores_stays_ignored_and_all_is_as_before_afterwards():
    ours = signal.signal(HUP, signal.SIG_IGN)
    try:
        before = [signal.getsignal(n) for n in (INT, TERM, HUP)]
        with Stopping() as stopping:
            signal.raise_signal(HUP)
        assert stopping.asked is None
        assert [signal.getsignal(n) for n in (INT, TERM, HUP)] == before
    finally:
        signal.signal(HUP, ours)


def test_a_terminal_that_is_gone_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with Stopping(), pytest.raises(Terminated):
        signal.raise_signal(TERM)
