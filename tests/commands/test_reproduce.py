"""Tables of the papers: every command of each parses, what is done is not done again, ours stand beside the published."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import test_nocs
from monopose import cli
from monopose.commands import reproduce
from monopose.datasets import nocs
from monopose.datasets.bop import results, writing
from shapes import box


def given(tmp_path, **more):
    for part in ("imgn", "v1.0-mini", "train_pbr", "normal"):
        (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/train_test_sp.pickle").touch()
    poses = tmp_path / "pvnet_lmo-test.csv"
    return reproduce.Given(tmp_path / "data", tmp_path / "out", models=tmp_path / "models", poses=poses, **more)


SCORES = {  # what the scoring commands of a table say, one after the other
    "linemod": [{"add_s": {"0.1": 0.9}}],
    "lmo": [{"add_s_linemod": {"0.1": 0.5}}, {"add_s_linemod": {"0.1": 0.4}}],
    "nuscenes": [{"nds": 0.25}],
    "pix3d": [{"overall": {"azimuth": {"accuracy": 0.1 * k}}} for k in range(8)],
    "real275": [{"scores": {"classes": {c: {"pose": {"10deg10cm": 0.06, "10deg": 0.12}}}}} for c in reproduce.CATEGORIES],
}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", reproduce.TABLES)
def test_every_command_parses_and_ours_stand_beside_the_published(tmp_path, name, quick):
    scores, parsed = iter(SCORES[name]), []

    def do(words):
        if len(parsed) < 8:  # then the next network's commands are the same
            parsed.append(cli.parse(words))
        if words[0] == "train":  # by what lies there the next command knows what it is about
            run = Path(words[words.index("--out") + 1])
            run.mkdir(parents=True, exist_ok=True)
            (run / f"{words[1]}.safetensors").touch()
        return next(scores) if words[0] == "evaluate" or "--nocs" in words else {"file": "x"}

    found = reproduce.run(name, given(tmp_path, quick=quick), do)
    assert next(scores, None) is None
    rows = found.data["rows"]
    assert set(rows) == set(reproduce.TABLES[name].published)
    assert all(np.isfinite(pair["ours"]) and pair["published"] > 0 for pair in rows.values())
    assert ("mean nothing" in found.text()) == quick
    assert json.loads((tmp_path / "out/table.json").read_text())["rows"] == rows
    # the same again asks for nothing
    assert reproduce.run(name, given(tmp_path, quick=quick), lambda words: pytest.fail(str(words))).data["rows"] == rows
    assert reproduce.plan(name).data["published"] == dict(reproduce.TABLES[name].published)


def test_the_originals_weights_stand_in_for_training(tmp_path):
    steps = reproduce.TABLES["linemod"].steps(given(tmp_path, weights=tmp_path / "epropnp.pth"))
    assert [words[0] for words in steps] == ["convert", "targets", "convert-weights", "predict", "evaluate"]


def test_what_fails_or_is_interrupted_goes_on_there(tmp_path):
    asked = []

    def fails(words):
        asked.append(words[0])
        if words[0] == "predict":
            raise ValueError("no picture")
        return {"stopped": words[0] == "train" and len(asked) < 4}

    with_all = given(tmp_path)
    assert reproduce.run("linemod", with_all, fails).data == {"stopped": True}
    with pytest.raises(ValueError, match="no picture"):
        reproduce.run("linemod", with_all, fails)
    assert asked == ["convert", "targets", "train", "train", "train", "predict"]


def test_what_a_network_of_two_steps_says_need_not_be_scored(tmp_path):
    def fails(words):
        if words[0] == "evaluate":
            raise ValueError("nearer than 0.3 mm")
        return {}

    assert reproduce.run("linemod", given(tmp_path, quick=True), fails).data["not_scored"] == "nearer than 0.3 mm"
    with_all = given(tmp_path)
    with pytest.raises(ValueError, match=r"nearer than 0\.3 mm"):
        reproduce.run("linemod", with_all, fails)
    with pytest.raises(ValueError, match="linemod needs --models"):
        reproduce.run("linemod", with_all._replace(models=None), fails)


def test_the_command_line_says_what_is_needed(capsys):
    assert cli.main(["reproduce", "real275"]) == 0
    said = capsys.readouterr().out
    assert "monopose download real275" in said
    assert "published: mean of 6 categories, 10° 10 cm 4.8" in said


# ------------------------------------------------------------------------------- the whole way, in the official layouts


def photo(path, size=(480, 640), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


@pytest.mark.slow
def test_linemod_from_end_to_end(tmp_path, capsys):
    pose = np.hstack([np.eye(3), [[0.02], [-0.01], [0.8]]])
    for split, name, label in (("real_train", "ape", 1), ("real_test", "ape", 1), ("imgn", "ape", 255)):
        stem = tmp_path / "lm" / split / name / "0003"
        photo(stem.with_name("0003-color.png"))
        mask = np.zeros((480, 640), np.uint8)
        mask[200:270, 310:370] = label
        Image.fromarray(mask).save(f"{stem}-label.png")
        np.savetxt(f"{stem}-pose.txt", pose)
        np.savetxt(f"{stem}-box_fasterrcnn.txt", [305.0, 195.0, 375.0, 275.0])
    writing.write_models(tmp_path / "models", {1: box(obj_id=1)})
    words = ["reproduce", "linemod", "--data", str(tmp_path / "lm"), "--models", str(tmp_path / "models"), "--quick", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["rows"]) == {"ADD(-S) 0.1 d (coord-init)"} or "epropnp_lm-test.csv" in said["not_scored"]
    assert (tmp_path / "out/epropnp_lm-test.csv").is_file()


@pytest.mark.slow
def test_lmo_from_end_to_end(tmp_path, capsys):
    lmo, pose = tmp_path / "lmo", np.hstack([np.eye(3), [[0.02], [-0.01], [0.8]]])
    writing.write_models(lmo / "models", {1: box(obj_id=1), 5: box((0.1, 0.1, 0.12), obj_id=5)})
    camera = {"fx": 572.4114, "fy": 573.57043, "cx": 325.2611, "cy": 242.04899, "width": 640, "height": 480, "depth_scale": 1.0}
    (lmo / "camera.json").write_text(json.dumps(camera))
    K = [572.4114, 0, 325.2611, 0, 573.57043, 242.04899, 0, 0, 1]
    truth = {"obj_id": 1, "cam_R_m2c": pose[:, :3].ravel().tolist(), "cam_t_m2c": (1000 * pose[:, 3]).tolist()}
    for split, scene in (("test", "000002"), ("train_pbr", "000000")):
        photo(lmo / split / scene / "rgb/000003.png")
        (lmo / split / scene / "scene_camera.json").write_text(json.dumps({"3": {"cam_K": K, "depth_scale": 1.0}}))
        (lmo / split / scene / "scene_gt.json").write_text(json.dumps({"3": [truth]}))
    targets = [{"im_id": 3, "inst_count": 1, "obj_id": 1, "scene_id": 2}]
    (lmo / "test_targets_bop19.json").write_text(json.dumps(targets))
    one = np.ones(1, np.int64)
    rows = results.Results(2 * one, 3 * one, one, np.ones(1), pose[None, :, :3], pose[None, :, 3] + 0.01, -np.ones(1))
    results.write_results(tmp_path / "pvnet_lmo-test.csv", rows)
    words = ["reproduce", "lmo", "--data", str(lmo), "--poses", str(tmp_path / "pvnet_lmo-test.csv"), "--quick", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"]) == {"refined", "PVNet's poses"}


@pytest.mark.slow
def test_nuscenes_from_end_to_end(tmp_path, capsys):
    rotation = {"front": [0.5, -0.5, 0.5, -0.5]}
    tables = {name: [] for name in ("category", "attribute", "sensor", "scene", "sample", "instance", "sample_annotation",
                                    "calibrated_sensor", "sample_data", "ego_pose")}  # fmt: skip
    tables["category"] = [{"token": "c", "name": "vehicle.car"}]
    tables["sensor"] = [{"token": "front", "channel": "CAM_FRONT"}]
    K = [[1000.0, 0, 800], [0, 1000.0, 450], [0, 0, 1]]
    mount = {"token": "m", "sensor_token": "front", "translation": [1.5, 0, 1.5], "rotation": rotation["front"]}
    tables["calibrated_sensor"] = [mount | {"camera_intrinsic": K}]
    for k, scene in enumerate(("scene-0061", "scene-0103")):
        tables["scene"].append({"token": f"s{k}", "name": scene})
        tables["sample"].append({"token": f"p{k}", "timestamp": 10**6 * k, "scene_token": f"s{k}"})
        tables["instance"].append({"token": f"i{k}", "category_token": "c"})
        tables["ego_pose"].append({"token": f"e{k}", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0]})
        photo(tmp_path / f"nuscenes/samples/CAM_FRONT/{k}.jpg", (900, 1600), k)
        tables["sample_data"].append({
            "token": f"d{k}", "sample_token": f"p{k}", "calibrated_sensor_token": "m", "ego_pose_token": f"e{k}",
            "is_key_frame": True, "filename": f"samples/CAM_FRONT/{k}.jpg", "width": 1600, "height": 900, "timestamp": k,
        })  # fmt: skip
        tables["sample_annotation"].append({
            "token": f"a{k}", "sample_token": f"p{k}", "instance_token": f"i{k}", "translation": [20, 0, 0.8],
            "size": [2.0, 4.5, 1.6], "rotation": [1, 0, 0, 0], "attribute_tokens": [], "visibility_token": "4",
            "num_lidar_pts": 5, "num_radar_pts": 0, "prev": "", "next": "",
        })  # fmt: skip
    (tmp_path / "nuscenes/v1.0-mini").mkdir()
    for name, rows in tables.items():
        (tmp_path / "nuscenes/v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    words = ["reproduce", "nuscenes", "--data", str(tmp_path / "nuscenes"), "--quick", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"]) == {"NDS"}


@pytest.mark.slow
def test_pix3d_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "INPUTS", ("normals",))
    head = (
        "resized_crop_source,model_source,truncated,occluded,slightly_occluded,image_path,cat_id,example_id,model_name,"
        "azimuth,elevation,inplane_rotation\n"
    )
    for n in range(20):
        for folder in ("crop", "normal", "boundries"):
            photo(tmp_path / "data" / folder / f"chair/{n:04d}.png", (224, 224), n)
        (tmp_path / "data/crop_mask/chair").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((224, 224), 255, np.uint8)).save(tmp_path / f"data/crop_mask/chair/{n:04d}.png")
        head += f"ikea,ikea,False,False,False,crop/chair/{n:04d}.png,chair,X,model,{18 * n},10,0.1\n"
    (tmp_path / "data/Pix3D.txt").write_text(head)
    words = ["reproduce", "pix3d", "--data", str(tmp_path / "data"), "--quick", "--json", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"]) == {"combined, normals", "separate, normals"}


@pytest.mark.slow
def test_real275_from_end_to_end(tmp_path, capsys, monkeypatch):
    """A photo in NOCS's layout of a mug, a bowl and a bottle; one of the categories."""
    monkeypatch.setattr(reproduce, "CATEGORIES", ("mug",))
    monkeypatch.setattr(test_nocs, "SIZE", (480, 640))  # REAL275's camera
    monkeypatch.setattr(test_nocs, "CAMERA", nocs.real_camera())
    models, poses, scene = test_nocs._scene()
    test_nocs._write(tmp_path / "real_test/scene_1", models, poses, scene)
    words = ["reproduce", "real275", "--data", str(tmp_path), "--quick", "--json", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
