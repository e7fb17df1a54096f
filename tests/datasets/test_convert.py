"""LINEMOD in CDPN's layout becomes a BOP folder; targets of a split."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli
from monopose.datasets.bop import convert, scenes, writing
from monopose.geometry import rotation
from shapes import box

POSE = np.hstack([rotation.so3_exp(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)).numpy(), [[0.05], [-0.02], [0.9]]])


def written(folder):
    """Two objects, real and rendered pictures, as the original's dataset/lm has them; BOP's models beside."""
    for split, name, number, label in (
        ("real_train", "ape", 5, 1),
        ("real_test", "ape", 0, 1),
        ("real_test", "can", 12, 5),
        ("imgn", "can", 3, 255),
    ):
        place = folder / "lm" / split / name
        place.mkdir(parents=True, exist_ok=True)
        stem = place / f"{number:04d}"
        mask = np.zeros((480, 640), np.uint8)
        mask[200:280, 300:400] = label
        mask[:20, :20] = 9 if split != "imgn" else 0  # another object
        Image.fromarray(np.full((480, 640, 3), 40 * number % 256, np.uint8)).save(f"{stem}-color.png")
        Image.fromarray(mask).save(f"{stem}-label.png")
        np.savetxt(f"{stem}-pose.txt", POSE)
        np.savetxt(f"{stem}-box.txt", [300, 200, 100, 80])
        if split == "real_test":
            np.savetxt(f"{stem}-box_fasterrcnn.txt", [295.5, 198.0, 404.0, 285.0])
    writing.write_models(folder / "models", {1: box(obj_id=1), 5: box(obj_id=5)})
    return folder / "lm"


def test_cdpn_becomes_bop(tmp_path, capsys):
    lm, out = written(tmp_path), tmp_path / "bop"
    assert cli.main(["convert", "cdpn", str(lm), "--models", str(tmp_path / "models"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == 2
    frame = scenes.read_frame(out / "test" / "000005", 12)
    assert frame.instances.labels.tolist() == [5]
    np.testing.assert_allclose(frame.instances.cam_from_obj[0, :3].numpy(), POSE, atol=1e-6)
    assert frame.camera.K[0].tolist() == pytest.approx([572.4114, 0.0, 325.2611])
    assert int(frame.instances.masks.sum()) == 80 * 100  # the other object's label is left out
    assert int(scenes.read_frame(out / "train_imgn" / "000005", 3).instances.masks.sum()) == 80 * 100
    boxes = json.loads((out / "fasterrcnn_test.json").read_text())
    assert [(b["scene_id"], b["image_id"], b["category_id"]) for b in boxes] == [(1, 0, 1), (5, 12, 5)]
    assert boxes[0]["bbox"] == [295.5, 198.0, 108.5, 87.0]

    targets = tmp_path / "targets.json"
    assert cli.main(["targets", str(out / "test"), "--out", str(targets)]) == 0
    assert [(t["scene_id"], t["im_id"], t["obj_id"], t["inst_count"]) for t in json.loads(targets.read_text())] == [
        (1, 0, 1, 1), (5, 12, 5, 1),
    ]  # fmt: skip


def test_what_is_wrong_is_said_and_nothing_is_left_behind(tmp_path):
    lm, models = written(tmp_path), tmp_path / "models"
    with pytest.raises(FileNotFoundError, match="has none of real_train, real_test, imgn"):
        convert.convert_cdpn(tmp_path, tmp_path / "out", models)
    with pytest.raises(FileNotFoundError, match="is no BOP models folder"):
        convert.convert_cdpn(lm, tmp_path / "out", lm)
    (lm / "real_train/ape/0005-pose.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"0005-pose.txt must hold 3 x 4 finite numbers"):
        convert.convert_cdpn(lm, tmp_path / "out", models)
    (lm / "real_train/ape/0005-pose.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 0005-pose.txt in"):
        convert.convert_cdpn(lm, tmp_path / "out", models)
    assert not (tmp_path / "out").exists()
