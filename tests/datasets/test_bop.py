"""BOP folders and files: round trips, conventions, and what is said when something is missing or wrong."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from monopose import Camera, Detections, Frame, Instances, ObjectModel, PoseEstimates
from monopose.datasets.bop import models, results, scenes, writing
from monopose.datasets.bop.models import ModelInfo, read_ply_vertices
from monopose.geometry.rotation import random_rotations
from monopose.types import Symmetries

H, W = 48, 64
K = torch.tensor([[100.0, 0, 32], [0, 101, 24], [0, 0, 1]])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def cube(obj_id=1, **more):
    corners = torch.tensor([[x, y, z] for x in (-0.05, 0.05) for y in (-0.05, 0.05) for z in (-0.05, 0.05)])
    faces = torch.tensor([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]])
    normals = corners / corners.norm(dim=1, keepdim=True)
    return ObjectModel(obj_id, f"obj_{obj_id:06d}", corners, faces, normals, 0.1 * 3**0.5, **more)


def make_frame(generator, n=2, depth=True, offset=0):
    """A picture with n squares as objects, the first half covered by the second."""
    image = (torch.rand(3, H, W, generator=generator) * 255).round() / 255
    full = torch.zeros(n, H, W, dtype=torch.bool)
    for i in range(n):
        full[i, 10 : 20 + i, 5 + 5 * i + offset : 15 + 5 * i + offset] = True
    visible = full.clone()
    for i in range(n - 1):
        visible[i] &= ~full[i + 1]
    pose = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    pose[:, :3, :3] = random_rotations(n, generator=generator, dtype=torch.float64)
    pose[:, :3, 3] = torch.tensor([0.123456789, -0.05, 1.25], dtype=torch.float64)
    boxes = torch.tensor([[5.0 + 5 * i + offset, 10, 15 + 5 * i + offset, 20 + i] for i in range(n)]).reshape(n, 4)
    seen = torch.stack([torch.tensor([b[0], b[1], 10 + b[0] if i == n - 1 else b[0] + 5, b[3]]) for i, b in enumerate(boxes)])
    share = visible.flatten(1).sum(1) / full.flatten(1).sum(1)
    instances = Instances(torch.arange(1, n + 1), pose, boxes, seen, visible, share)
    z = torch.full((H, W), 1.5) if depth else None
    return Frame(image, Camera(K, (H, W)), z, instances), full


# ---------------------------------------------------------------------------------------------------------------- models


def test_models_survive_a_round_trip(tmp_path, generator):
    flip = torch.diag(torch.tensor([-1.0, -1, 1, 1]))[None].clone()
    flip[0, 0, 3] = 0.004
    symmetric = Symmetries(flip, torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.01, 0.002, 0]]))
    uv = torch.rand(8, 2, generator=generator)
    texture = (torch.rand(3, 4, 6, generator=generator) * 255).round() / 255
    colors = (torch.rand(8, 3, generator=generator) * 255).round() / 255
    writing.write_models(
        tmp_path / "models", {1: cube(colors=colors, symmetries=symmetric), 12: cube(12, uv=uv, texture=texture)}
    )
    back = models.read_models(tmp_path / "models", names={12: "box"})
    assert list(back) == [1, 12]
    assert back[12].name == "box"
    for model in back.values():
        assert model.diameter == pytest.approx(0.1 * 3**0.5)
        torch.testing.assert_close(model.bounds, cube().bounds)
        assert len(model.faces) == 6
    torch.testing.assert_close(back[1].symmetries.discrete, flip)
    torch.testing.assert_close(back[1].symmetries.axes, symmetric.axes)
    torch.testing.assert_close(back[1].symmetries.offsets, symmetric.offsets)
    torch.testing.assert_close(back[1].colors, colors)
    torch.testing.assert_close(back[12].texture, texture)
    torch.testing.assert_close(back[12].uv, uv)
    np.testing.assert_allclose(models.read_model_points(tmp_path / "models", [1])[1], cube().vertices.numpy(), atol=1e-7)
    assert list(models.read_models(tmp_path / "models", [12])) == [12]


def test_models_info_is_in_metres(tmp_path):
    record = {"diameter": 100.0, "min_x": -10, "min_y": -20, "min_z": -30, "size_x": 20, "size_y": 40, "size_z": 60}
    record["symmetries_discrete"] = [[-1, 0, 0, 5, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]
    record["symmetries_continuous"] = [{"axis": [0, 0, 2], "offset": [1, 2, 3]}]
    (tmp_path / "models_info.json").write_text(json.dumps({"3": record}))
    info = models.read_models_info(tmp_path)[3]
    assert isinstance(info, ModelInfo)
    assert info.diameter == pytest.approx(0.1)
    np.testing.assert_allclose(info.low, [-0.01, -0.02, -0.03])
    np.testing.assert_allclose(info.size, [0.02, 0.04, 0.06])
    np.testing.assert_allclose(info.discrete[0, :3, 3], [0.005, 0, 0])
    np.testing.assert_allclose(info.axes, [[0, 0, 1]])
    np.testing.assert_allclose(info.offsets, [[0.001, 0.002, 0.003]])
    assert info.symmetries.any


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"models_info\.json, object 1: key 'diameter' is missing \(has: nothing\)"),
        ({"diameter": 0.1}, r"'diameter' must be millimetres, got 0\.1; were metres written\? Multiply by 1000"),
        ({"diameter": "big"}, r"'diameter' must be numbers, got 'big'"),
        ({"diameter": 100, "symmetries_discrete": [[1, 2]]}, r"'symmetries_discrete'\[0\] must be 16 finite numbers"),
        ({"diameter": 100, "symmetries_continous": []}, "the key 'symmetries_continous' is not read; expected 'symmetries_d"),
        ({"diameter": 100, "symmetries_continuous": [{"axis": [0, 0, 1]}]}, r"symmetries_continuous: key 'offset' is missing"),
        ({"diameter": 100, "symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]}, r"'axis' must not be zero"),
    ],
)
def test_models_info_messages(tmp_path, record, message):
    (tmp_path / "models_info.json").write_text(json.dumps({"1": record}))
    with pytest.raises(ValueError, match=message):
        models.read_models_info(tmp_path)


def test_models_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no models folder"):
        models.read_models(tmp_path / "models")
    with pytest.raises(FileNotFoundError, match=r"no obj_000001\.ply in .*found: nothing"):
        models.read_models(tmp_path)
    writing.write_models(tmp_path / "models", {1: cube(), 4: cube(4)})
    with pytest.raises(ValueError, match=r"unknown object id 2: no obj_000002\.ply in .*known ids: \[1, 4\]"):
        models.read_models(tmp_path / "models", [2])
    (tmp_path / "models/models_info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no models_info\.json in .*found: .*obj_000001\.ply"):
        models.read_models(tmp_path / "models")


def test_mesh_files_named_as_bop_keep_their_numbers():
    assert models.ids_of_names(["a/obj_000007.ply", "obj_000003.ply"]) == [7, 3]
    assert models.ids_of_names(["obj_000007.ply", "cup.stl"]) == [1, 2]
    assert models.ids_of_names(["cup.stl", "obj_x.ply"]) == [1, 2]
    with pytest.raises(ValueError, match="same object number; rename"):
        models.ids_of_names(["a/obj_000007.ply", "b/obj_000007.obj"])


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_vertices(tmp_path, kind):
    points = np.array([[1.5, -2, 3], [4, 5, 6.25]])
    header = f"ply\r\nformat {kind} 1.0\nelement vertex 2\nproperty uchar red\nproperty float x\nproperty double y\n"
    header += "property float32 z\nelement face 0\nproperty list uchar int vertex_indices\nend_header\n"
    if kind == "ascii":
        body = "".join(f"7 {x} {y} {z}\n" for x, y, z in points).encode()
    else:
        order = "<" if "little" in kind else ">"
        table = np.zeros(2, [("r", "u1"), ("x", order + "f4"), ("y", order + "f8"), ("z", order + "f4")])
        table["x"], table["y"], table["z"] = points.T
        body = table.tobytes()
    path = tmp_path / "a.ply"
    path.write_bytes(header.encode() + body)
    np.testing.assert_array_equal(read_ply_vertices(path), points)
    path.write_bytes(header.encode() + body[:-6])
    with pytest.raises(ValueError, match=r"a\.ply is cut short: its header promises 2 vertices"):
        read_ply_vertices(path)
    path.write_bytes(b"solid cube")
    with pytest.raises(ValueError, match=r"a\.ply is not a PLY file"):
        read_ply_vertices(path)


# ---------------------------------------------------------------------------------------------------------------- scenes


@pytest.mark.parametrize("jpeg", [False, True])
def test_frames_survive_a_round_trip(tmp_path, generator, jpeg):
    scene = tmp_path / "data/train/000003"
    pairs = [make_frame(generator, 2), make_frame(generator, 3, depth=False, offset=4)]
    ids = writing.append_frames(scene, [f for f, _ in pairs], [m for _, m in pairs], jpeg=jpeg)
    assert ids == [0, 1]
    for im_id, (frame, _) in zip(ids, pairs):
        back = scenes.read_frame(scene, im_id, raw=True)
        assert (back.scene_id, back.im_id) == (3, im_id)
        assert (back.image - frame.image).abs().mean() < (0.2 if jpeg else 1e-6)  # JPEG blurs the colours of noise
        assert torch.equal(back.camera.K, frame.camera.K)
        assert back.camera.size == (H, W)
        assert (back.depth is None) == (frame.depth is None)
        if frame.depth is not None:
            torch.testing.assert_close(back.depth, frame.depth)
        for name in ("labels", "boxes", "boxes_visible", "masks"):
            assert torch.equal(getattr(back.instances, name), getattr(frame.instances, name)), name
        torch.testing.assert_close(back.instances.cam_from_obj, frame.instances.cam_from_obj, atol=1e-12, rtol=0)
        torch.testing.assert_close(back.instances.visibility, frame.instances.visibility)
    info = json.loads((scene / "scene_gt_info.json").read_text())["0"][0]
    assert info == {
        "bbox_obj": [5, 10, 9, 9],
        "bbox_visib": [5, 10, 4, 9],
        "px_count_all": 100,
        "px_count_valid": 100,
        "px_count_visib": 50,
        "visib_fract": 0.5,
    }
    assert (scene / "mask/000001_000002.png").exists()


def test_writing_what_was_read_gives_the_same_files(tmp_path, generator):
    first, second = tmp_path / "a/train/000000", tmp_path / "b/train/000000"
    pairs = [make_frame(generator, 2), make_frame(generator, 1)]
    writing.append_frames(first, [f for f, _ in pairs], [m for _, m in pairs])
    frames = [scenes.read_frame(first, i, raw=True) for i in (0, 1)]
    writing.append_frames(second, frames, [m for _, m in pairs])
    for path in sorted(first.rglob("*")):
        if path.is_file():
            other = second / path.relative_to(first)
            if path.name == "scene_gt_coco.json":  # names the data set's folder
                assert json.loads(path.read_text())["annotations"] == json.loads(other.read_text())["annotations"]
            else:
                assert path.read_bytes() == other.read_bytes(), path.name


def test_real_poses_are_rewritten_to_the_last_digit(tmp_path, shared_data):
    scene = scenes.open_scene(shared_data / "lmo/test/000002")
    frame = scenes.read_frame(scene, 3, raw=True)
    writing.append_frames(tmp_path / "lmo/test/000000", [frame])
    mine = json.loads((tmp_path / "lmo/test/000000/scene_gt.json").read_text())["0"]
    theirs = json.loads((scene.folder / "scene_gt.json").read_text())["3"]
    assert mine == theirs
    projected = scenes.read_instances(scene, 3)
    R = projected.cam_from_obj[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
    assert projected.cam_from_obj.dtype == torch.float32
    assert torch.equal(projected.labels, torch.tensor([1, 5, 6, 8, 9, 10, 11, 12]))
    x, y, w, h = json.loads((scene.folder / "scene_gt_info.json").read_text())["3"][0]["bbox_obj"]
    assert projected.boxes[0].tolist() == [x, y, x + w + 1, y + h + 1]  # scene_gt_info holds xmax - xmin
    assert len(scenes.images(shared_data / "lmo/test")) == 50
    assert len(scene.im_ids) == 200


def test_the_two_box_conventions_differ_by_one(tmp_path, generator):
    frame, full = make_frame(generator, 1)
    writing.append_frames(tmp_path / "d/train/000000", [frame], [full])
    info = json.loads((tmp_path / "d/train/000000/scene_gt_info.json").read_text())
    coco = json.loads((tmp_path / "d/train/000000/scene_gt_coco.json").read_text())
    assert info["0"][0]["bbox_obj"] == [5, 10, 9, 9]
    assert coco["annotations"][0]["bbox"] == [5, 10, 10, 10]


def test_appending_goes_on_where_a_killed_run_stopped(tmp_path, generator, monkeypatch):
    scene = tmp_path / "d/train/000000"
    frames = [make_frame(generator, 2) for _ in range(4)]
    writing.append_frames(scene, [frames[0][0]], [frames[0][1]])

    import monopose.datasets.bop.writing as writer

    real = writer._write_lines

    def killed(path, records):
        if path.name == "scene_camera.json":
            raise KeyboardInterrupt
        real(path, records)

    monkeypatch.setattr(writer, "_write_lines", killed)
    with pytest.raises(KeyboardInterrupt):
        writing.append_frames(scene, [frames[1][0]], [frames[1][1]])
    monkeypatch.undo()
    assert writing.count_images(scene) == 1  # the half-written image does not count
    assert [i.im_id for i in scenes.images(scene)] == [0]
    assert writing.append_frames(scene, [f for f, _ in frames[2:]], [m for _, m in frames[2:]]) == [1, 2]
    assert writing.count_images(scene) == 3
    assert torch.equal(scenes.read_frame(scene, 1).image, frames[2][0].image)
    coco = json.loads((scene / "scene_gt_coco.json").read_text())
    assert [a["image_id"] for a in coco["annotations"]] == [0, 0, 1, 1, 2, 2]
    assert len({a["id"] for a in coco["annotations"]}) == 6
    assert not list(scene.rglob(".*"))


def test_a_full_disk_leaves_the_scene_as_it_was(tmp_path, generator, monkeypatch):
    scene = tmp_path / "d/train/000000"
    frame, full = make_frame(generator)
    writing.append_frames(scene, [frame], [full])
    before = {p.name: p.read_bytes() for p in scene.glob("*.json")}

    def no_space(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    with pytest.raises(OSError, match="the disk is full"):
        writing.append_frames(scene, [frame], [full])
    assert {p.name: p.read_bytes() for p in scene.glob("*.json")} == before


def test_empty_images_and_objects_out_of_sight(tmp_path, generator):
    frame, _ = make_frame(generator, 1)
    hidden = Instances(torch.tensor([1]), frame.instances.cam_from_obj, torch.tensor([[-20.0, 3, -5, 9]]), torch.zeros(1, 4))
    frames = [Frame(frame.image, frame.camera), Frame(frame.image, frame.camera, instances=hidden)]
    writing.append_frames(tmp_path / "d/train/000000", frames)
    assert len(scenes.read_frame(tmp_path / "d/train/000000", 0).instances) == 0
    back = scenes.read_frame(tmp_path / "d/train/000000", 1)
    assert torch.equal(back.instances.boxes, hidden.boxes)  # amodal boxes are not clipped
    assert torch.equal(back.instances.boxes_visible, torch.zeros(1, 4))
    info = json.loads((tmp_path / "d/train/000000/scene_gt_info.json").read_text())["1"][0]
    assert info["bbox_visib"] == [-1, -1, -1, -1]
    assert back.depth is None


@pytest.mark.parametrize(("folder", "suffix", "mode"), [("gray", ".tif", "L"), ("rgb", ".jpg", "RGB"), ("gray", ".png", "L")])
def test_pictures_of_all_kinds(tmp_path, folder, suffix, mode):
    scene = tmp_path / "test/000001"
    (scene / folder).mkdir(parents=True)
    Image.new(mode, (W, H), 128 if mode == "L" else (128, 128, 128)).save(scene / folder / f"000012{suffix}")
    (scene / "scene_camera.json").write_text(json.dumps({"12": {"cam_K": K.flatten().tolist()}}))
    frame = scenes.read_frame(scene, 12)
    assert frame.image.shape == (3, H, W)
    torch.testing.assert_close(frame.image.mean(), torch.tensor(128 / 255), atol=0.01, rtol=0)
    assert frame.instances is None
    assert scenes.image_widths(scenes.open_scene(scene), [0]).tolist() == [W]


def test_a_second_sensor_has_its_own_names(tmp_path, generator):
    frame, _ = make_frame(generator, 1)
    scene = tmp_path / "test/000001"
    writing.append_frames(scene, [frame])
    for path in list(scene.iterdir()):
        path.rename(path.with_name(f"{path.stem}_photoneo{path.suffix}"))
    back = scenes.read_frame(scenes.open_scene(scene, "photoneo"), 0)
    assert back.depth is not None
    assert torch.equal(back.instances.masks, frame.instances.masks)
    with pytest.raises(FileNotFoundError, match=r"no scene_camera\.json in .*found: depth_photoneo/"):
        scenes.open_scene(scene)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "scene_camera",
            lambda c: c["0"].pop("cam_K"),
            r"scene_camera\.json, image 0: key 'cam_K' is missing \(has: depth_scale\)",
        ),
        (
            "scene_camera",
            lambda c: c.update({"0": {"cam_model": {"projection_model_type": "CameraModelType.FISHEYE624"}}}),
            r"image 0: has 'cam_model' \(CameraModelType\.FISHEYE624\) instead of 'cam_K'; only pinhole",
        ),
        ("scene_camera", lambda c: c["0"].update(dist=[-0.3, 0.1, 0, 0]), r"image 0: 'dist' says that the lens distorts"),
        (
            "scene_camera",
            lambda c: c["0"].update(cam_K=[1, 2]),
            r"image 0: 'cam_K' must have 9 numbers, a 3 x 3 matrix row by row, got 2",
        ),
        ("scene_camera", lambda c: c["0"].update(cam_K=[6e5, 0, 3e5, 0, 6e5, 2e5, 0, 0, 1]), "no camera is so large"),
        ("scene_camera", lambda c: c.update({"0": {"cam_model": [1]}}), r"has 'cam_model' \(unknown\) instead of 'cam_K'"),
        (
            "scene_gt",
            lambda c: [o.update(cam_t_m2c=[1, 0, -900]) for image in c.values() for o in image],
            "all objects behind the camera.*OpenGL",
        ),
        ("scene_gt", lambda c: [o.update(cam_t_m2c=[1, 0, 9e8]) for o in c["0"]], "were micrometres written"),
        ("scene_gt_info", lambda c: c["0"][0].update(visib_fract=-1), "'visib_fract' must be a share from 0 to 1, got -1"),
        ("scene_camera", lambda c: c.update(x={}), r'must be a JSON object keyed by image ids such as "1"'),
        ("scene_gt", lambda c: c["0"][1].pop("cam_t_m2c"), r"scene_gt\.json, image 0, object 1: key 'cam_t_m2c' is missing"),
        (
            "scene_gt",
            lambda c: c["0"][0].update(cam_R_m2c=[0] * 9),
            r"object 0: 'cam_R_m2c' must be a rotation matrix row by row",
        ),
        ("scene_gt", lambda c: c["0"][0].update(obj_id=None), r"object 0: 'obj_id'"),
        (
            "scene_gt",
            lambda c: [o.update(cam_t_m2c=[0.1, 0, 1.2]) for o in c["0"]],
            r"'cam_t_m2c' must be millimetres, but half of the objects would be nearer than 1\.2 mm.*were metres written\?",
        ),
        (
            "scene_gt_info",
            lambda c: c["0"].pop(),
            r"scene_gt_info\.json, image 0: must describe the 2 objects of scene_gt, got 1",
        ),
        ("scene_gt_info", lambda c: c["0"][0].pop("visib_fract"), r"image 0, object 0: key 'visib_fract' is missing"),
        ("scene_gt_info", lambda c: c["0"][0].update(bbox_obj="x"), r"'bbox_obj' must be numbers, got 'x'"),
    ],
)
def test_scene_messages(tmp_path, generator, name, change, message):
    scene = tmp_path / "test/000001"
    frame, full = make_frame(generator)
    writing.append_frames(scene, [frame], [full])
    edit(scene / f"{name}.json", change)
    with pytest.raises(ValueError, match=message):
        scenes.open_scene(scene)


def test_file_messages(tmp_path, generator):
    with pytest.raises(FileNotFoundError, match="no split folder"):
        scenes.images(tmp_path / "train")
    with pytest.raises(FileNotFoundError, match=r"no scene folder such as 000001 in .*found: nothing"):
        scenes.images(tmp_path)
    with pytest.raises(ValueError, match="a scene folder is named by six digits"):
        scenes.open_scene(tmp_path)
    scene = tmp_path / "000001"
    with pytest.raises(FileNotFoundError, match="no scene folder"):
        scenes.open_scene(scene)
    frame, full = make_frame(generator)
    writing.append_frames(scene, [frame], [full])
    with pytest.raises(ValueError, match=r"scene_camera\.json: no image 5 \(has: 0\)"):
        scenes.read_frame(scene, 5)
    (scene / "mask_visib/000000_000001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 000000_000001\.png in .*mask_visib \(found: 000000_000000\.png"):
        scenes.read_frame(scene, 0)
    (scene / "mask_visib/000000_000001.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"000000_000001\.png cannot be read as a picture"):
        scenes.read_frame(scene, 0)
    assert scenes.read_frame(scene, 0, masks=False).instances.masks is None
    Image.new("L", (8, 8)).save(scene / "depth/000000.png")
    with pytest.raises(ValueError, match=r"depth of image 0 of .* is 8x8 but .*rgb/000000\.png is 64x48"):
        scenes.read_frame(scene, 0, masks=False)
    (scene / "rgb/000000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no picture 000000 \(\.png, \.jpg, \.tif\)"):
        scenes.read_frame(scene, 0)
    (scene / "scene_gt.json").write_text('{"0": [')
    with pytest.raises(ValueError, match=r"scene_gt\.json is not valid JSON \(line 1: .*cut short"):
        scenes.open_scene(scene)


def test_masks_of_another_size_are_refused(tmp_path, generator):
    frame, full = make_frame(generator)
    with pytest.raises(ValueError, match=r"masks_full of frame 0 must be \(2, 48, 64\), got \(2, 48, 63\)"):
        writing.append_frames(tmp_path / "000001", [frame], [full[..., 1:]])


def test_depth_keeps_tenths_of_millimetres_near_and_millimetres_far(tmp_path, generator):
    frame, _ = make_frame(generator, 1)
    near, far = torch.linspace(0, 6.5, H * W).reshape(H, W), torch.linspace(0, 60.0, H * W).reshape(H, W)
    writing.append_frames(tmp_path / "000000", [Frame(frame.image, frame.camera, z) for z in (near, far)])
    torch.testing.assert_close(scenes.read_frame(tmp_path / "000000", 0).depth, near, atol=0.51e-4, rtol=0)
    torch.testing.assert_close(scenes.read_frame(tmp_path / "000000", 1).depth, far, atol=0.51e-3, rtol=0)


# --------------------------------------------------------------------------------------------------- cameras and targets


def test_data_set_camera(tmp_path):
    writing.write_camera(tmp_path / "camera.json", Camera(K, (H, W)))
    back = scenes.read_camera(tmp_path / "camera.json")
    assert torch.equal(back.K, K)
    assert back.size == (H, W)
    (tmp_path / "camera.json").write_text('{"fx": 1}')
    with pytest.raises(ValueError, match=r"camera\.json: key 'fy' is missing \(has: fx\)"):
        scenes.read_camera(tmp_path / "camera.json")


def test_a_scene_that_does_not_say_its_depth_scale_is_in_millimetres(tmp_path, generator):
    frame, _ = make_frame(generator, 1)
    writing.append_frames(tmp_path / "000001", [frame])
    path = tmp_path / "000001" / "scene_camera.json"
    entries = json.loads(path.read_text())
    scale = entries["0"].pop("depth_scale")
    said = scenes.read_depth(scenes.open_scene(tmp_path / "000001"), 0)
    path.write_text(json.dumps(entries))
    unsaid = scenes.read_depth(scenes.open_scene(tmp_path / "000001"), 0)
    assert said.max() > 0
    np.testing.assert_allclose(unsaid * scale, said, rtol=1e-6)
    for wrong in (1e-4 * scale, 1e4 * scale):  # of metres, or its reciprocal
        entries["0"]["depth_scale"] = wrong
        path.write_text(json.dumps(entries))
        with pytest.raises(ValueError, match=r"000000\.png shows things .* m away .* 'depth_scale' .* must be millimetres"):
            scenes.read_depth(scenes.open_scene(tmp_path / "000001"), 0)


def test_targets_in_both_forms(tmp_path, generator):
    scene = tmp_path / "test/000002"
    frame, full = make_frame(generator, 3)
    labels = torch.tensor([5, 5, 1])
    share = torch.tensor([0.5, 0.05, 0.1])  # a tenth is enough
    rows = Instances(labels, frame.instances.cam_from_obj, frame.instances.boxes, visibility=share, masks=frame.instances.masks)
    writing.append_frames(scene, [Frame(frame.image, frame.camera, instances=rows)] * 2, [full] * 2)
    made = scenes.targets_of([scenes.open_scene(scene)])
    assert list(zip(*(c.tolist() for c in made))) == [(2, 0, 1, 1), (2, 0, 5, 1), (2, 1, 1, 1), (2, 1, 5, 1)]
    writing.write_targets(tmp_path / "test_targets_bop19.json", made)
    back = scenes.read_targets(tmp_path / "test_targets_bop19.json")
    for a, b in zip(made, back):
        np.testing.assert_array_equal(a, b)
    writing.write_targets(tmp_path / "test_targets_bop24.json", made._replace(obj_id=None, inst_count=None))
    images = scenes.read_targets(tmp_path / "test_targets_bop24.json")
    assert images.obj_id is None
    assert images.im_id.tolist() == [0, 1]
    (tmp_path / "t.json").write_text('[{"scene_id": 1, "im_id": 2, "obj_id": 3}]')
    with pytest.raises(ValueError, match=r"t\.json, entry 0: key 'inst_count' is missing"):
        scenes.read_targets(tmp_path / "t.json")
    row = '{"scene_id": 1, "im_id": 2, "obj_id": 3, "inst_count": 1}'
    (tmp_path / "t.json").write_text(f"[{row}, {row.replace('3', '4')}, {row}]")
    with pytest.raises(ValueError, match=r"t\.json, entry 2: this object of this image is there before"):
        scenes.read_targets(tmp_path / "t.json")


# --------------------------------------------------------------------------------------------------------------- results

finite = st.floats(-50, 50, allow_nan=False)


@given(t=hnp.arrays(np.float64, (3, 3), elements=finite), score=hnp.arrays(np.float64, 3, elements=st.floats(0, 1)))
def test_results_are_read_as_they_were_written(tmp_path_factory, t, score):
    folder = tmp_path_factory.mktemp("results")
    t = t + np.sign(t) * 0.03 + [0, 0, 0.1]
    R = random_rotations(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    ids = np.arange(3)
    rows = results.Results(ids, ids + 1, ids + 2, score, R, t, np.array([0.25, -1, 1e-7]))
    back = results.read_results(results.write_results(folder / "me_lmo-test.csv", rows))
    for name, a, b in zip(rows._fields, rows, back):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_results_file_is_what_bop_wants(tmp_path):
    estimates = PoseEstimates(
        torch.tensor([5, 6]), torch.eye(4).repeat(2, 1, 1), torch.tensor([0.75, 0.25]), seconds={"detector": 0.5, "pnp": 0.25}
    )
    estimates.cam_from_obj[:, 2, 3] = 1.5
    path = results.write_results(tmp_path / "me_lmo-test.csv", [results.results_of(estimates, 2, 7, min_score=0.5)])
    assert path.read_bytes().decode() == (
        "scene_id,im_id,obj_id,score,R,t,time\n2,7,5,0.75,1.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0 1.0,0 0 1500,0.75\n"
    )  # millimetres
    assert results.results_of(estimates, 2, 7, seconds=3.0).time.tolist() == [3.0, 3.0]


def test_result_names():
    assert results.results_name("monopose", "lmo") == "monopose_lmo-test.csv"
    assert (
        results.results_name("monopose", "tless", "test", "primesense", "run-2") == "monopose_tless-test-primesense_run-2.csv"
    )
    name = results.parse_results_name("a/b/gt-pbrreal-rgb-mmodel_lmo-test_lmo.csv")
    assert tuple(name) == ("gt-pbrreal-rgb-mmodel", "lmo", "test", "", "lmo")
    assert results.parse_results_name(name.file) == name
    with pytest.raises(ValueError, match=r"METHOD of a BOP result file must not contain '_', got 'my_method'; try 'my-method'"):
        results.results_name("my_method", "lmo")
    with pytest.raises(ValueError, match=r"METHOD of a BOP result file must not contain '\.', got 'v1\.2'; try 'v1-2'"):
        results.results_name("v1.2", "lmo")
    with pytest.raises(ValueError, match="DATASET of a BOP result file must not be empty"):
        results.results_name("monopose", "")
    for bad in ("poses.csv", "my_method_lmo-test_1.csv", "v1.2_lmo-test.csv", "me_lmo.csv", "me_lmo-test.txt"):
        with pytest.raises(ValueError, match=r"a BOP result file is named METHOD_DATASET-SPLIT"):
            results.parse_results_name(bad)
    with pytest.raises(ValueError, match=r"METHOD must contain neither '_' nor '\.'"):
        results.parse_results_name("my_method_lmo-test_1.csv")


GOOD = "2,3,1,0.5,1 0 0 0 1 0 0 0 1,0 0 900,-1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2,3,1,0.5,1 0 0 0 1 0 0 0 1,0 0 900", r"line 3: expected 7 columns .*got 6"),
        ("2,3,1,0.5,1 0 0 0 1 0 0 0,0 0 900,-1", r"line 3: 'R' must have 9 numbers separated by blanks, got 8"),
        ("2,3,1,0.5,1 0 0 0 1 0 0 0 1,0 900,-1", r"line 3: 't' must have 3 numbers separated by blanks, got 2"),
        ("2,3,1,high,1 0 0 0 1 0 0 0 1,0 0 900,-1", r"line 3: 'score' must be finite numbers, got 'high'"),
        ("2,3,1.5,1,1 0 0 0 1 0 0 0 1,0 0 900,-1", r"line 3: 'obj_id' must be a whole number from 0, got '1\.5'"),
        (f"2,3,{2**63},1,1 0 0 0 1 0 0 0 1,0 0 900,-1", r"line 3: 'obj_id' must be a whole number from 0"),
        ("2,-3,1,1,1 0 0 0 1 0 0 0 1,0 0 900,-1", r"line 3: 'im_id' must be a whole number from 0, got '-3'"),
        ("2,3,1,0.5,1 0 0 0 1 0 0 0 1,0 0 nan,-1", r"line 3: 't' must be finite numbers"),
        ("2,3,1,0.5,1 0 0 0 1 0 0 0 -1,0 0 900,-1", r"line 3: 'R' must be a rotation matrix row by row"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path = tmp_path / "me_lmo-test.csv"
    path.write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{GOOD}\n{row}\n")
    with pytest.raises(ValueError, match=message):
        results.read_results(path)


def test_results_that_are_a_picture_are_named(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 not text")
    with pytest.raises(
        ValueError, match=r"photo\.jpg is not a text file in UTF-8; expected a BOP result file, METHOD_DATASET-SPLIT"
    ):
        results.read_results(path)


def test_results_messages(tmp_path):
    path = tmp_path / "me_lmo-test.csv"
    with pytest.raises(FileNotFoundError, match="no result file"):
        results.read_results(path)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="the first line must be 'scene_id,im_id,obj_id,score,R,t,time', got 'a,b'"):
        results.read_results(path)
    path.write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{GOOD.replace('900', '0.9')}\n")
    with pytest.raises(ValueError, match=r"'t' must be millimetres.*were metres written\?"):
        results.read_results(path)
    path.write_text("\ufeffscene_id,im_id,obj_id,score,R,t,time\n")
    assert len(results.read_results(path).score) == 0
    path.write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{GOOD.replace('900', '9e2')}\n\n")
    assert results.read_results(path).t.tolist() == [[0, 0, 0.9]]
    one = np.ones(1, np.int64)
    rows = results.Results(one, one, one, np.ones(1), np.eye(3)[None], np.array([[0, 0, 900.0]]), np.ones(1))
    with pytest.raises(ValueError, match="translations must be metres here"):
        results.write_results(path, rows)
    with pytest.raises(ValueError, match="'score' of row 0 is NaN or infinite"):
        results.write_results(path, rows._replace(score=np.array([np.nan])))
    assert results.read_results(path).t.tolist() == [[0, 0, 0.9]]  # the old file stays


# ------------------------------------------------------------------------------------------------------------ detections


@given(mask=hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_in_both_spellings(mask):
    from pycocotools import mask as coco_mask

    rle = results.rle_from_mask(mask)
    assert sum(rle["counts"]) == mask.size
    np.testing.assert_array_equal(results.mask_from_rle(rle), mask)
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_mask.frPyObjects(rle, *mask.shape)["counts"] == packed["counts"]
    for counts in (packed["counts"], packed["counts"].decode()):
        np.testing.assert_array_equal(results.mask_from_rle({"counts": counts, "size": list(mask.shape)}), mask)


def test_detections_are_read_as_they_were_written(tmp_path, generator):
    frame, full = make_frame(generator, 2)
    made = Detections(torch.tensor([2, 1]), frame.instances.boxes, torch.tensor([0.5, 0.75]), full)
    path = tmp_path / "boxes.json"
    rows = []
    for label, (x0, y0, x1, y1), score, mask in zip(made.labels, made.boxes.tolist(), made.scores, made.masks, strict=True):
        row = {"scene_id": 4, "image_id": 9, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        rows.append(row | {"score": float(score), "segmentation": results.rle_from_mask(mask.numpy())})
    path.write_text(json.dumps(rows))
    back = results.detections_of(results.read_detections(path)[4, 9], masks=True)
    assert torch.equal(back.labels, torch.tensor([1, 2]))  # best first
    assert torch.equal(back.boxes, made.boxes.flip(0))
    assert torch.equal(back.masks, full.flip(0))
    assert results.detections_of(results.read_detections(path)[4, 9]).masks is None


def test_detections_without_area_are_left_out_with_a_warning(tmp_path):
    path = tmp_path / "boxes.json"
    row = {"scene_id": 1, "image_id": 2, "category_id": 3, "score": 1, "bbox": [1, 2, 3, 4]}
    path.write_text(json.dumps([{**row, "bbox": [1, 2, -3, 4]}, row, {**row, "bbox": [1, 2, 3, 0]}]))
    with pytest.warns(UserWarning, match=r"2 of 3 detections have no area and are left out \(first: .*boxes\.json, entry 0: "):
        assert results.read_detections(path) == {(1, 2): [row]}
    masks = [{"counts": [0, n * n], "size": [n, n]} for n in (2, 3)]
    with pytest.raises(ValueError, match=r"scene 1, image 2, segmentation: .* have the sizes \(2, 2\), \(3, 3\)"):
        results.detections_of([{**row, "segmentation": mask} for mask in masks], masks=True)


def test_detection_messages(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"boxes\.json must be a list of detections, got dict"):
        results.read_detections(path)
    path.write_text('[{"scene_id": 1, "image_id": 2, "category_id": 3, "score": 1}]')
    with pytest.raises(ValueError, match=r"boxes\.json, entry 0: key 'bbox' is missing \(has: scene_id, image_id"):
        results.read_detections(path)
    path.write_text('[{"scene_id": 1, "image_id": 2, "category_id": 3, "score": 1, "bbox": [1, 2, 3]}]')
    with pytest.raises(ValueError, match="'bbox' must have 4 numbers, got 3"):
        results.read_detections(path)
    with pytest.raises(ValueError, match=r"'counts' must sum to height x width = 12, got 11; is 'size' \[h, w\]\?"):
        results.mask_from_rle({"counts": [5, 6], "size": [3, 4]})


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        (0, (48, 64), None), (0, (480, 640), "must sum to height x width = 307200, got 3072"), (0, (8, 8), "must sum to"),
        (-3, (48, 64), "must sum to"), (-1, (48, 64), "cut short"), ("", (48, 64), "got 0"),
        ("hello world", (48, 64), "not COCO"),
        ("é~", (48, 64), "not COCO"), ("\0\0", (48, 64), "not COCO"), ("oooooooo0", (48, 64), "more than 2"),
    ],
)  # fmt: skip
def test_packed_run_lengths_fill_the_picture_or_are_refused(counts, size, message):
    """pycocotools fills what is missing with whatever was in memory."""
    from pycocotools import mask as coco_mask

    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    if isinstance(counts, int):
        packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        counts = packed[:counts] if counts else packed
    if message is None:
        np.testing.assert_array_equal(results.mask_from_rle({"counts": counts, "size": list(size)}), mask)
    else:
        with pytest.raises(ValueError, match=message):
            results.mask_from_rle({"counts": counts, "size": list(size)})


def test_numbers_of_detections_may_be_nested_and_are_still_numbers(tmp_path):
    row = {"scene_id": 1, "image_id": 2, "category_id": 3, "score": [0.5], "bbox": [[1.0, 2, 3, 4]]}
    (tmp_path / "d.json").write_text(json.dumps([row]))
    detections = results.detections_of(results.read_detections(tmp_path / "d.json")[1, 2])
    assert detections.boxes.tolist() == [[1, 2, 4, 6]]
    assert detections.scores.tolist() == [0.5]


def test_names_with_digits_that_are_no_numbers_are_passed_over(tmp_path, generator):
    frame, full = make_frame(generator)
    writing.append_frames(tmp_path / "test/000001", [frame], [full])
    (tmp_path / "test/²").mkdir()
    (tmp_path / "test/000001/rgb/²³.png").write_bytes(b"")
    assert [image.im_id for image in scenes.images(tmp_path / "test")] == [0]
