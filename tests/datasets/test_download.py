"""Downloads from a server on this machine that breaks off, lies, changes its mind or knows no ranges."""

import hashlib
import io
import json
import shutil
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monopose.datasets import download


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


NOISE = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * 50  # 400 kB that do not compress
FILES = {"pix3d.json": b"[]", "img/chair/0001.png": NOISE, "model/chair/A/model.obj": b"v 0 0 0\n"}
CONTENT = zipped(FILES)
PIECE = 1 << 16  # bytes written at once: what comes less before a break is lost


@dataclass
class Server:
    """What the server does, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"one"'
    cut: list[int] = field(default_factory=list)  # bytes after which the next connections break
    errors: list[int] = field(default_factory=list)  # status codes of the next answers
    length: bool = True
    linked: str | None = None  # what the hub says of the file; empty: it has none; None: it answers with an error
    shift: int = 0  # bytes by which it misses the range it is asked for
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    url: str = ""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server({"/pix3d.zip": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):  # as the hub answers
            self.close_connection = True
            self.send_response(200 if state.linked else 403 if state.linked is None else 404)
            if state.linked:
                self.send_header("X-Linked-ETag", f'"{state.linked}"')
                self.send_header("X-Linked-Size", str(len(state.files[self.path])))
            else:
                self.send_header("X-Error-Code", "EntryNotFound" if state.linked == "" else "Forbidden")
            self.end_headers()

        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            self.close_connection = True
            if state.errors or self.path not in state.files:
                self.send_error(state.errors.pop(0) if state.errors else 404)
                return
            content, start = state.files[self.path], 0
            current = self.headers.get("If-Range") in (None, state.etag)
            if wanted and state.ranges and current:
                start = int(wanted.removeprefix("bytes=").rstrip("-")) + state.shift
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.length:
                self.send_header("Content-Length", str(len(content) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            end = start + state.cut.pop(0) if state.cut else len(content)
            self.wfile.write(content[start:end])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()


def content_of(folder):
    """Every file of the data set but our own notes."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".downloads" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_data_set_arrives_and_stays(server, tmp_path):
    folder = download.download("pix3d", tmp_path, server.url)
    assert folder == tmp_path / "pix3d"
    assert content_of(folder) == FILES
    note = json.loads((folder / ".downloads/pix3d.zip.json").read_text())
    assert note == {"url": f"{server.url}/pix3d.zip", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert [p.name for p in (folder / ".downloads").iterdir()] == ["pix3d.zip.json"]  # nothing else is left behind
    assert len(server.asked) == 1
    download.download("pix3d", tmp_path, server.url)
    assert len(server.asked) == 1  # it was complete
    (folder / "pix3d.json").unlink()
    download.download("pix3d", tmp_path, server.url)
    assert content_of(folder) == FILES


def test_the_hash_that_came_is_said(server, tmp_path, capfd):
    download.download("pix3d", tmp_path, server.url)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"SHA-256 {hashlib.sha256(CONTENT).hexdigest()} (none to compare with)" in err


def test_broken_connections_are_taken_up(server, tmp_path):
    server.cut = [2 * PIECE, 2 * PIECE + 1]
    folder = download.download("pix3d", tmp_path, server.url)
    assert content_of(folder) == FILES
    assert [r for _, r in server.asked] == [None, f"bytes={2 * PIECE}-", f"bytes={4 * PIECE}-"]


def test_the_next_call_goes_on(server, tmp_path):
    part = tmp_path / "pix3d/.downloads/pix3d.zip.part"
    server.cut = [3 * PIECE, 0, 0, 0, 0]
    with pytest.raises(ConnectionError, match=rf"{3 * PIECE:,} bytes are kept: run the same command again"):
        download.download("pix3d", tmp_path, server.url)
    assert part.stat().st_size == 3 * PIECE
    assert not (tmp_path / "pix3d/pix3d.json").exists()
    server.asked.clear()
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES
    assert server.asked == [("/pix3d.zip", f"bytes={3 * PIECE}-")]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.cut = [200_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError):
        download.download("pix3d", tmp_path, server.url)
    newer = {**FILES, "img/chair/0002.png": b"new"}
    server.files["/pix3d.zip"], server.etag = zipped(newer), '"two"'
    assert content_of(download.download("pix3d", tmp_path, server.url)) == newer


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}], ids=str)
def test_servers_that_cannot_resume_begin_anew(server, tmp_path, change):
    for key, value in change.items():
        setattr(server, key, value)
    server.cut = [300_000]
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES
    assert len(server.asked) == 2


def test_a_server_that_does_not_say_the_length(server, tmp_path):
    server.length = False
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES


def test_a_server_that_sends_another_range(server, tmp_path):
    server.cut, server.shift = [PIECE], 7
    with pytest.raises(ValueError, match=rf"sent bytes from {PIECE + 7}, asked for {PIECE}"):
        download.download("pix3d", tmp_path, server.url)
    assert not list((tmp_path / "pix3d/.downloads").iterdir())


def test_more_here_than_there(server, tmp_path):
    server.cut = [300_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError):
        download.download("pix3d", tmp_path, server.url)
    server.files["/pix3d.zip"] = small = zipped({"pix3d.json": b"[]"})
    assert len(small) < 300_000
    assert content_of(download.download("pix3d", tmp_path, server.url)) == {"pix3d.json": b"[]"}


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.errors = [503, 429]
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES
    server.errors = [503] * 9
    with pytest.raises(ConnectionError, match=r"HTTP 503.*nothing has come"):
        download.download("pix3d", tmp_path / "other", server.url)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (404, FileNotFoundError, r"pix3d\.zip is not there \(HTTP 404\)"),
        (403, PermissionError, "does it want a login"),
        (418, ValueError, "was refused"),
    ],
)
def test_refusals_are_said_at_once(server, tmp_path, code, error, message):
    server.errors = [code]
    with pytest.raises(error, match=message):
        download.download("pix3d", tmp_path, server.url)
    assert len(server.asked) == 1


def test_no_network(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"could not be fetched \(.*refused.*\); nothing has come\. Is there a network"):
        download.download("pix3d", tmp_path, "http://127.0.0.1:9/pix3d.zip")  # the discard port: nobody listens


def test_a_wrong_hash_or_size_is_refused(server, tmp_path, monkeypatch):
    one = download.DATASETS["pix3d"][0]

    def known(**changes):
        monkeypatch.setitem(download.DATASETS, "pix3d", (download.replace(one, **changes),))

    right = hashlib.sha256(CONTENT).hexdigest()
    known(sha256="0" * 64)
    with pytest.raises(ValueError, match=rf"has SHA-256 {right}, expected 0000.*was removed"):
        download.download("pix3d", tmp_path, server.url)
    assert [p.name for p in (tmp_path / "pix3d/.downloads").iterdir()] == []
    assert not (tmp_path / "pix3d/pix3d.json").exists()
    known(size=7)
    with pytest.raises(ValueError, match=rf"has {len(CONTENT):,} bytes, expected 7"):
        download.download("pix3d", tmp_path, server.url)
    assert not list((tmp_path / "pix3d/.downloads").iterdir())
    known(sha256=right.upper(), size=len(CONTENT))
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES


def test_damage_on_the_way_is_noticed(server, tmp_path):
    server.files["/pix3d.zip"] = CONTENT[:5000] + b"!" + CONTENT[5001:]
    with pytest.raises(ValueError, match=r"is a broken ZIP file \(.*img/chair/0001\.png.*what came was removed"):
        download.download("pix3d", tmp_path, server.url)
    assert content_of(tmp_path / "pix3d") == {}
    assert [p.name for p in (tmp_path / "pix3d/.downloads").iterdir()] == []
    server.files["/pix3d.zip"] = CONTENT
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES


def test_a_web_page_is_no_data_set(server, tmp_path):
    server.files["/pix3d.zip"] = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(ValueError, match=r"is not a ZIP file, it starts with b'<!DOCTYPE.*It is a web page"):
        download.download("pix3d", tmp_path, server.url)


def test_another_data_set_is_refused(server, tmp_path):
    server.files["/pix3d.zip"] = zipped({"lmo/camera.json": b"{}"})
    with pytest.raises(ValueError, match=r"holds no pix3d\.json \(but lmo\)"):
        download.download("pix3d", tmp_path, server.url)
    assert content_of(tmp_path / "pix3d") == {}


@pytest.mark.parametrize(
    "name", ["../escaped.txt", "/escaped.txt", "img/../../escaped.txt", "..\\escaped.txt", "C:/escaped.txt"]
)
def test_members_stay_in_the_folder(server, tmp_path, name):
    server.files["/pix3d.zip"] = zipped({"pix3d.json": b"[]", name: b"gotcha"})
    with pytest.raises(ValueError, match=r"leads out of its folder; it is not to be trusted"):
        download.download("pix3d", tmp_path / "deep", server.url)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "deep/pix3d/pix3d.json").exists()
    assert not list((tmp_path / "deep/pix3d/.downloads").iterdir())


def test_links_are_refused(server, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("pix3d.json", "[]")
        link = zipfile.ZipInfo("img")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    server.files["/pix3d.zip"] = stream.getvalue()
    with pytest.raises(ValueError, match=r"its member 'img' is a link"):
        download.download("pix3d", tmp_path, server.url)


def test_archives_of_endless_members_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MEMBERS", 2)
    with pytest.raises(ValueError, match=r"it has 3 members, at most 2 are expected"):
        download.download("pix3d", tmp_path, server.url)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_archives_that_grow_beyond_measure_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_UNPACKED", 1_000_000)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pix3d.json", bytes(2_000_000))
    server.files["/pix3d.zip"] = stream.getvalue()
    with pytest.raises(ValueError, match=r"would become 2,000,000, more than 30 times as many; it is not to be trusted"):
        download.download("pix3d", tmp_path, server.url)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_connections_that_bring_little_before_they_stall_get_on(server, tmp_path):
    server.cut = [10_000] * (len(CONTENT) // 10_000)  # each brings less than a large buffer holds
    assert content_of(download.download("pix3d", tmp_path, server.url)) == FILES


def test_a_full_disk_is_seen_before(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=100_400_000))
    with pytest.raises(OSError, match=r"needs 0\.00 GB to fetch and to unpack.*0\.10 GB are free under"):
        download.download("pix3d", tmp_path, server.url)
    assert (tmp_path / "pix3d/.downloads/pix3d.zip.part").stat().st_size == 0
    # what does not show before unpacking: zeros are a small archive
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pix3d.json", bytes(2_000_000))
    server.files["/pix3d.zip"] = stream.getvalue()
    with pytest.raises(OSError, match="to unpack"):
        download.download("pix3d", tmp_path, server.url)
    assert content_of(tmp_path / "pix3d") == {}
    monkeypatch.undo()
    monkeypatch.setattr(download, "WAIT", 0.0)
    server.asked.clear()
    assert set(content_of(download.download("pix3d", tmp_path, server.url))) == {"pix3d.json"}
    assert server.asked == []  # it had come whole


def test_a_data_set_of_several_archives(server, tmp_path):
    server.files |= {
        "/bop/lmo_base.zip": zipped({"lmo/test_targets_bop19.json": b"[]", "lmo/camera.json": b"{}"}),
        "/bop/lmo_models.zip": zipped({"models/models_info.json": b"{}", "models_eval/models_info.json": b"{}"}),
        "/bop/lmo_test_bop19.zip": zipped({"test/000002/scene_gt.json": b"{}", "__MACOSX/x": b""}),
    }
    server.errors = [404]
    with pytest.raises(FileNotFoundError):
        download.download("lmo", tmp_path, server.url + "/bop/")
    folder = download.download("lmo", tmp_path, server.url + "/bop/")
    assert sorted(content_of(folder)) == [
        "camera.json", "models/models_info.json", "models_eval/models_info.json", "test/000002/scene_gt.json",
        "test_targets_bop19.json",
    ]  # fmt: skip
    shutil.rmtree(folder / "models")
    server.asked.clear()
    download.download("lmo", tmp_path, server.url + "/bop")
    assert [path for path, _ in server.asked] == ["/bop/lmo_models.zip"]  # only what is missing
    with pytest.raises(ValueError, match=r"has 3 archives \(lmo_base\.zip, "):
        download.download("lmo", tmp_path / "x", server.url + "/bop/lmo_base.zip")


def test_the_hub_tells_size_and_hash(server, tmp_path, monkeypatch):
    archive = download.Archive(f"{server.url}/pix3d.zip", "pix3d.json", hub=True)
    monkeypatch.setitem(download.DATASETS, "pix3d", (archive,))
    server.linked = hashlib.sha256(CONTENT).hexdigest()
    server.cut = [PIECE]
    assert content_of(download.download("pix3d", tmp_path)) == FILES
    assert [r for _, r in server.asked] == [None, f"bytes={PIECE}-"]
    server.linked = "0" * 64
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected 0000"):
        download.download("pix3d", tmp_path / "b")
    server.linked = "0" * 40  # of a small file, which git keeps: no SHA-256
    assert content_of(download.download("pix3d", tmp_path / "c")) == FILES
    assert all(a.hub for name in ("lmo", "ycbv", "tless") for a in download.DATASETS[name])


@pytest.mark.parametrize(
    ("linked", "error", "message"), [("", FileNotFoundError, "is not there"), (None, ConnectionError, "hub does not")]
)
def test_what_the_hub_does_not_have(server, tmp_path, monkeypatch, linked, error, message):
    monkeypatch.setitem(download.DATASETS, "pix3d", (download.Archive(f"{server.url}/pix3d.zip", "pix3d.json", hub=True),))
    server.linked = linked
    with pytest.raises(error, match=message):
        download.download("pix3d", tmp_path)


def test_files_of_the_user_stay(server, tmp_path):
    own = tmp_path / "pix3d/img/chair/mine.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    folder = download.download("pix3d", tmp_path, f"{server.url}/pix3d.zip")
    assert content_of(folder) == {**FILES, "img/chair/mine.png": b"mine"}


def test_names_and_addresses(tmp_path):
    with pytest.raises(ValueError, match="no data set 'pix4d' is known; known: pix3d, lm, lmo, ycbv"):
        download.download("pix4d", tmp_path)
    with pytest.raises(ValueError, match="starts with http"):
        download.download("pix3d", tmp_path, "ftp://somewhere/pix3d.zip")
    assert not list(tmp_path.iterdir())
    for archives in download.DATASETS.values():
        assert all(a.url.startswith(("http://", "https://")) and a.file.endswith(".zip") and a.holds for a in archives)


def test_parts_are_chosen_and_what_is_there_stays(server, tmp_path):
    server.files = {
        "/lmo_base.zip": zipped({"lmo/test_targets_bop19.json": b"[]"}),
        "/lmo_models.zip": zipped({"models/models_info.json": b"{}"}),
        "/lmo_test_bop19.zip": zipped({"test/000002/scene_gt.json": b"{}"}),
        "/lm_train_pbr.zip": zipped({"train_pbr/000000/scene_gt.json": b"{}"}),
    }
    folder = download.download("lmo", tmp_path, server.url, ("models", "train_pbr"))
    assert (folder / "train_pbr/000000/scene_gt.json").is_file()
    assert not (folder / "test").exists()
    server.asked.clear()
    download.download("lmo", tmp_path, server.url)
    assert [path for path, _ in server.asked] == ["/lmo_test_bop19.zip"]
    with pytest.raises(ValueError, match=r"lmo has no part train_real; it has models, test, test_all, train, train_pbr"):
        download.download("lmo", tmp_path, server.url, ("train_real",))
    with pytest.raises(ValueError, match="pix3d has no part test; it comes whole"):
        download.download("pix3d", tmp_path, server.url, ("test",))
