"""NOCS's archives fetched from a server on this machine, in the folders that others find in them."""

import functools
import io
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monopose.datasets import download, nocs


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return stream.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    kept = tmp_path / "server"
    kept.mkdir()
    (kept / "real_test.zip").write_bytes(zipped("real_test/scene_1/0000_color.png"))
    (kept / "camera_val25K.zip").write_bytes(zipped("val/00000/0000_color.png"))
    (kept / "obj_models.zip").write_bytes(zipped("obj_models/real_test/mug_a_norm.txt"))
    (kept / "gts.zip").write_bytes(zipped("gts/real_test/results_real_test_scene_1_0000.pkl"))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(kept)))
    threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(("name", "photos"), [("real275", "real_test/scene_1/0000"), ("camera25", "val/00000/0000")])
def test_photos_models_and_annotations_lie_where_the_reader_looks(server, tmp_path, name, photos):
    folder = download.download(name, tmp_path / "data", server)
    assert folder == tmp_path / "data" / name
    assert nocs.find(folder) == [folder / photos]
    assert (folder / "obj_models/real_test/mug_a_norm.txt").is_file()
    assert (folder / "gts/real_test/results_real_test_scene_1_0000.pkl").is_file()


def test_another_archive_under_that_name_is_refused(server, tmp_path):
    (tmp_path / "server" / "real_test.zip").write_bytes(zipped("pix3d.json"))
    with pytest.raises(ValueError, match=r"holds no real_test \(but pix3d.json\)"):
        download.download("real275", tmp_path / "data", server)


def test_names_and_addresses(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'real2' is known; known: pix3d, .*real275, camera25"):
        download.download("real2", tmp_path)
    for name in ("real275", "camera25"):
        assert all(a.url.startswith("http://download.cs.stanford.edu/orion/nocs/") and a.holds for a in download.DATASETS[name])
