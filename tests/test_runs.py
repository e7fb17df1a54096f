"""Runs by name, and the picture to try them on."""

import warnings

import pytest

import monopose
from monopose import runs, weights
from monopose.io.files import ASSETS


def test_a_folder_called_demo_does_not_hide_the_bundled_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "overlay.png").write_bytes(b"")
    assert runs.family_of("demo") == "objects"
    assert weights.find_run("demo") == ASSETS / "demo"
    with pytest.raises(ValueError, match="holds no weights"):
        weights.find_run("./demo")  # said to be the folder


def test_a_run_of_ones_own_goes_before_the_bundled_one_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "viewpoint.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="the folder demo here is taken, not the bundled weights"):
        assert runs.family_of("demo") == "viewpoint"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs.family_of(tmp_path / "demo") == "viewpoint"


def test_sample_pictures_have_their_camera():
    photo, camera = monopose.sample()
    frame = monopose.read_frame(photo, camera=camera)
    assert frame.camera.size == (480, 640)
    assert len({monopose.sample(n).photo for n in range(6)}) == 6
    with pytest.raises(ValueError, match="6 sample pictures, 0 to 5, got 6"):
        monopose.sample(6)


def test_cad_models_are_for_runs_that_use_them(tmp_path):
    (tmp_path / "category.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a category run, which uses no CAD models"):
        monopose.load(tmp_path, models=tmp_path)
