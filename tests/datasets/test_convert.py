"""LINEMOD in CDPN's layout becomes a BOP folder; targets of a split."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli
from monopose.datasets.bop import convert, results, scenes, writing
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


BLENDER = {  # bop_from_blender
    "ape": np.hstack([rotation.so3_exp(torch.tensor([0.0, 0.0, 1.2], dtype=torch.float64)).numpy(), [[0.01], [0.02], [-0.03]]]),
    "camera": np.hstack([rotation.so3_exp(torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)).numpy(), [[0.0], [0.0], [0.05]]]),
}  # fmt: skip


def in_blender(name):
    """POSE as it is of Blender's model: X_bop = B X_blender."""
    B = np.vstack([BLENDER[name], [0, 0, 0, 1]])
    return (np.vstack([POSE, [0, 0, 0, 1]]) @ B)[:3]


def expdata(folder):
    """RNNPose's EXPDATA: a photo to learn from and one to test of an ape, renderings, something pasted together, poses."""
    root = folder / "EXPDATA"
    refine, syn = root / "LM6d_converted/LM6d_refine", root / "LM6d_converted/LM6d_refine_syn"
    photo = np.full((480, 640, 3), 90, np.uint8)
    for place, own, number in ((refine, "01", 5), (refine, "01", 7), (syn, "ape", 3)):
        for inner in (f"data/observed/{own}", "data/gt_observed/ape", "image_set/observed"):
            (place / inner).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(place / f"data/observed/{own}/{number:06d}-color.png")
        lines = "\n".join(" ".join(map(repr, row.tolist())) for row in POSE)
        (place / f"data/gt_observed/ape/{number:06d}-pose.txt").write_text(f"000001\n{lines}\n")
    (refine / "image_set/observed/ape_train.txt").write_text("01/000005\n")
    (refine / "image_set/observed/ape_test.txt").write_text("01/000007\n")
    (syn / "image_set/observed/LM6d_data_syn_train_observed_ape.txt").write_text("ape/000003\n")
    fuse = root / "LINEMOD/fuse_formatted/cam"
    fuse.mkdir(parents=True)
    Image.fromarray(photo).save(fuse / "00012.jpg")
    mask = np.zeros((480, 640), np.uint8)
    mask[100:150, 200:260] = 255
    Image.fromarray(mask).save(fuse / "00012_mask_visb.png")
    K = np.array([[572.4114, 0, 300.0], [0, 573.57043, 250.0], [0, 0, 1]])
    params = {"RT": in_blender("camera"), "K": K, "bbox": [np.int64(1), 2, 3, 4]}
    (fuse / "00012_params.pkl").write_bytes(pickle.dumps(params))
    (root / "init_poses/pose_conversion").mkdir(parents=True)
    np.save(root / "init_poses/pose_conversion/blender2bop_RT.npy", BLENDER, allow_pickle=True)
    writing.write_models(folder / "models", {1: box(obj_id=1), 4: box(obj_id=4)})
    return root


def test_deepim_and_pvnet_become_bop(tmp_path, capsys):
    root, out = expdata(tmp_path), tmp_path / "bop"
    assert cli.main(["convert", "deepim", str(root), "--models", str(tmp_path / "models"), "--out", str(out), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert {k: counts[k] for k in ("train", "test", "train_syn", "train_fuse")} == dict.fromkeys(
        ("train", "test", "train_syn", "train_fuse"), 1
    )
    for split, obj_id, number in (("train", 1, 5), ("test", 1, 7), ("train_syn", 1, 3), ("train_fuse", 4, 12)):
        frame = scenes.read_frame(out / split / f"{obj_id:06d}", number)
        np.testing.assert_allclose(frame.instances.cam_from_obj[0, :3].numpy(), POSE, atol=1e-6, err_msg=split)
    assert frame.camera.K[:2, 2].tolist() == [300, 250]
    assert int(frame.instances.masks.sum()) == 50 * 60

    (root / "LM6d_converted/LM6d_refine/data/observed/01/000007-color.png").unlink()
    with pytest.raises(FileNotFoundError, match="000007-color"):
        convert.convert_deepim(root, tmp_path / "other", tmp_path / "models")
    assert not (tmp_path / "other").exists()
    with pytest.raises(FileNotFoundError, match="neither LM6d_converted/LM6d_refine"):
        convert.convert_deepim(tmp_path / "models", tmp_path / "other", tmp_path / "models")


def test_initial_poses_become_a_result_file(tmp_path, capsys):
    root = expdata(tmp_path)
    refine, frames = root / "LM6d_converted/LM6d_refine", root / "init_poses/pose_conversion/blender2bop_RT.npy"
    np.save(tmp_path / "pvnet_linemodocc_test.npy", {"ape": [in_blender("ape"), in_blender("ape")]}, allow_pickle=True)
    info = {"ape": [{"index": i, "rgb_observed_path": p, "gt_pose": POSE} for i, p in
                    enumerate(("test/000002/rgb/000003.png", "RGB-D/rgb_noseg/color_00008.png"))]}  # fmt: skip
    (tmp_path / "linemod_bop_lmocc_pvnetdr.info.eval").write_bytes(pickle.dumps(info))
    words = ["convert", "poses", str(tmp_path / "pvnet_linemodocc_test.npy"), "--frames", str(frames)]
    words += [
        "--pictures",
        str(tmp_path / "linemod_bop_lmocc_pvnetdr.info.eval"),
        "--out",
        str(tmp_path / "pvnet_lmo-test.csv"),
    ]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["poses"] == 2
    rows = results.read_results(tmp_path / "pvnet_lmo-test.csv")
    assert list(zip(rows.scene_id, rows.im_id, rows.obj_id, strict=True)) == [(2, 3, 1), (2, 8, 1)]
    np.testing.assert_allclose(rows.R[1], POSE[:, :3], atol=1e-9)
    np.testing.assert_allclose(rows.t[1], POSE[:, 3], atol=1e-9)

    quat = rotation.quat_wxyz_from_matrix(torch.from_numpy(POSE[:, :3])).numpy()
    given = {"ape": [{"pose": np.concatenate([quat, POSE[:, 3]])}, {"pose": np.zeros(7)}]}
    (tmp_path / "linemod_posecnn_results.pkl").write_bytes(pickle.dumps(given))
    done = convert.convert_poses(tmp_path / "linemod_posecnn_results.pkl", refine, tmp_path / "posecnn_lm-test.csv")
    assert done == {"poses": 1, "more": 1}  # LM6d_refine lists one photo
    rows = results.read_results(tmp_path / "posecnn_lm-test.csv")
    assert (int(rows.scene_id[0]), int(rows.im_id[0])) == (1, 7)
    np.testing.assert_allclose(rows.R[0], POSE[:, :3], atol=1e-9)

    given = {"ape": [POSE] * 400}
    (tmp_path / "poses.pkl").write_bytes(pickle.dumps(given))
    info = {"ape": [{"rgb_observed_path": f"test/000002/rgb/{i:06d}.png"} for i in range(400)]}
    (tmp_path / "info.eval").write_bytes(pickle.dumps(info))
    convert.convert_poses(tmp_path / "poses.pkl", tmp_path / "info.eval", tmp_path / "worse_lmo-test.csv", noise=(10.0, 0.01))
    worse = results.read_results(tmp_path / "worse_lmo-test.csv")
    turned = rotation.so3_log(torch.from_numpy(worse.R @ POSE[:, :3].T)).numpy()
    np.testing.assert_allclose(np.degrees(turned.std(0)), 10, rtol=0.1)
    np.testing.assert_allclose((worse.t - POSE[:, 3]).std(0), [0.01, 0.01, 0.05], rtol=0.1)

    assert cli.main(["convert", "poses", "a.npy", "--out", "a_lm-test.csv"]) == 2
    assert "needs --pictures" in capsys.readouterr().err
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    with pytest.raises(ValueError, match="of plain numbers"):
        convert.convert_poses(tmp_path / "numbers.npy", refine, tmp_path / "x_lm-test.csv")
    (tmp_path / "strange.pkl").write_bytes(pickle.dumps({"dog": [POSE]}))
    with pytest.raises(ValueError, match="no object of LINEMOD is called 'dog'"):
        convert.convert_poses(tmp_path / "strange.pkl", refine, tmp_path / "x_lm-test.csv")
    assert not (tmp_path / "x_lm-test.csv").exists()
