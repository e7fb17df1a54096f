"""The viewpoint commands on a small rendered data set, from pictures to scores."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli, weights
from monopose.datasets import pix3d
from monopose.io.files import write_json
from monopose.synthesis import pix3d_folder
from monopose.types import Camera, Detections, Frame, Symmetries
from monopose.viewpoint import commands, model, options, pipeline
from shapes import box, half_turn

NAMES = ("low", "high", "wide")


def _run(*argv):
    return cli.main([str(a) for a in argv])


def _save(folder, inputs="rgb", **noted):
    config = model.Config(
        ("thing",), net="combined", inputs=inputs, input_size=58, widths=(4, 4, 4, 4), hidden=8, pretrained=False,
        concentration=0.0, offsets=False,
    )  # fmt: skip
    torch.manual_seed(0)
    state, notes = model.Model(config).state_dict(), {"data": json.dumps(noted)}
    weights.save(folder / "viewpoint.safetensors", state, method="viewpoint", config=config, notes=notes)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three boxes, four pictures of each; the wide one looks the same from behind."""
    folder = tmp_path_factory.mktemp("data")
    sizes = ((0.6, 0.5, 0.3), (0.4, 0.4, 0.9), (1.2, 0.5, 0.4))
    models = [replace(box(s, obj_id=i), name=NAMES[i]) for i, s in enumerate(sizes)]
    models[2] = replace(models[2], symmetries=Symmetries(discrete=half_turn(2)[None]))
    pix3d_folder.write_pix3d(folder, {"thing": models}, images=4, size=(60, 80), workers=0)
    return folder


@pytest.fixture
def run(tmp_path):
    return _save(tmp_path / "run")


def _asked(image, box):
    """A picture and the box of its only object, as a run takes them."""
    frame = Frame(image, Camera(torch.tensor([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]]), tuple(image.shape[1:])))
    return frame, Detections(torch.ones(1).long(), box[None].float(), torch.ones(1))


def _truth(data, turn_deg=0.0, **changes):
    """The truth as predictions, azimuths turned."""
    rows = []
    for record in pix3d.read(data):
        angles = dict(zip(("azimuth_deg", "elevation_deg", "inplane_deg"), np.degrees(record.angles.numpy()).tolist()))
        angles["azimuth_deg"] = (angles["azimuth_deg"] + turn_deg) % 360
        rows.append({"image": record.image, "category": record.category, **angles})
    return {"bins": "centred", "images": rows} | changes


def test_truth_scores_one(data, tmp_path, capsys):
    write_json(tmp_path / "predictions.json", _truth(data))
    assert _run("evaluate", tmp_path / "predictions.json", "--data", data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    for name in model.ANGLES:
        assert report["overall"][name]["accuracy"] == 1
    assert report["overall"]["images"] == 12
    assert report["overall"]["median_deg"] < 1e-6
    assert report["about"]["symmetric_shapes"] == 1


def test_a_half_turn_is_right_for_the_symmetric_shape_alone(data, tmp_path, capsys):
    write_json(tmp_path / "predictions.json", _truth(data, 180.0))
    assert _run("evaluate", tmp_path / "predictions.json", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["overall"]["azimuth"]["accuracy"] == pytest.approx(1 / 3)


def test_the_table_and_the_pictures(data, tmp_path, capsys):
    write_json(tmp_path / "predictions.json", _truth(data, 30.0, inputs="normals", normals="oracle"))
    assert (
        _run("evaluate", tmp_path / "predictions.json", "--data", data, "--out", tmp_path / "out", "--bins", "published") == 0
    )
    text = capsys.readouterr().out
    assert "random answers" in text
    assert "ORACLE" in text
    assert "published bins" in text
    for name in ("confusion.png", "worst.png"):
        assert Image.open(tmp_path / "out" / name).width > 200


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["images"][0].update(image="img/thing/9999.jpg"), "1 of 12 pictures are not in"),
        (lambda c: c.update(images=[]), "holds no picture"),
        (lambda c: c["images"].append(c["images"][0]), "is there twice"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(data, tmp_path, capsys, change, message):
    content = _truth(data)
    change(content)
    write_json(tmp_path / "predictions.json", content)
    assert _run("evaluate", tmp_path / "predictions.json", "--data", data) == 1
    assert message in capsys.readouterr().err


def test_a_split_that_is_not_whole_is_refused(data, tmp_path, capsys):
    records = pix3d.read(data)
    _, validation = pix3d.split(records, "shape", 0, 0.1)
    wanted = {r.image for r in validation}
    content = _truth(data, by="shape", seed=0, share=0.1)
    content["images"] = [row for row in content["images"] if row["image"] in wanted]
    write_json(tmp_path / "whole.json", content)
    assert _run("evaluate", tmp_path / "whole.json", "--data", data) == 0
    content["images"] = content["images"][1:]
    write_json(tmp_path / "part.json", content)
    assert _run("evaluate", tmp_path / "part.json", "--data", data) == 1
    assert f"lacks 1 of its {len(wanted)} pictures" in capsys.readouterr().err


def test_bop_options_do_not_go_with_viewpoints(data, tmp_path, capsys):
    write_json(tmp_path / "predictions.json", _truth(data))
    assert _run("evaluate", tmp_path / "predictions.json", "--data", data, "--vsd") == 2
    assert "--vsd belongs to BOP" in capsys.readouterr().err
    assert _run("evaluate", tmp_path / "a_b-c.csv", "--data", data, "--out", tmp_path) == 2
    assert "belongs to viewpoints" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- predict


def test_predictions_of_the_validation_part(data, run, tmp_path, capsys):
    out = tmp_path / "predictions.json"
    assert _run("predict", "--pix3d", data, "--model", run, "--by", "shape", "--out", out) == 0
    content = json.loads(out.read_text())
    _, validation = pix3d.split(pix3d.read(data), "shape", 0, 0.1)
    assert [row["image"] for row in content["images"]] == [r.image for r in validation]
    assert content["by"] == "shape"
    record = validation[2]
    image, _ = pix3d.read_picture(record)
    alone = pipeline.load(run, "cpu").predict(*_asked(image, record.box))
    assert content["images"][2]["bins"] == alone.bins[0].tolist()
    np.testing.assert_allclose(content["images"][2]["probabilities"], alone.probabilities[0], atol=0.01)  # kept in 8 bits
    assert _run("evaluate", out, "--data", data) == 0
    assert "split by shape" in capsys.readouterr().out


def test_worse_masks_change_the_answers_of_a_network_that_sees_them(data, tmp_path):
    run, files = _save(tmp_path / "run", "mask"), []
    for corrupt in ((), ("--corrupt", "drop:0.5")):
        files.append(tmp_path / f"{len(corrupt)}.json")
        assert _run("predict", "--pix3d", data, "--model", run, "--by", "all", "--out", files[-1], *corrupt) == 0
    first, second = (json.loads(f.read_text()) for f in files)
    assert second["corrupt"] == "drop:0.5"
    assert len(first["images"]) == 12
    assert first["images"][0]["probabilities"] != second["images"][0]["probabilities"]


def test_an_oracle_is_called_one(data, tmp_path, capsys):
    run, out = _save(tmp_path / "run", "normals", split_by=None, normals="oracle"), tmp_path / "predictions.json"
    assert _run("predict", "--pix3d", data, "--model", run, "--by", "all", "--out", out) == 0
    assert json.loads(out.read_text())["normals"] == "oracle"
    assert _run("evaluate", out, "--data", data) == 0
    assert "ORACLE" in capsys.readouterr().out
    assert _run("predict", "--pix3d", data, "--model", run, "--by", "all", "--normals", "predicted", "--out", out) == 1
    assert "no normals.safetensors" in capsys.readouterr().err


def test_order_and_batches_do_not_change_answers(data, run, tmp_path, monkeypatch):
    records = pix3d.read(data)
    loaded = pipeline.load(run, "cpu")
    whole = pipeline.predict_records(loaded, records)
    monkeypatch.setattr(pipeline, "CHUNK", 5)
    monkeypatch.setattr(pipeline, "BATCH", 2)
    parts = pipeline.predict_records(loaded, records[::-1])
    torch.testing.assert_close(parts.probabilities.flip(0), whole.probabilities, atol=1e-5, rtol=0)


def test_training_pictures_are_not_taken_for_validation(data, tmp_path, capsys):
    run = _save(tmp_path / "run", split_by="shape", share=0.1, normals="oracle")
    write_json(run / "viewpoint.json", {"config": {}, "data": str(data)})
    assert _run("predict", "--pix3d", data, "--model", run, "--by", "image", "--out", tmp_path / "p.json") == 1
    assert "are partly those it learned from" in capsys.readouterr().err
    assert _run("predict", "--pix3d", data, "--model", run, "--out", tmp_path / "p.json") == 0
    assert json.loads((tmp_path / "p.json").read_text())["by"] == "shape"
    write_json(run / "viewpoint.json", {"config": {}, "data": str(tmp_path)})  # learned from others
    assert _run("predict", "--pix3d", data, "--model", run, "--by", "all", "--out", tmp_path / "p.json") == 0


@pytest.fixture
def photo(data, tmp_path):
    record = next(r for r in pix3d.read(data) if not r.truncated and not r.occluded)
    return record, data / record.image, data / record.mask


def test_a_photo_with_a_box_gets_its_viewpoint_drawn_and_written(run, photo, tmp_path, capsys):
    record, image, _ = photo
    given = ",".join(f"{v:g}" for v in record.box.tolist())
    assert _run("predict", image, "--model", run, "--boxes", given, "--out", tmp_path / "out") == 0
    assert "azimuth" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "out" / "viewpoints.json").read_text())["images"]
    (row,) = written["objects"]
    seen = pipeline.load(run, "cpu").predict(*_asked(pix3d.read_picture(record)[0], record.box))
    assert row["azimuth_deg"] == pytest.approx(math.degrees(float(seen.angles[0, 0])), abs=1e-4)
    assert row["bins"] == seen.bins[0].tolist()
    assert Image.open(written["overlay"]).size == (80, 60)
    assert not (tmp_path / "out" / "poses.json").exists()


def test_camera_and_size_make_poses(data, photo, tmp_path, capsys):
    record, image, mask = photo
    run = _save(tmp_path / "run", "mask")
    fov = math.degrees(2 * math.atan(80 / 2 / record.f))
    words = ("--model", run, "--mask", mask, "--fov", fov, "--out", tmp_path / "out")
    assert _run("predict", image, *words, "--size-m", 0.6, 0.5, 0.3, "--json") == 0
    (pose,) = json.loads((tmp_path / "out" / "poses.json").read_text())["images"][0]["poses"]
    report = json.loads(capsys.readouterr().out)
    (row,) = report["images"][0]["objects"]
    found = torch.tensor(pose["cam_from_obj"]).double()
    angles = pix3d.angles_of(found).rad2deg()
    assert float(angles[1]) == pytest.approx(row["elevation_deg"], abs=0.01)
    assert 0.3 < float(found[2, 3]) < 30
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / image.name).symlink_to(image)
    words_of_all = ("predict", tmp_path / "photos", *words[:-1], tmp_path / "all", "--size-m", 0.6, 0.5, 0.3)
    assert _run(*words_of_all, "--shard", "1/1") == _run("merge", tmp_path / "all") == 0
    (shared,) = json.loads((tmp_path / "all" / "viewpoints.json").read_text())["images"]
    assert shared["objects"] == [row]
    assert json.loads((tmp_path / "all" / "poses.json").read_text())["images"][0]["poses"] == [pose]
    mesh = data / "model" / "thing" / "low" / "model.obj"
    assert _run("predict", image, *words, "--mesh", mesh, "--unit", "m", "--debug") == 0
    assert (tmp_path / "out" / "debug" / f"{image.stem}_0.png").is_file()


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("--size-m", 1, 1, 1), 2, "only with a camera"),
        (("--size-m", 1, 1, 1, "--fov", 60, "--mesh", "a.ply"), 2, "give one of them"),
        (("--fov", 60, "--mesh", "a.ply"), 1, "a.ply"),
        (("--bop", "data"), 2, "--bop belongs to runs that know CAD models"),
        (("--corrupt", "drop:0.5"), 2, "--corrupt does not go with a SOURCE"),
        (("--boxes", "1,1,5"), 1, "cannot read the box"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, photo, tmp_path, capsys, words, code, message):
    assert _run("predict", photo[1], "--model", run, "--out", tmp_path / "out", *words) == code
    assert message in capsys.readouterr().err


def test_pix3d_options_that_do_not_fit_are_refused(data, run, tmp_path, capsys):
    assert _run("predict", "--pix3d", data, "--model", run, "--corrupt", "blur:1", "--out", tmp_path / "p.json") == 1
    assert "KIND:STRENGTH" in capsys.readouterr().err
    assert _run("predict", "--pix3d", data, "--model", run, "--fov", 60, "--out", tmp_path / "p.json") == 2
    assert "--fov does not go with --pix3d" in capsys.readouterr().err
    assert _run("predict", "--model", run) == 2
    assert "SOURCE" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- synth, download


def test_synth_makes_a_data_set_of_meshes(data, tmp_path, capsys):
    chairs = tmp_path / "chair"
    chairs.mkdir()
    for name in NAMES[:2]:
        mesh = (data / "model" / "thing" / name / "model.obj").read_text()
        (chairs / f"{name}.obj").write_text(mesh)
    out = tmp_path / "out"
    assert _run("synth", chairs, "--unit", "m", "--pix3d", "--images", 1, "--workers", 0, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "sheet": str(out / "contact_sheet.jpg")}
    with Image.open(out / "contact_sheet.jpg") as sheet:
        assert sheet.width > 2 * 400  # both photos in one row
    assert sorted(r.shape for r in pix3d.read(out)) == ["chair/high/model", "chair/low/model"]
    assert not (out / "symmetries.json").exists()


def test_symmetries_of_furniture_are_kept(tmp_path, monkeypatch):
    table = replace(box((1.0, 0.6, 0.7), symmetries=Symmetries(discrete=half_turn(2)[None])), name="t1")
    monkeypatch.setattr(pix3d_folder, "furniture_models", lambda shapes: {"table": [table] * shapes})
    commands.synth(options.Synth(out=tmp_path / "out", shapes=1, images=1, workers=0))
    known = pix3d.read_symmetries(tmp_path / "out")
    assert list(known) == ["table/t1/model"]
    torch.testing.assert_close(known["table/t1/model"].discrete[0], half_turn(2))


def test_download_names_what_it_knows(tmp_path, capsys):
    assert _run("download", "nothing", "--out", tmp_path) == 1
    assert "pix3d" in capsys.readouterr().err
