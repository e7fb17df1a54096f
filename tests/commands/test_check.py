"""What `monopose check` says of good and of spoiled meshes, folders, photos."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from monopose.commands.check import check_bop, check_mesh, check_paths, check_photo
from monopose.mesh.loading import load_mesh
from monopose.mesh.report import contact_sheet
from monopose.mesh.symmetries import SymmetryProposal
from monopose.render import render_masks
from monopose.types import Symmetries

BOX = (0.1, 0.06, 0.04)


@pytest.fixture
def no_symmetries(monkeypatch):
    """Their search takes seconds for every mesh."""
    none = SymmetryProposal(Symmetries(), [])
    monkeypatch.setattr("monopose.commands.check.propose_symmetries", lambda model: none)


def saved(mesh, path):
    mesh.export(path)
    return path


@pytest.mark.slow
def test_a_box_in_numbers(tmp_path):
    mesh = trimesh.creation.box([1000 * s for s in BOX])
    mesh.apply_translation((0, 0, 20))  # the origin lies in the middle of the bottom
    report = check_mesh(saved(mesh, tmp_path / "box.stl"), "mm")
    assert report.size == pytest.approx(BOX, abs=1e-6)
    assert report.origin_from_center == pytest.approx((0, 0, -0.02), abs=1e-6)
    assert report.diameter == pytest.approx(sum(s * s for s in BOX) ** 0.5, rel=1e-6)
    assert (report.faces, report.holes, report.border_edges, report.parts, report.degenerate_faces) == (12, 0, 0, 1, 0)
    assert report.watertight
    assert not report.inside_out
    assert report.symmetries == "3 discrete"
    assert len(report.models_info["symmetries_discrete"]) == 3
    assert report.models_info["size_x"] == pytest.approx(100, abs=1e-3)
    assert report.models_info["min_z"] == pytest.approx(0, abs=1e-3)
    turns = np.array(report.models_info["symmetries_discrete"]).reshape(3, 4, 4)
    middle = np.array([0, 0, 20, 1.0])  # mm; every rotation keeps it
    np.testing.assert_allclose(turns @ middle, np.tile(middle, (3, 1)), atol=1e-3)
    assert json.loads(json.dumps(report.as_dict()))["watertight"] is True
    assert "100 x 60 x 40 mm" in report.text()


def test_holes_winding_and_pieces_are_counted(tmp_path, no_symmetries):
    ball = trimesh.creation.box(BOX).subdivide().subdivide()
    top, bottom = int(ball.triangles_center[:, 2].argmax()), int(ball.triangles_center[:, 2].argmin())
    faces = np.delete(ball.faces, [top, bottom], 0)
    report = check_mesh(saved(trimesh.Trimesh(ball.vertices, faces, process=False), tmp_path / "open.ply"), "m")
    assert (report.holes, report.border_edges, report.watertight) == (2, 6, False)
    assert any("open: 2 hole(s)" in w for w in report.warnings)

    faces = ball.faces.copy()
    faces[top] = faces[top][::-1]
    report = check_mesh(saved(trimesh.Trimesh(ball.vertices, faces, process=False), tmp_path / "twisted.ply"), "m")
    assert report.inconsistent_edges == 3
    assert any("Recalculate" in w for w in report.warnings)

    inverted = trimesh.Trimesh(ball.vertices, ball.faces[:, ::-1], process=False)
    report = check_mesh(saved(inverted, tmp_path / "inside.ply"), "m")
    assert report.inside_out
    assert any("point inwards" in w for w in report.warnings)

    far = ball.copy()
    far.apply_translation((0.3, 0, 0))
    report = check_mesh(saved(trimesh.util.concatenate([ball, far]), tmp_path / "two.ply"), "m")
    assert report.parts == 2
    far.export(tmp_path / "far.ply")
    assert any("the origin lies 300 mm" in w for w in check_mesh(tmp_path / "far.ply", "m").warnings)


def test_the_contact_sheet_shows_the_object_in_its_own_proportions(tmp_path):
    path = saved(trimesh.creation.box(BOX), tmp_path / "box.ply")
    report = check_mesh(path, "m", out=tmp_path / "out")
    sheet = np.asarray(Image.open(report.picture)).astype(int)
    assert sheet.shape == (2 * 320 + 36, 3 * 320, 3)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["box_check.png"]  # nothing temporary is left
    alone = np.asarray(contact_sheet(load_mesh(path, "m"))).astype(int)
    front = alone[30:290, 5:315]
    dark = (np.abs(front - 237).max(-1) > 20) & (np.ptp(front, axis=-1) < 12)
    rows, columns = np.flatnonzero(dark.sum(1) > 5), np.flatnonzero(dark.sum(0) > 5)
    ratio = (columns[-1] - columns[0]) / (rows[-1] - rows[0])
    assert ratio == pytest.approx(BOX[0] / BOX[2], rel=0.06)


def test_one_broken_file_hides_nothing_of_the_others(tmp_path, no_symmetries):
    saved(trimesh.creation.box(BOX), tmp_path / "a.stl")
    (tmp_path / "b.ply").write_text("ply\nformat ascii 1.0\nelement vertex 3\n")
    saved(trimesh.creation.box(BOX), tmp_path / "c.ply")
    paths = [tmp_path / name for name in ("a.stl", "b.ply", "gone.obj", "c.ply")]
    reports = check_paths(paths, "m")
    assert [len(r.problems) for r in reports] == [0, 1, 1, 0]
    assert "problem: " in reports[1].text()
    assert "is not a PLY file" in reports[1].text()
    assert "no mesh file" in reports[2].as_dict()["problems"][0]
    with pytest.raises(ValueError, match="is not a PLY file"):
        check_paths(paths[1:2], "m")
    from monopose import cli

    assert cli.main(["check", *map(str, paths), "--unit", "m", "--out", str(tmp_path / "out")]) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_check.png", "c_check.png"]


def test_a_place_that_cannot_be_written_is_said_beside_the_report(tmp_path, no_symmetries):
    (tmp_path / "out").touch()  # no folder can be made there
    report = check_mesh(saved(trimesh.creation.box([10, 20, 30]), tmp_path / "box.stl"), "mm", out=tmp_path / "out")
    assert report.faces == 12
    assert report.picture == ""
    assert any("no picture could be saved" in warning for warning in report.warnings)


@pytest.mark.slow
def test_no_symmetries_are_proposed_where_the_texture_is_lost(tmp_path):
    mesh = trimesh.creation.box(BOX)
    rows = ["v {} {} {}".format(*v) for v in mesh.vertices] + ["f {} {} {}".format(*(f + 1)) for f in mesh.faces]
    path = tmp_path / "box.obj"
    path.write_text("\n".join(rows) + "\n")
    assert check_mesh(path, "m").symmetries == "3 discrete"
    path.write_text("mtllib gone.mtl\nusemtl m\n" + "\n".join(rows) + "\n")
    report = check_mesh(path, "m")
    assert "none proposed" in report.symmetries
    assert "symmetries_discrete" not in report.models_info
    assert len(report.findings) == 3  # what the shape would allow is still told
    assert any("names the material file 'gone.mtl'" in w for w in report.warnings)


def test_gltf_is_said_to_have_another_up(tmp_path):
    saved(trimesh.creation.box(BOX), tmp_path / "box.glb")
    assert any("+Y up" in w for w in check_mesh(tmp_path / "box.glb").warnings)


# ----------------------------------------------------------------------------------------------------------- BOP folder


@pytest.fixture
def folder(tmp_path):
    """A small, right data set: two boxes in two images."""
    root = tmp_path / "set"
    scene = root / "test" / "000001"
    for name in ("models", "models_eval", "test/000001/rgb", "test/000001/mask", "test/000001/mask_visib"):
        (root / name).mkdir(parents=True)
    sizes = {1: (100.0, 60.0, 40.0), 2: (50.0, 50.0, 80.0)}
    info = {}
    for obj_id, size in sizes.items():
        mesh = trimesh.creation.box(size)
        for kind in ("models", "models_eval"):
            mesh.export(root / kind / f"obj_{obj_id:06d}.ply")
        info[str(obj_id)] = {"diameter": float(np.linalg.norm(size))}
        info[str(obj_id)] |= {f"min_{a}": -s / 2 for a, s in zip("xyz", size)} | {f"size_{a}": s for a, s in zip("xyz", size)}
    for kind in ("models", "models_eval"):
        (root / kind / "models_info.json").write_text(json.dumps(info))
    K = torch.tensor([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]])
    (root / "camera.json").write_text(json.dumps({"fx": 300, "fy": 300, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120,
                                                  "depth_scale": 1.0}))  # fmt: skip
    models = [load_mesh(root / "models" / f"obj_{i:06d}.ply", "mm", obj_id=i) for i in sizes]
    cameras, truth, gt_info = {}, {}, {}
    for im in (0, 1):
        Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(scene / "rgb" / f"{im:06d}.png")
        cameras[str(im)] = {"cam_K": K.flatten().tolist(), "depth_scale": 1.0}
        poses = torch.eye(4).repeat(2, 1, 1)
        poses[:, :3, 3] = torch.tensor([[-0.05, 0, 0.6 + 0.1 * im], [0.08, 0.01, 0.7]])
        truth[str(im)] = [
            {"obj_id": i, "cam_R_m2c": pose[:3, :3].flatten().tolist(), "cam_t_m2c": (1000 * pose[:3, 3]).tolist()}
            for i, pose in zip(sizes, poses)
        ]
        masks = render_masks(models, poses, K, (120, 160))
        gt_info[str(im)] = []
        for n in range(2):
            boxes = []
            for kind, mask in (("mask", masks.masks_full[n]), ("mask_visib", masks.masks_visible[n])):
                Image.fromarray(mask.byte().numpy() * 255).save(scene / kind / f"{im:06d}_{n:06d}.png")
                y, x = (v.tolist() for v in torch.where(mask))
                boxes.append([min(x), min(y), max(x) - min(x), max(y) - min(y)])
            seen = {"bbox_obj": boxes[0], "bbox_visib": boxes[1], "visib_fract": float(masks.visibility[n])}
            seen |= {"px_count_all": int(masks.masks_full[n].sum()), "px_count_valid": int(masks.masks_full[n].sum())}
            gt_info[str(im)].append(seen | {"px_count_visib": int(masks.masks_visible[n].sum())})
    (scene / "scene_camera.json").write_text(json.dumps(cameras))
    (scene / "scene_gt.json").write_text(json.dumps(truth))
    (scene / "scene_gt_info.json").write_text(json.dumps(gt_info))
    targets = [{"im_id": im, "inst_count": 1, "obj_id": o, "scene_id": 1} for im in (0, 1) for o in (1, 2)]
    (root / "test_targets_bop19.json").write_text(json.dumps(targets))
    return root


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_right_folder_has_nothing_to_complain_about(folder):
    report = check_bop(folder)
    assert report.problems == []
    assert report.warnings == []
    assert (report.models, report.scenes, report.images, report.instances) == ([1, 2], {"test": 1}, {"test": 2}, {"test": 4})
    assert "nothing to complain about" in report.text()


def spoil_metres(root):
    edited(root / "test/000001/scene_gt.json", lambda c: c["1"][0].update(cam_t_m2c=[-0.05, 0, 0.7]))


BIG_K = [900, 0, 320, 0, 900, 240, 0, 0, 1]

SPOILED = {
    "no truth key": (
        lambda root: edited(root / "test/000001/scene_gt.json", lambda c: c["0"][1].pop("cam_t_m2c")),
        r"scene_gt\.json.*cam_t_m2c",
    ),
    "no K": (
        lambda root: edited(root / "test/000001/scene_camera.json", lambda c: c["1"].pop("cam_K")),
        r"scene_camera\.json.*cam_K",
    ),
    "K of another size": (
        lambda root: edited(root / "test/000001/scene_camera.json", lambda c: c["1"].update(cam_K=BIG_K)),
        r"K is for another size.*\(320, 240\) in 160x120",
    ),
    "metres in scene_gt": (spoil_metres, r"(mm|millimet)"),
    "a missing mask": (
        lambda root: (root / "test/000001/mask_visib/000001_000001.png").unlink(),
        r"mask_visib file missing \(test/000001/mask_visib/000001_000001\.png\)",
    ),
    "a mask of another size": (
        lambda root: Image.fromarray(np.zeros((60, 80), np.uint8)).save(root / "test/000001/mask/000000_000000.png"),
        r"mask has another size than the picture",
    ),
    "a box elsewhere": (
        lambda root: edited(root / "test/000001/scene_gt_info.json", lambda c: c["0"][0].update(bbox_obj=[0, 0, 30, 30])),
        r"bbox_obj does not fit the pose",
    ),
    "a visible box elsewhere": (
        lambda root: edited(root / "test/000001/scene_gt_info.json", lambda c: c["0"][0].update(bbox_visib=[0, 0, 30, 30])),
        r"bbox_visib does not fit mask_visib",
    ),
    "models in metres": (
        lambda root: trimesh.creation.box(BOX).export(root / "models/obj_000001.ply"),
        r"models/obj_000001\.ply.*millimet",
    ),
    "a wrong diameter": (
        lambda root: edited(root / "models/models_info.json", lambda c: c["1"].update(diameter=500.0)),
        r"models/obj_000001\.ply has a diameter of 123 mm but models_info\.json says 500 mm",
    ),
    "a missing model": (lambda root: (root / "models/obj_000002.ply").unlink(), r"no mesh for .*obj_000002\.ply"),
    "broken JSON": (
        lambda root: (root / "models/models_info.json").write_text('{"1": {"diam'),
        r"models_info\.json is not valid JSON",
    ),
    "a target without truth": (
        lambda root: edited(root / "test_targets_bop19.json", lambda c: c[0].update(im_id=9)),
        r"target in an image without ground truth \(scene 1 image 9\)",
    ),
    "too many wanted": (
        lambda root: edited(root / "test_targets_bop19.json", lambda c: c[0].update(inst_count=3)),
        r"3 wanted, 1 there",
    ),
    "a truncated picture": (
        lambda root: (root / "test/000001/rgb/000000.png").write_bytes(b"\x89PNG"),
        r"picture cannot be read",
    ),
    "no models": (lambda root: [shutil.rmtree(root / m) for m in ("models", "models_eval")], r"no models folder"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_each_fault_is_found_and_named(folder, name):
    spoil, message = SPOILED[name]
    spoil(folder)
    problems = check_bop(folder).problems
    assert any(re.search(message, p) for p in problems), problems


def test_missing_parts_that_can_be_done_without_are_warnings(folder):
    shutil.rmtree(folder / "models_eval")
    shutil.rmtree(folder / "test/000001/mask")
    (folder / "test/000001/rgb/000001.png").unlink()
    report = check_bop(folder)
    assert report.problems == []
    for text in ("no models_eval folder", "no mask/ folder", "1 of 2 images in scene_camera.json have no picture"):
        assert any(text in w for w in report.warnings), text


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        check_bop(tmp_path / "nothing")
    (tmp_path / "rgb").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither models/ nor a split.*found: rgb"):
        check_bop(tmp_path)


@pytest.mark.slow
def test_lmo_has_no_problems(shared_data):
    report = check_bop(shared_data / "lmo", images_per_scene=5)
    assert report.problems == []
    assert report.instances == {"test": 1517}


# ---------------------------------------------------------------------------------------------------------------- photo


def test_photo_and_camera_together(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(tmp_path / "photo.png")
    camera = {"fx": 160.0, "fy": 160.0, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    report = check_photo(tmp_path / "photo.png", tmp_path / "camera.json")
    assert (report.problems, report.warnings) == ([], [])
    assert report.fov_deg[0] == pytest.approx(2 * np.degrees(np.arctan(0.5)))
    (tmp_path / "camera.json").write_text(json.dumps(camera | {"width": 320, "height": 240}))
    (problem,) = check_photo(tmp_path / "photo.png", tmp_path / "camera.json").problems
    assert problem.startswith("the camera is for 320x240 but the image is 160x120 (width x height)")
    assert "--resize-camera" in problem
    (tmp_path / "camera.json").write_text(json.dumps(camera | {"fx": 16.0, "fy": 10.0}))
    notes = " ".join(check_photo(tmp_path / "photo.png", tmp_path / "camera.json").warnings)
    assert "field of view" in notes
    assert "usually square" in notes
