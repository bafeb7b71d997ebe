"""What the doctor says of this machine, and of worse ones."""

import json
import re
import threading
import tomllib
from collections import namedtuple
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backend import doctor
from backend.config.schema import DoctorConfig
from backend.errors import UserError
from tests.conftest import ROOT


@contextmanager
def listening(**pages):
    """A host on loopback that answers with these."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path.strip("/").replace("/", "_"))
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}/api"
        host.shutdown()


def found(check):
    [line] = check()
    return line


def test_only_a_prefect_server_counts_as_one(monkeypatch):
    with listening(api_health=b"true") as url:
        assert doctor.answers(url)
    assert not doctor.answers(url)  # it is gone now
    for page in (b"<html>Angular lives here too</html>", b"false", b""):
        with listening(api_health=page) as url:
            assert not doctor.answers(url)
    assert not doctor.answers("no address")
    older = {"api_health": b"true", "api_admin_version": json.dumps("2.0").encode()}
    with listening(**older) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert "is version 2.0" in found(doctor._server).what


def test_a_token_is_found_and_never_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert found(doctor._token).state == "note"
    (tmp_path / ".env").write_text("GENIUS_ACCESS_TOKEN=very-secret-1\n")
    assert found(doctor._token) == (
        "ok", "a token of Genius is set: GENIUS_ACCESS_TOKEN in .env", ""
    )  # fmt: skip
    monkeypatch.setenv("GENIUS_ACCESS_TOKEN", "very-secret-2")
    doctor.main(DoctorConfig())
    said = capsys.readouterr().out
    assert "very-secret" not in said
    lines = [line for line in said.splitlines() if not line.startswith("  ")]
    assert all(re.match(r"(ok|note)  +\S", line) for line in lines)
    assert len(lines) >= 7


def test_what_cannot_work_is_wrong_with_its_mend_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", {"prefect": "3.8.8", "fastapi": "0.163.2"}.get)
    line = found(doctor._prefect)
    assert line.state == "wrong"
    assert line.mend == 'pip install "fastapi>=0.139,<0.151"'
    monkeypatch.setattr(doctor, "_version", lambda package: "absent")
    with pytest.raises(UserError, match="Prefect absent"):
        doctor.main(DoctorConfig())


def test_little_room_and_a_missing_vocabulary_are_notes(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(0, 0, 2**29))
    assert found(doctor._disk).state == "note"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert found(doctor._vocabulary).state == "note"


def test_the_doctor_and_the_project_agree_on_fastapi():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (low, high) = (".".join(map(str, bound)) for bound in doctor.FASTAPI)
    assert f"fastapi>={low},<{high}" in project["dependencies"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["prefect"]["api"]["url"] == doctor.PREFECT_URL
