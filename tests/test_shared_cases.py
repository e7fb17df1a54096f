"""Situations that went wrong once, kept in the folder `shared/cases` beside the checkout, or MONOPOSE_CASES.

Each gives what it should. Scripts of the PnP layers are run as they are; the others speak of older modules, so that their
files go through today's.
"""

import json
import logging
import os
import re
import runpy
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from monopose import cli, pnp, weights
from monopose.commands import check
from monopose.datasets import pix3d
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes
from monopose.geometry import camera as cameras
from monopose.geometry import rotation
from monopose.io.boxes import read_boxes
from monopose.io.cameras import read_camera
from monopose.io.images import read_frame
from monopose.mesh.loading import load_mesh, read_raw
from monopose.mesh.symmetries import SymmetryProposal, group_size, propose_symmetries
from monopose.objects import coordinates
from monopose.synthesis import pix3d_folder
from monopose.types import Symmetries
from monopose.viewpoint import samples


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = Path(os.environ.get("MONOPOSE_CASES", Path(__file__).parents[2] / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}, or MONOPOSE_CASES to name another")
    return folder


HERE = {
    "pnp": {
        "01_origin_far_from_points", "03_repeated_points", "04_init_no_rotation", "05_converged_flips_with_iterations",
        "07_covariance_prior_has_units", "11_torch_compile", "13_ransac_options", "15_options_unchecked",
        "16_pix3d_mask_of_other_size", "18_flat_posterior", "20_K_not_upper_triangular",
        "09_ransac_success_without_confidence",  # 300 scenes of 500 points, 20 s: tests/pnp/test_robust.py has fewer
        "10_read_only_install",  # compiles for a minute: tests/pnp/test_where.py has a short one
    },
    "objects": {
        "01-big-photo-crop", "02-json-distortion-ignored", "03-text-mesh-not-utf8", "04-concave-polygon-filled",
        "05-synth-origin-far", "06-obj-texture-lost", "08-identity-makes-add-s", "09-symmetries-not-checked",
        "11-ros-roi-and-zero-K", "15-boxes-file", "18-symmetries-missed", "23-ap-equal-scores",
    },
    "files": {"bombs", "latin", "shapenet", "silent"},
}  # fmt: skip


def test_every_case_is_tried_here(cases):
    for folder, known in HERE.items():
        there = {
            p.stem for p in (cases / folder).iterdir() if p.name[0] not in "._" and p.name not in ("common.py", "__pycache__")
        }
        assert there <= known, folder


# ------------------------------------------------------------------------------------------------------------------- pnp


@pytest.mark.parametrize(
    "name",
    [
        "01_origin_far_from_points", "03_repeated_points", "04_init_no_rotation", "07_covariance_prior_has_units",
        pytest.param("11_torch_compile", marks=pytest.mark.slow), "13_ransac_options", "15_options_unchecked",
        pytest.param("18_flat_posterior", marks=pytest.mark.slow), "20_K_not_upper_triangular",
    ],
)  # fmt: skip
def test_scripts_of_the_pnp_layers_find_nothing(cases, name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(cases / "pnp")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for module in ("_c", "common"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()  # what earlier tests compiled is not counted
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(cases / "pnp" / f"{name}.py"))
    finally:
        torch.set_num_threads(threads)
        logging.disable(logging.NOTSET)
    said = capsys.readouterr().out
    assert end.value.code == 0, said
    assert "ok   " in said


def test_what_converged_in_29_iterations_has_converged_in_30():
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    X = (torch.rand(16, 3, generator=generator) - 0.5) * 0.2
    R = rotation.matrix_from_quat_wxyz(torch.nn.functional.normalize(torch.randn(5000, 4, generator=generator), dim=-1))
    t = torch.rand(5000, 3, generator=generator) * torch.tensor([0.4, 0.4, 1]) + torch.tensor([-0.2, -0.2, 0.5])
    p = (X @ R.mT + t[:, None]) @ K.T
    x = p[..., :2] / p[..., 2:] + torch.randn(5000, 16, 2, generator=generator) * 0.5
    fewer, more = (pnp.solve(X, x, K, iterations=i) for i in (29, 30))
    assert bool(more.converged[fewer.converged].all())
    assert more.converged.float().mean() > 0.9995


def test_a_photo_with_the_mask_of_another_stops_nothing(tmp_path):
    models = {"chair": pix3d_folder.furniture_models(1)["chair"]}
    pix3d_folder.write_pix3d(tmp_path, models, images=12, size=(48, 64), workers=0)
    Image.fromarray(np.full((300, 100), 255, np.uint8)).save(tmp_path / pix3d.read(tmp_path)[1].mask)
    with pytest.warns(pix3d.Pix3DWarning, match="left out 1 of 12 entries") as heard:
        crops = samples.PhotoCrops(pix3d.read(tmp_path), 32, normals="none")
    assert len(crops) == 11
    assert len(heard) == 1
    assert all(bool(torch.isfinite(v).all()) for v in crops[0].values() if v.is_floating_point())


# --------------------------------------------------------------------------------------------------------------- objects


def said_by(capsys, *arguments) -> tuple[int, str]:
    """Exit code of a command, and all that it printed."""
    capsys.readouterr()
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as end:
        code = end.code
    return code, "".join(capsys.readouterr())


def test_a_large_photo_is_cropped_about_as_fast_as_a_small_one(cases):
    photo, times, crops = Image.open(cases / "objects/01-big-photo-crop/photo.jpg").convert("RGB"), [], []
    for width, height in ((640, 480), (2560, 1920)):
        picture = torch.from_numpy(np.array(photo.resize((width, height)))).permute(2, 0, 1) / 255
        box = torch.tensor([[0.1 * width, 0.05 * height, 0.9 * width, 0.95 * height]])
        before = time.process_time()
        crops.append(cameras.cut(picture, box, 128))
        times.append(time.process_time() - before)
    assert times[1] < 30 * times[0] + 0.5  # with the fourth power of the size it was 256 times
    assert (crops[0] - crops[1]).abs().mean() < 0.02


@pytest.mark.parametrize("name", ["dist.json", "dist3.json", "dist4.json", "mp_dist.json", "cm_dist.json", "ros.yaml"])
def test_distortion_is_read_under_every_name(cases, name):
    found = read_camera(cases / "objects/02-json-distortion-ignored" / name).distortion
    torch.testing.assert_close(found.double(), torch.tensor([-0.3, 0.1, 0, 0, 0], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["latin.stl", "gbk.obj", "latin.ply", "gbkmtl.obj"])
def test_comments_in_other_encodings_have_nothing_to_do_with_geometry(cases, name):
    model = load_mesh(cases / "objects/03-text-mesh-not-utf8" / name, "mm")
    assert len(model.faces) > 0
    assert name[:3] != "gbk" or model.texture.shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["concave.obj", "concave.ply"])
def test_a_concave_polygon_keeps_its_notch(cases, name):
    raw = read_raw(cases / "objects/04-concave-polygon-filled" / name)
    a, b, c = raw.vertices[raw.faces].transpose(1, 0, 2)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(4800)


def test_synthetic_pictures_show_the_object_wherever_its_origin_is(cases, tmp_path, capsys):
    mesh = trimesh.load(cases / "objects/05-synth-origin-far/part.stl")
    mesh.apply_translation((2000, 500, -1000))
    mesh.export(tmp_path / "far.stl")
    code, said = said_by(capsys, "synth", tmp_path / "far.stl", "--unit", "mm", "--out", tmp_path / "out", "--images", 4)
    assert code == 0, said
    info = json.loads((tmp_path / "out/train/000000/scene_gt_info.json").read_text())
    assert min(seen["visib_fract"] for objects in info.values() for seen in objects) > 0.1


@pytest.mark.parametrize(
    ("name", "textured", "warning"),
    [
        ("notex", False, "gone.png"), ("win", True, "someone.*tex.png"), ("opt", True, None), ("nomtl", False, "absent.mtl"),
        ("nouse", True, "usemtl"), ("ok", True, None),
    ],
)  # fmt: skip
def test_a_texture_is_loaded_or_missed_aloud(cases, name, textured, warning):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model = load_mesh(cases / f"objects/06-obj-texture-lost/{name}.obj", "mm")
    assert (model.texture is not None) == textured
    assert len(heard) == (warning is not None)
    assert warning is None or re.search(warning, str(heard[0].message))


def test_the_identity_among_symmetries_changes_no_score(cases, capsys):
    folder = cases / "objects/08-identity-makes-add-s"
    for data in ("ds", "ds_identity"):
        code, said = said_by(capsys, "evaluate", folder / "turned_ds-test.csv", "--data", folder / data, "--json")
        assert code == 0, said
        assert set(json.loads(said)["add_s"].values()) == {0.0}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("ds", None), ("ds_columns", "the last row must be 0 0 0 1"), ("ds_metres", r"is no symmetry of the mesh: .* mm away"),
        ("ds_null", "models_info.json, object 5: 'symmetries_discrete' must be a list"),
    ],
)  # fmt: skip
def test_symmetries_are_tried_before_they_count(cases, data, complaint, capsys):
    folder = cases / "objects/09-symmetries-not-checked"
    code, said = said_by(capsys, "evaluate", folder / "gt_ds-test.csv", "--data", folder / data, "--json")
    if complaint is None:
        assert code == 0, said
        assert set(json.loads(said)["add_s"].values()) == {1.0}
    else:
        assert code == 1
        assert re.search(complaint, said)
        assert re.search(complaint, said_by(capsys, "check", folder / data)[1])


@pytest.mark.parametrize(("name", "resize"), [("baxter.yaml", False), ("ros_roi.yaml", False), ("ros_roi.yaml", True)])
def test_a_region_of_the_sensor_has_its_own_principal_point(cases, name, resize):
    folder = cases / "objects/11-ros-roi-and-zero-K"
    K = read_frame(folder / "photo.png", folder / name, resize_camera=resize).camera.K
    assert K.tolist() == [[600, 0, 320], [0, 600, 240], [0, 0, 1]]


def test_a_camera_of_zeros_is_not_calibrated(cases):
    folder = cases / "objects/11-ros-roi-and-zero-K"
    with pytest.raises(ValueError, match=r"zero_K\.yaml.*not calibrated"):
        read_frame(folder / "photo.png", folder / "zero_K.yaml")


def test_boxes_say_what_does_not_fit(cases, capsys):
    folder = cases / "objects/15-boxes-file"
    with pytest.warns(UserWarning, match=r"coco_results\.json has boxes for the pictures 12, none for photo"):
        assert len(read_boxes([str(folder / "coco_results.json")], range(1, 6))("photo")) == 0
    with pytest.warns(UserWarning, match=r"unknown_cat\.json: boxes of object 77 are left out"):
        assert len(read_boxes([str(folder / "unknown_cat.json")], range(1, 6))("000000.jpg")) == 5
    with pytest.raises(ValueError, match=r"score_over\.json, entry 0: .*between 0 and 1, got 55"):
        read_boxes([str(folder / "score_over.json")], range(1, 6))
    with pytest.raises(ValueError, match=r"str_score\.json, entry 0: 'score'"):
        bop_results.read_detections(folder / "str_score.json")
    boxes = ("--boxes", folder / "boxes.json", folder / "photo.jpg")
    code, said = said_by(capsys, "predict", "--model", "demo", "--camera", folder / "camera.json", *boxes)
    assert code == 2
    assert "photo.jpg was taken for a box; put the SOURCE before --boxes" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Leq.stl", "1 discrete"), ("cube_inside.stl", "23 discrete"), ("gear48.stl", "95 discrete"),
    ],
)  # fmt: skip
def test_the_symmetries_that_a_camera_sees_are_proposed(cases, name, expected):
    proposed = propose_symmetries(load_mesh(cases / "objects/18-symmetries-missed" / name, "mm"))
    assert group_size(proposed.symmetries) == expected


@pytest.mark.parametrize(("name", "expected"), [("first", 0.5), ("last", 0.703)])
def test_equal_scores_keep_the_order_of_the_file(cases, name, expected, capsys):
    folder = cases / "objects/23-ap-equal-scores"
    code, said = said_by(capsys, "evaluate", folder / f"{name}_ds-test.csv", "--data", folder / "ds", "--json")
    assert code == 0, said
    assert json.loads(said)["ap"]["mssd"] == pytest.approx(expected, abs=5e-4)


# ----------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "read", "message"),
    [
        ("b_lmo-test.csv", bop_results.read_results, "inf|1e999999999|finite"),
        ("bomb.yaml", read_camera, "alias"),
        ("deep.json", read_camera, "nested"),
        ("deep.json", lambda path: read_boxes([str(path)], [1]), "nested"),
        ("huge_faces_ascii.ply", read_raw, "MONOPOSE_MAX_FACES|cut"),
        ("list_vertex.ply", read_raw, "face|list"),
        ("negative.ply", read_raw, "-1"),
        ("unknown_type.ply", read_raw, "quad"),
        (
            "rle.json",
            lambda path: bop_results.detections_of(bop_results.read_detections(path)[1, 1], masks=True),
            "MONOPOSE_MAX_MEGAPIXELS",
        ),
        (
            "widths.safetensors",
            lambda path: weights.load_network(path, "coordinates", coordinates.Config, coordinates.Model),
            "far larger network",
        ),
    ],
)  # fmt: skip
def test_bombs_are_refused_in_no_time(cases, name, read, message):
    before = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read(cases / "files/bombs" / name)
    assert time.process_time() - before < 5
    assert name in str(caught.value) or name == "rle.json"


@pytest.mark.parametrize("name", ["a.obj", "b.obj", "c.stl"])
def test_latin_comments_cost_neither_geometry_nor_colour(cases, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_mesh(cases / "files/latin" / name, "mm")
    assert len(model.faces) == (2 if name == "c.stl" else 4)
    if name != "c.stl":
        torch.testing.assert_close(model.colors[0], torch.tensor([0.8, 0.2, 0.2]), atol=2e-3, rtol=0)


def test_textures_may_lie_beside_the_folder_of_the_mesh(cases):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_mesh(cases / "files/shapenet/models/a.obj", "mm").texture is not None


def test_a_transposed_camera_of_a_scene_is_refused(cases):
    scene = cases / "files/silent/bop_K/test/000002"
    with pytest.raises(ValueError, match=r"scene_camera\.json.*image 0.*cam_K.*transposed"):
        scenes.read_frame(scenes.open_scene(scene), 4)


def test_a_symmetry_that_is_no_rotation_is_refused(cases):
    with pytest.raises(ValueError, match=r"symmetries\.json.*chair/a/model"):
        pix3d.read_symmetries(cases / "files/silent/pix3d_sym")


@pytest.mark.parametrize(("name", "message"), [("obj_no_texture_file", "tex.png"), ("obj_texture_cut_in_half", "tex.png")])
def test_a_texture_that_cannot_be_read_is_missed_aloud(cases, name, message):
    with pytest.warns(UserWarning, match=message):
        assert load_mesh(cases / f"files/silent/{name}/a.obj", "mm").texture is None


def test_a_mesh_that_lost_a_face_is_open(cases, monkeypatch):
    monkeypatch.setattr(check, "propose_symmetries", lambda model: SymmetryProposal(Symmetries(), []))
    report = check.check_mesh(cases / "files/silent/obj_cut/a.obj", "mm")
    assert not report.watertight
    assert report.border_edges == 3
