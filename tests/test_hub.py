"""Runs by name: a stand-in for the Hugging Face hub on this machine; what is pushed there comes back."""

import base64
import hashlib
import json
import re
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import huggingface_hub.constants
import pytest
import torch

import monopose
from monopose import cli, runs, weights
from monopose.commands import publish
from monopose.io import hub
from monopose.io.files import ASSETS

FIRST, SECOND = "1" * 40, "2" * 40


@dataclass
class Hub:
    """What it holds, and what it was asked."""

    states: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> file -> content
    heads: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    wrong: str = ""  # the file of which it serves other bytes than it tells
    refuses: int = 0  # with this code, whatever it is asked
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch, tmp_path):
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, content, code=200, **headers):
            self.send_response(code)
            for key, value in {"Content-Length": len(content), "Connection": "close", **headers}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            state.asked.append(f"{self.command} {path}")
            if state.refuses:
                return self.answer(b"{}", state.refuses)
            if path == "/api/repos/create":
                return self.answer(
                    json.dumps({"url": "https://huggingface.co/org/parts"}).encode(), Content_Type="application/json"
                )
            if path == "/api/validate-yaml":
                return self.answer(b'{"errors": [], "warnings": []}', Content_Type="application/json")
            if not path.startswith(("/api/models/org/parts", "/org/parts/resolve/")):
                return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
            if "/preupload/" in path:
                files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
                return self.answer(json.dumps({"files": files}).encode(), Content_Type="application/json")
            if "/commit/" in path:
                rows = [json.loads(line) for line in body.splitlines()]
                new = {r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows if r["key"] == "file"}
                state.states[FIRST], state.heads["main"] = new, FIRST
                done = {"commitUrl": "https://huggingface.co/org/parts/commit/1", "commitOid": FIRST, "commitMessage": "m"}
                return self.answer(json.dumps(done).encode(), Content_Type="application/json")
            revision, _, file = re.sub(".*?/(resolve|revision)/", "", path).partition("/")
            commit = state.heads.get(unquote(revision), revision)
            if commit not in state.states:
                return self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")
            if "/api/" in path:
                return self.answer(json.dumps(self.info(commit)).encode(), Content_Type="application/json")
            content = state.states[commit][file]
            served = content[:-1] + b"!" if file == state.wrong else content
            mark = hashlib.sha256(content).hexdigest()
            return self.answer(served, ETag=f'"{mark}"', X_Repo_Commit=commit, X_Linked_Size=len(content))

        def info(self, commit):
            siblings = []
            for name, content in state.states[commit].items():
                one = {"rfilename": name, "size": len(content), "blobId": "b"}
                if name.endswith(".safetensors"):
                    one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
                siblings.append(one)
            return {"id": "org/parts", "sha": commit, "siblings": siblings, "tags": [], "private": False, "downloads": 0}

        do_GET = do_HEAD = do_POST = handle_any

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.chdir(tmp_path)
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def content(tmp_path):
    """Files of a run on the hub, with things in it that are none of ours."""
    run = tmp_path / "made"
    state = {"w": torch.ones(3)}
    notes = {"minutes": "90", "steps": "4000", "data": json.dumps([["/home/ann/secret/parts", 1]])}
    weights.save(run / "viewpoint.safetensors", state, method="viewpoint", config={"bins": 8}, labels=(2,), notes=notes)
    ours = {"viewpoint.safetensors": (run / "viewpoint.safetensors").read_bytes(), "calibration.json": b"{}"}
    return ours | {"README.md": b"hi", "pytorch_model.bin": b"pickle", "objects/a.pkl": b"pickle", "../out.json": b"{}"}


def test_a_run_that_was_pushed_comes_back_whole_and_opens(server, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(ASSETS / "demo", run, ignore=shutil.ignore_patterns("photos"))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (run / "coordinates.json").write_text('{"data": "/home/ann/secret"}')
    assert cli.main(["push", str(run), "org/parts", "--license", "apache-2.0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["url"].endswith("/org/parts")
    sent = server.states[FIRST]
    assert sorted(said["files"]) == sorted(sent)
    assert not any("secret" in name or name.endswith(".ckpt") or name == "coordinates.json" for name in sent)
    assert sent["README.md"].startswith(b"---\nlicense: apache-2.0\n")
    there = monopose.load("org/parts")
    assert list(there.names.values()) == ["biscuit_box", "toy_train", "cross_knob", "ring_bottle", "bracket"]
    assert there.calibration is not None
    assert len(there.models) == 5
    assert there.path.is_relative_to(tmp_path / "cache" / "monopose" / "org" / "parts")
    for name in sent.keys() - {"README.md"}:
        assert (there.path / name).read_bytes() == (ASSETS / "demo" / name).read_bytes()


def test_only_what_a_run_needs_is_fetched_and_then_nobody_is_asked(server, content):
    server.states, server.heads = {FIRST: content}, {"main": FIRST}
    folder = hub.located_run("org/parts")
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)
    assert found == ["calibration.json", "viewpoint.safetensors"]
    assert (folder / "viewpoint.safetensors").read_bytes() == content["viewpoint.safetensors"]
    assert not (folder / "viewpoint.safetensors").is_symlink()
    server.asked.clear()
    server.refuses = 503
    assert weights.find_run("org/parts") == folder
    assert runs.family_of("org/parts") == "viewpoint"
    assert server.asked == []


def test_revisions(server, content, capsys):
    newer = content | {"calibration.json": b'{"new": 1}'}
    server.states, server.heads = {FIRST: content, SECOND: newer}, {"main": FIRST, "v2/beta": SECOND}
    old = hub.located_run("org/parts")
    assert old.name == FIRST
    assert hub.located_run("org/parts@v2/beta").name == hub.located_run("org/parts", SECOND).name == SECOND
    server.heads["main"] = SECOND
    assert hub.located_run("org/parts") == old
    assert cli.main(["download", "org/parts", "--json"]) == 0  # asks for the newest
    assert json.loads(capsys.readouterr().out)["folder"].endswith(SECOND)
    assert hub.located_run("org/parts").name == SECOND
    with pytest.raises(FileNotFoundError, match="org/parts on the hub has no branch, tag or commit 'v9'"):
        hub.located_run("org/parts", "v9")
    with pytest.raises(ValueError, match="two revisions"):
        hub.located_run("org/parts@v2/beta", "v9")
    with pytest.raises(ValueError, match="belongs to runs of the hub"):
        monopose.load("demo", revision="v2")


def test_an_interrupted_download_is_none(server, content):
    server.states, server.heads, server.wrong = {FIRST: content}, {"main": FIRST}, "viewpoint.safetensors"
    with pytest.raises(ValueError, match=r"viewpoint.safetensors of org/parts has SHA-256 .*, expected .*try again"):
        hub.located_run("org/parts")
    server.wrong = ""
    folder = hub.located_run("org/parts")
    assert weights.read(folder / "viewpoint.safetensors").notes["minutes"] == "90"


def test_a_folder_goes_before_the_hub_and_a_misspelt_one_does_not_go_there(server, content, tmp_path):
    server.states, server.heads = {FIRST: content}, {"main": FIRST}
    (tmp_path / "org").mkdir()
    with pytest.raises(FileNotFoundError, match="no trained run 'org/parts'"):
        weights.find_run("org/parts")
    with pytest.raises(FileNotFoundError, match="no trained run 'runs/part'"):
        weights.find_run("runs/part")  # of another folder
    assert server.asked == []
    made = tmp_path / "org" / "parts"
    shutil.copytree(tmp_path / "made", made)
    assert weights.find_run("org/parts").resolve() == made
    assert server.asked == []


def test_what_the_hub_has_not_is_said_in_a_line(server, content, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no run 'org/other': it is no folder here, and the hub has no such repository"):
        monopose.load("org/other")
    server.states, server.heads = {FIRST: {"model.bin": b"x", "objects/a.safetensors": b""}}, {"main": FIRST}
    with pytest.raises(ValueError, match="holds no weights of monopose"):
        hub.located_run("org/parts")
    server.states = {FIRST: content}
    monkeypatch.setenv("MONOPOSE_MAX_DOWNLOAD_MB", "0.00001")
    with pytest.raises(ValueError, match="MONOPOSE_MAX_DOWNLOAD_MB"):
        hub.located_run("org/parts")
    server.refuses = 403
    with pytest.raises(PermissionError, match="hf auth login"):
        hub.located_run("org/parts")
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="the hub does not answer"):
        hub.located_run("org/parts")


def test_the_card_says_what_the_run_is_and_keeps_paths_to_itself(content, tmp_path):
    run = tmp_path / "made"
    (run / "objects").mkdir()
    (run / "objects" / "names.json").write_text('{"2": "bracket"}')
    (run / "objects" / "models_info.json").write_text('{"2": {"diameter": 123.4, "symmetries_discrete": [[1]]}}')
    (run / "report.json").write_text(
        '{"right": 0.9, "median_mm": 2.5, "median_deg": 1.2, "targets": 50, "pictures": "rendered"}'
    )
    text = publish.card(run, "org/parts", "cc-by-4.0")
    head = text.split("---")[1]
    assert "license: cc-by-4.0" in head
    assert "| 2 | bracket | 123.4 mm | yes |" in text
    assert "90% of the visible objects right, median error 2.5 mm, 1.2°" in text
    assert "| viewpoint | 3 | 90 min, 4000 steps | parts | - |" in text
    assert "Scores are raw" in text
    assert '"bins": 8' in text
    assert "secret" not in text
    with pytest.raises(ValueError, match="identifier of a licence"):
        publish.card(run, "org/parts", "free: yes\nx")
    with pytest.raises(ValueError, match="name of a repository"):
        publish.push(run, "parts", licence="mit")
