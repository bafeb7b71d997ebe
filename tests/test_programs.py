"""What every program does before its own first line."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def while_loading(statement):
    """stderr of a program in which `statement` happens right after our package was imported."""
    script = f"import sys; sys.argv = ['-m']; import backend; {statement}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr


def test_a_ctrl_c_while_a_program_loads_is_a_word_and_a_bug_stays_a_traceback():
    assert while_loading("raise KeyboardInterrupt") == "interrupted\n"
    assert "Traceback" in while_loading("raise ValueError('bug')")


def test_who_imports_us_keeps_the_own_excepthook():
    script = "import sys; import backend; assert sys.excepthook is sys.__excepthook__"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_how_threads_wait_is_decided_by_each_program_unless_the_user_said_it():
    """A flow's own threads never spin; the training that it starts looks for itself."""

    def said(package, **given):
        ours = {"LYRICS_WAITS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
        environment = {k: v for k, v in os.environ.items() if k not in ours} | given
        script = (
            f"import os, {package}; "
            "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert said("backend")[0] == "PASSIVE"
    assert said("flows") == ["PASSIVE", "None"]
    assert said("backend", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "None"]
    assert said("flows", GOMP_SPINCOUNT="7") == ["None", "7"]
    earlier = {"LYRICS_WAITS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}
    assert said("backend", **earlier)[1] in ("None", "10000")
