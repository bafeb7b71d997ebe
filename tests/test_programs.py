"""What every program does before its own first line."""

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
