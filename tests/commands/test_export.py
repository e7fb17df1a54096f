"""Exported files say what torch says, and the program without torch finds what monopose finds."""

import importlib.util
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from tests import shapes

from monopose import pnp, weights
from monopose.cli import main
from monopose.commands import export
from monopose.datasets.bop import writing as bop_writing
from monopose.detection import detector, networks
from monopose.exported import OnnxNet
from monopose.geometry import boxes as box_ops
from monopose.geometry import rotation, se3
from monopose.objects import coordinates, pipeline, silhouettes
from monopose.types import Camera, Detections, Frame
from tiny_networks import TinyBackbone

SIZE, RADIUS = (240, 320), 0.05
K = torch.tensor([[300.0, 0, 161.0], [0, 305.0, 118.0], [0, 0, 1]])
POSE = se3.from_rt(rotation.so3_exp(torch.tensor([0.4, -0.8, 0.3])), torch.tensor([0.03, -0.01, 0.45]))


class Painted(nn.Module):
    """In the place of a network that has learned a ball: the red and green of a pixel say where in the picture it is, and so
    which point of the ball it sees; blue says that it does."""

    def forward(self, images, index):
        seen = F.avg_pool2d(images, 2)
        u, v = seen[:, 0] * SIZE[1], seen[:, 1] * SIZE[0]
        ray = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], 1)
        R, centre = POSE[:3, :3], POSE[:3, 3]
        along, length = (ray * centre[:, None, None]).sum(1), (ray * ray).sum(1)
        depth = (along - (along**2 - length * (centre @ centre - RADIUS**2)).clamp_min(0).sqrt()) / length
        point = torch.einsum("ji,bjhw->bihw", R, ray * depth[:, None] - centre[:, None, None]) / RADIUS
        mask = 20 * (seen[:, 2] - 0.75)
        return torch.cat([torch.full_like(mask, -3.0)[:, None], mask[:, None], point], 1)


def picture():
    v, u = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    ray = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)])
    along, length = (ray * POSE[:3, 3, None, None]).sum(0), (ray * ray).sum(0)
    ball = along**2 > length * (POSE[:3, 3] @ POSE[:3, 3] - RADIUS**2)
    return torch.stack([u / SIZE[1], v / SIZE[0], ball.float()])


BOX = torch.tensor([[143.0, 72.0, 219.0, 151.0]])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the painted network and a detector that knows nothing, and what was exported of it."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "backbone", lambda *_: TinyBackbone((4, 8, 8, 8, 8), nn.BatchNorm2d))
        patch.setattr(weights, "base", lambda method: None)  # whose networks are large
        patch.setattr(silhouettes, "backbone", lambda *_: TinyBackbone((4, 8, 8, 8, 8), nn.BatchNorm2d))
        patch.setattr(coordinates, "UNet", lambda *_: Painted())
        torch.manual_seed(0)
        config = coordinates.Config((7,), input_size=64, output_size=32, bins=0, amodal_weight=0.0, pretrained=False)
        model = coordinates.Model(config)
        model.scale.fill_(RADIUS)
        model.corners[0] = RADIUS * torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        weights.save(folder / "coordinates.safetensors", model.state_dict(), method="coordinates", config=config, labels=(7,))
        finder = detector.Model(detector.small((7,), image_height=64, image_width=96, channels=8, pretrained=False))
        nn.init.normal_(finder.net.heat.weight, std=2)  # sees something everywhere
        nn.init.zeros_(finder.net.heat.bias)
        state = finder.state_dict()
        weights.save(folder / "detector.safetensors", state, method="detector", config=finder.config, labels=(7,))
        bop_writing.write_models(folder / "objects", {7: shapes.box((0.1, 0.08, 0.06), obj_id=7)})
        outline = silhouettes.Model(silhouettes.Config((7,), input_size=64, widths=(8, 8, 8, 8), drawn=(8, 8, 8)))
        for layer in outline.into:
            nn.init.normal_(layer.weight)  # as trained ones do, it says something else where something else is drawn
        state = outline.state_dict()
        weights.save(folder / "silhouettes.safetensors", state, method="silhouettes", config=outline.config, labels=(7,))
        report = export.export(folder)
        yield SimpleNamespace(torch=pipeline.load(folder, "cpu", runtime="torch"), folder=folder, report=report)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("exported_program", export.CONSUMER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def array(image):
    return image.permute(1, 2, 0).numpy()


def test_the_folder_says_what_is_in_it(run):
    out = run.folder / "onnx"
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        "coordinates.onnx", "detector.onnx", "model.json", "predict.py", "silhouettes.onnx"
    ]  # fmt: skip
    index = json.loads((out / "model.json").read_text())
    assert index["parts"]["coordinates"]["inputs"]["images"]["shape"] == ["batch", 3, 64, 64]
    assert list(index["parts"]["detector"]["outputs"]) == ["heat", "distances", "semantic", "votes"]
    assert index["objects"][0]["id"] == 7
    assert index["objects"][0]["scale_m"] == pytest.approx([RADIUS] * 3)
    assert index["weights"] == weights.digests(run.folder)
    assert max(part["largest_difference"] for part in run.report.parts.values()) < 1e-4
    source = (out / "predict.py").read_text()
    assert not any(f"import {name}" in source for name in ("torch", "monopose"))


@pytest.mark.parametrize("looks", [1, 6])
def test_the_program_finds_the_same_boxes(looks, run, program):
    torch.manual_seed(1)
    image = F.interpolate(torch.rand(1, 3, 12, 16), SIZE, mode="bicubic")[0].clamp(0, 1)
    (found,) = detector.predict(run.torch.detector, image, looks=looks)
    numbers, boxes, scores = program.detect(program.Run(run.folder / "onnx"), array(image), looks)
    assert len(found) > 5
    assert numbers.tolist() == found.labels.tolist()
    assert scores == pytest.approx(found.scores.numpy(), abs=1e-4)
    assert boxes == pytest.approx(found.boxes.numpy(), abs=0.05)


def test_the_program_cuts_and_asks_as_monopose(run, program):
    """Crops that shrink by up to thirty, leave the picture, or lie beside it; pixels that are greyed."""
    torch.manual_seed(2)
    image = F.interpolate(torch.rand(1, 3, 200, 150), (600, 450), mode="bilinear")[0]
    corners = torch.tensor([[100.0, 90, 140], [-30, 60, 105], [200, 100, 700], [-700, -700, 1900], [900, 900, 100]])
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    keep = [None, torch.arange(64).expand(64, 64) > 20, None, None, None]
    wanted = coordinates.correspond(run.torch.estimator, image, torch.full((5,), 7), boxes, keep)
    masks = [None if k is None else k.numpy() for k in keep]
    said = program.look(program.Run(run.folder / "onnx"), array(image), [7] * 5, boxes.double().numpy(), masks)
    for a, (metres, error, visible), box in zip(wanted, said, boxes, strict=True):
        assert program.cut(array(image), box.double().numpy(), 64) == pytest.approx(array(a.crop), abs=1e-4) or a is wanted[1]
        assert visible == pytest.approx(a.mask.numpy(), abs=1e-3)
        assert error == pytest.approx(a.error.numpy(), abs=1e-4)
        assert program.grid(box.double().numpy(), 32) == pytest.approx(a.pixels.numpy(), abs=1e-2)
        assert np.isfinite(metres).all()


def test_the_program_finds_the_same_pose(run, program):
    image = picture()
    frame = Frame(image, Camera(K, SIZE))
    wanted = coordinates.predict(run.torch.estimator, frame, Detections(torch.tensor([7]), BOX, torch.ones(1)))
    (found,) = program.estimate(
        program.Run(run.folder / "onnx"), array(image), K.double().numpy(), [7], BOX.double().numpy(), [1]
    )
    for pose in (wanted.cam_from_obj[0].numpy(), found["pose"]):
        assert pose[:3, 3] == pytest.approx(POSE[:3, 3].numpy(), abs=5e-4)
        assert math.degrees(float(rotation.angle_between(torch.tensor(pose[:3, :3]).float(), POSE[:3, :3]))) < 0.5
    assert found["score"] == pytest.approx(float(wanted.scores[0]), abs=0.02)


def test_pnp_on_clean_correspondences(program):
    torch.manual_seed(3)
    points = 0.1 * (torch.rand(200, 3) - 0.5)
    seen = se3.transform(POSE, points) @ K.T
    pixels = seen[:, :2] / seen[:, 2:]
    pixels[:60] += 40 * torch.rand(60, 2) + 10
    ours = pnp.ransac(points, pixels, K, threshold_px=2.0)
    pose, fits = program.solve(points.numpy(), pixels.numpy(), K.double().numpy(), 2.0)
    assert fits.tolist() == [False] * 60 + [True] * 140
    assert pose == pytest.approx(ours.cam_from_obj.numpy(), abs=1e-4)


def test_runtime_onnx_says_the_same_and_asks_for_its_files(run, tmp_path, capsys):
    image = picture()
    labels, squares = torch.tensor([7]), box_ops.square(BOX, 1.5)
    fast = pipeline.load(run.folder, "cpu", runtime="onnx")
    (a,), (b,) = (coordinates.correspond(r.estimator, image, labels, squares) for r in (run.torch, fast))
    torch.testing.assert_close(a.mask, b.mask, atol=1e-4, rtol=0)
    torch.testing.assert_close(a.coordinates, b.coordinates, atol=1e-5, rtol=0)
    (a,), (b,) = (detector.predict(r.detector, image) for r in (run.torch, fast))
    torch.testing.assert_close(a.boxes, b.boxes, atol=1e-2, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
    model = fast.models[7]
    a, b = (silhouettes.look(r.silhouettes, image, K, POSE[None], [model]).output for r in (run.torch, fast))
    for wanted, got in zip(a, b, strict=True):
        torch.testing.assert_close(wanted, got, atol=1e-4, rtol=1e-4)
    assert main(["predict", "photo.jpg", "--model", "demo", "--runtime", "onnx", "--fov", "50"]) == 1
    assert "monopose export demo" in capsys.readouterr().err


def test_what_was_exported_computes_unless_it_is_of_other_weights(run, tmp_path):
    def computing(folder, **options):
        model = pipeline.load(folder, "cpu", **options)
        nets = (model.detector.net, model.estimator.exported, model.silhouettes.exported)
        return [isinstance(net, OnnxNet) for net in nets]

    assert computing(run.folder) == [True] * 3
    assert computing(run.folder, runtime="torch") == [False] * 3
    other = shutil.copytree(run.folder, tmp_path / "other")
    index = json.loads((other / "onnx" / "model.json").read_text())
    index["weights"]["silhouettes"] = "0"
    (other / "onnx" / "model.json").write_text(json.dumps(index))
    with pytest.warns(UserWarning, match=f"exported from other weights, so torch computes.* monopose export {other}"):
        assert computing(other) == [False] * 3
    with pytest.raises(ValueError, match=r"other weights \(silhouettes\)"):
        computing(other, runtime="onnx")


def test_category_runs_are_refused_in_a_line(tmp_path, capsys):
    (tmp_path / "category.safetensors").write_bytes(b"")
    assert main(["export", str(tmp_path)]) == 1
    assert "a category run" in capsys.readouterr().err
