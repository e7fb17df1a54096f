import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image

import monopose
from monopose import cli, command
from monopose.objects import bop_pipeline
from monopose.objects import pipeline as pipelines
from monopose.objects import viz as object_viz
from monopose.types import Detections, ObjectModel, PoseEstimates


def _model():
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    return ObjectModel(5, "can", points, torch.tensor([[0, 1, 2]]), torch.nn.functional.normalize(points + 1, dim=-1), 0.14)


REAL = {name: getattr(pipelines.Pipeline, name) for name in ("predict", "predict_traced")}


class _Run:
    """A run that always finds the same pose, behind the real signatures, so that the command line is tested alone."""

    def __init__(self, monkeypatch):
        self.calls, self.bop_calls, self.device = [], [], "unknown"
        run = pipelines.Pipeline(None, None, {5: _model()}, {5: "can"}, Path("run"))

        def load(name, device, models=None, runtime="torch", unit=None):
            self.device = device
            return run

        def bop(run, data, targets, out, **options):
            self.bop_calls.append(((data, targets, out), options))
            return out

        monkeypatch.setattr(pipelines, "load", load)
        monkeypatch.setattr(bop_pipeline, "predict_bop", create_autospec(bop_pipeline.predict_bop, side_effect=bop))
        self.answer(monkeypatch, self.predict)

    def answer(self, monkeypatch, predict):
        """Let `predict` stand behind both ways of asking the run."""
        trace = pipelines.Trace(Detections(torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0)), [], [], [])
        both = {"predict": predict, "predict_traced": lambda *args, **options: (predict(*args, **options), trace)}
        for name, one in both.items():
            monkeypatch.setattr(pipelines.Pipeline, name, create_autospec(REAL[name], side_effect=one))

    def predict(self, run, frame, detections=None, **options):
        self.calls.append((frame, detections, options))
        pose = torch.eye(4)[None].clone()
        pose[0, 2, 3] = 0.5
        return PoseEstimates(
            torch.tensor([5]), pose, torch.tensor([0.9]), names={5: "can"}, seconds={"detector": 0.25}, calibrated=True
        )


@pytest.fixture
def pipeline(monkeypatch):
    return _Run(monkeypatch)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def _run(*argv):
    return cli.main([str(a) for a in argv])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom monopose.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'cv2', 'trimesh', 'numba', 'lightning', 'PIL', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("demo", "check", "synth", "train", "calibrate", "predict", "refine", "evaluate", "fit-identity", "doctor"):
        assert name in done.stdout
    assert "metres" in done.stdout


@pytest.mark.parametrize(
    "words", [["demo"], ["check"], ["calibrate"], ["report"], ["refine"], ["download"], ["fit-identity"], ["doctor"]]
)
def test_every_command_has_help(words, capsys):
    with pytest.raises(SystemExit) as stop:
        _run(*words, "--help")
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["view"], ["track"], ["predict", "--model", "demo"], ["train", "all"], ["train", "viewpoint"]]
)
def test_help_does_not_speak_of_none(words, capsys):
    _help(*words)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for noise in ("(default: None)", "(default: False)", "(default: )"):
        assert noise not in text


def _help(*words):
    with pytest.raises(SystemExit) as stop:
        _run(*words, "--help")
    assert stop.value.code == 0


@pytest.mark.parametrize("name", ["synth", "train", "predict", "evaluate"])
def test_help_that_depends_says_how_to_see_more(name, capsys):
    _help(name)
    text = capsys.readouterr().out
    for line in (line for line in text.splitlines() if line.strip().startswith("monopose ")):
        words = line.split("--help")[0].split()[1:]
        if "RUN" not in words:
            _help(*words)
            assert "--json" in capsys.readouterr().out
    assert "--model RUN" in text or name != "predict"


def test_units_are_in_the_help(capsys):
    _help("predict", "--model", "demo")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "field of view, degrees" in text
    assert "in pixels" in text
    assert "camera options" in text
    _help("train", "coordinates")
    assert "budget in minutes" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    "argv, message",
    [
        (["predct"], "no command 'predct'; did you mean predict? There are demo"),
        (["xyz"], "no command 'xyz'; choose one of demo"),
        (["train", "coordinate"], "no method 'coordinate' to train; did you mean coordinates?"),
        (["calibrate", "x", "--dta", "y"], "--dta is no option of monopose calibrate; did you mean --data?"),
        (["train"], "no METHOD; say what to train"),
        (["train", "nothing", "--data", "x"], "no method 'nothing' to train; choose one of coordinates"),
        (["train", "detector"], "Missing from monopose train"),
        (["predict", "a.png"], "give --model RUN"),
        (["predict", "a.png", "--model", "x", "--fov", "wide"], "--fov takes FLOAT, got ['wide']"),
        (["camera", "photos", "--checkerboard", "9"], "--checkerboard takes INT INT, got ['9']"),
        (["predict", "a.png", "--model", "x", "--looks", "3"], "error: --looks takes 1 or 2 or 6, got '3' (see"),
        (["predict", "a.png", "--model", "x", "--limit", "-1"], "--limit must be 0 or more, got -1"),
        (["predict", "a.png", "--model", "x", "--lokks", "2"], "did you mean --looks?"),
        (["doctor", "--fov", "3"], "--fov"),
        (["view", "demo", "--port", "99999"], "--port is a number from 0 to 65535, got 99999"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(argv, message, capsys):
    assert _run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("monopose: error: ")
    assert message in line


def test_version(capsys):
    assert _run("--version") == 0
    assert capsys.readouterr().out == f"monopose {monopose.__version__}\n"


def test_options_for_training_have_the_defaults_of_training():
    from monopose.objects.training import METHODS, TrainConfig

    theirs = {f.name: f.default for f in fields(TrainConfig)}
    for f in fields(command.TrainingOptions):
        assert f.default in (None, theirs[f.name]), f.name  # None: what the preset says
    for name in METHODS:
        assert cli.parse(["train", name, "--data", "x"]).method == name


def test_options_of_a_detector_have_the_defaults_of_the_pipeline():
    from monopose.detection import LEAST_SCORE

    options = cli.parse(["predict", "a.png", "--model", "x"]).detector
    assert (options.score, options.looks) == (LEAST_SCORE, pipelines.LOOKS)


def test_train_passes_everything_on(monkeypatch, tmp_path, capsys):
    from monopose.objects import training

    seen = {}
    monkeypatch.setattr(training, "scene_config", lambda *args, **kwargs: None)
    monkeypatch.setattr(training, "train", lambda *args, **kwargs: seen.update(args=args, **kwargs) or tmp_path / "w")
    (tmp_path / "part" / "models").mkdir(parents=True)
    argv = ["train", "coordinates", "--data", tmp_path / "part", "--minutes", "2", "--objects", "5", "8"]
    assert _run(*argv, "--set", "input_size=96", "backbone=resnet18", "widths=[8,8,8,8]", "--json") == 0
    assert str(seen["args"][2]) == "runs/part"
    assert (seen["obj_ids"], seen["config"].minutes, seen["progress_bar"]) == ((5, 8), 2.0, False)
    config = seen["method_config"]
    assert (config.obj_ids, config.input_size, config.backbone, config.widths) == ((5, 8), 96, "resnet18", (8, 8, 8, 8))
    assert json.loads(capsys.readouterr().out) == {"weights": str(tmp_path / "w"), "verdict": "nothing was measured"}
    assert _run(*argv, "--set", "inputsize=96") == 1
    assert "--set has unknown fields inputsize; " in capsys.readouterr().err
    assert _run(*argv, "--set", "nonsense") == 1
    assert "--set expects NAME=VALUE, got 'nonsense'" in capsys.readouterr().err


def test_predict_writes_overlay_json_and_csv(pipeline, photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run("predict", photo, "--model", "x", "--fov", 60, "--save", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["monopose_images-test.csv", "photo_overlay.png", "poses.json"]
    text = capsys.readouterr().out
    assert "photo: 1 object (detector 0.25 s)" in text
    assert "can" in text
    assert "probability 0.90" in text
    assert "z 0.500 m" in text
    pose = json.loads((out / "poses.json").read_text())["images"][0]["poses"][0]
    assert pose["cam_from_obj"][2] == [0, 0, 1, 0.5]


def test_what_is_uncertain_is_left_out_and_said(pipeline, photo, tmp_path, monkeypatch, capsys):
    """But the BOP CSV keeps it, unless a probability is asked for."""

    def uncertain(*args, **options):
        poses = pipeline.predict(*args, **options)
        return replace(poses, scores=torch.tensor([0.05]))

    pipeline.answer(monkeypatch, uncertain)
    argv = ["predict", photo, "--model", "x", "--fov", 60, "--out", tmp_path / "out"]
    assert _run(*argv) == 0
    assert "left out: probability below 0.1" in capsys.readouterr().out
    (image,) = json.loads((tmp_path / "out/poses.json").read_text())["images"]
    assert (image["poses"], image["dropped"][0]["reason"]) == ([], "probability below 0.1")
    assert len((tmp_path / "out/monopose_images-test.csv").read_text().splitlines()) == 2
    assert _run(*argv, "--min-probability", 0.02) == 0
    assert len(json.loads((tmp_path / "out/poses.json").read_text())["images"][0]["poses"]) == 1
    assert _run(*argv, "--min-probability", 0.3) == 0
    assert len((tmp_path / "out/monopose_images-test.csv").read_text().splitlines()) == 1
    assert _run(*argv, "--min-probability", 30) == 2
    assert "--min-probability must be between 0 and 1, got 30" in capsys.readouterr().err
    assert _run("predict", "--bop", "lmo", "--model", "x", "--out", tmp_path / "m_lmo-test.csv") == 0
    assert pipeline.bop_calls[-1][1]["min_probability"] is None


def test_help_shows_every_command_once_in_groups(capsys):
    _help()
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert text.count(f"\n  {name} ") == 1, name
    assert "train viewpoint" in text


def test_predict_json_folder_boxes_limit_debug(pipeline, photo, tmp_path, capsys):
    (tmp_path / "b.png").write_bytes(photo.read_bytes())
    argv = ["predict", tmp_path, "--model", "x", "--fov", 60, "--out", tmp_path / "out", "--json"]
    assert _run(*argv, "--boxes", "1,2,30,40") == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [image["image"].rsplit("/", 1)[1] for image in images] == ["b.png", "photo.png"]
    assert pipeline.calls[0][1].boxes.tolist() == [[1, 2, 30, 40]]
    assert _run(*argv, "--limit", 1, "--debug") == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 1
    assert pipeline.calls[-1][1] is None
    assert (tmp_path / "out" / "debug" / "b" / "3_poses.png").is_file()


def test_device_score_and_looks_reach_the_pipeline(pipeline, photo, tmp_path, capsys):
    argv = ["predict", photo, "--model", "x", "--fov", 60, "--out", tmp_path / "out"]
    assert _run(*argv) == 0
    assert (pipeline.device, pipeline.calls[-1][2]) == (None, {"score_threshold": 0.2, "looks": 6})
    assert _run(*argv, "--device", "cuda:1", "--score", 0.05, "--looks", 1) == 0
    assert (pipeline.device, pipeline.calls[-1][2]) == ("cuda:1", {"score_threshold": 0.05, "looks": 1})
    out = tmp_path / "monopose_lmo-test.csv"
    assert _run("predict", "--bop", "lmo", "--model", "x", "--out", out, "--score", 0, "--looks", 2, "--device", "cpu") == 0
    assert [pipeline.bop_calls[-1][1][key] for key in ("score_threshold", "looks")] == [0, 2]
    assert pipeline.device == "cpu"
    assert _run(*argv, "--score", 1.5) == 2
    assert "--score must be between 0 and 1, got 1.5" in capsys.readouterr().err


def test_pictures_that_differ_in_their_suffix_keep_their_overlays(pipeline, photo, tmp_path):
    for name in ("photo.JPG", "z.png"):
        Image.open(photo).save(tmp_path / name)
    assert _run("predict", tmp_path, "--model", "x", "--fov", 60, "--out", tmp_path / "out", "--debug") == 0
    names = sorted(p.name for p in (tmp_path / "out").glob("*_overlay.png"))
    assert names == ["photo.JPG_overlay.png", "photo.png_overlay.png", "z.png_overlay.png"]
    records = json.loads((tmp_path / "out" / "poses.json").read_text())["images"]
    assert sorted(r["overlay"].rsplit("/", 1)[1] for r in records) == names
    assert sorted(p.name for p in (tmp_path / "out" / "debug").iterdir()) == ["photo.JPG", "photo.png", "z.png"]


def test_predict_keeps_what_it_has_when_interrupted(pipeline, photo, tmp_path, monkeypatch):
    (tmp_path / "z.png").write_bytes(photo.read_bytes())

    def second_time(*args, **options):
        if pipeline.calls:
            raise KeyboardInterrupt
        return pipeline.predict(*args, **options)

    pipeline.answer(monkeypatch, second_time)
    assert _run("predict", tmp_path, "--model", "x", "--fov", 60, "--out", tmp_path / "out") == 130
    assert len(json.loads((tmp_path / "out" / "poses.json").read_text())["images"]) == 1


def test_a_broken_picture_does_not_take_the_others_along(pipeline, photo, tmp_path, capsys):
    """Those that cannot be read are counted and listed, and the others done; --strict stops, and keeps what it has."""
    out = tmp_path / "out"
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert _run("predict", tmp_path, "--model", "x", "--fov", 60, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unreadable"] == 1
    assert "a.png is not an image that can be read" in (out / "unreadable.txt").read_text()
    assert len(json.loads((out / "poses.json").read_text())["images"]) == 1
    (tmp_path / "a.png").rename(tmp_path / "z.png")
    for path in out.glob("*.*"):
        path.unlink()
    assert _run("predict", tmp_path, "--model", "x", "--fov", 60, "--out", out, "--strict") == 1
    assert "z.png is not an image that can be read" in capsys.readouterr().err
    assert len(json.loads((out / "poses.json").read_text())["images"]) == 1
    assert (out / "monopose_images-test.csv").is_file()
    photo.write_bytes(b"none either")
    assert _run("predict", tmp_path, "--model", "x", "--fov", 60, "--out", out) == 1
    assert "none of 2 pictures can be read; the first: " in capsys.readouterr().err


@pytest.mark.slow
def test_shards_of_a_folder(pipeline, photo, tmp_path, monkeypatch, capsys):
    for i in range(44):
        (tmp_path / f"{i}.png").write_bytes(photo.read_bytes() if i % 7 else b"no picture")
    words = ("predict", tmp_path, "--model", "x", "--fov", 60, "--out")
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert _run(*words, whole) == 0
    assert _run(*words, out, "--shard", "2/2") == 0
    assert _run("merge", out) == 1
    assert "25 of 45 are missing" in (said := capsys.readouterr().err)
    assert "run --shard 1/2 again" in said
    assert _run(*words, out, "--shard", "1/2", "--score", 0.5) == 1
    assert "holds shards with other settings" in capsys.readouterr().err
    pipeline.calls.clear()
    assert _run(*words, out, "--shard", "1/2") == 0
    assert _run(*words, out, "--shard", "1/2") == 0  # complete
    assert len(pipeline.calls) == 21
    assert _run("merge", out, "--json") == 0
    assert len(pipeline.calls) == 21
    for name in ("poses.json", "monopose_images-test.csv", "unreadable.txt"):
        assert (out / name).read_text() == (whole / name).read_text().replace(str(whole), str(out))
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    assert _run("merge", out) == 1
    assert "no shards of" in capsys.readouterr().err
    assert _run(*words, out, "--shard", "3/2") == 2
    assert "--shard counts from 1/2 to 2/2, got 3/2" in capsys.readouterr().err


def test_shards_of_other_pictures_cameras_and_boxes_are_refused(pipeline, photo, tmp_path, capsys):
    """Names are the same, what the files hold is not."""
    photos, camera, boxes = tmp_path / "photos", tmp_path / "camera.json", tmp_path / "boxes.json"
    photos.mkdir()
    photo.rename(photos / "photo.png")
    camera.write_text('{"fx": 60, "fy": 60, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}')
    boxes.write_text('[{"label": 5, "bbox_modal": [1, 2, 30, 40]}]')
    words = ("predict", photos, "--model", "x", "--camera", camera, "--boxes", boxes, "--out", tmp_path / "out", "--shard")
    assert _run(*words, "1/2") == 0, capsys.readouterr().err
    for file, key in ((photos / "photo.png", "source"), (camera, "camera"), (boxes, "boxes")):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        assert _run(*words, "2/2") == 1
        assert f'shards with other settings: {{"{key}": ' in capsys.readouterr().err
        file.write_bytes(before)
    assert _run(*words, "2/2") == _run("merge", tmp_path / "out") == 0


def test_a_misspelt_model_is_named(capsys):
    assert cli.main(["predict", "a.png", "--modle", "demo"]) == 2
    assert "give --model RUN, a run folder or the name of bundled weights, not --modle" in capsys.readouterr().err


def test_merging_runs_no_other_command(pipeline, photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run("predict", photo.parent, "--model", "x", "--fov", 60, "--out", out, "--shard", "1/2") == 0
    (job,) = out.rglob("job.json")
    job.write_text(json.dumps(json.loads(job.read_text()) | {"command": ["download", "lmo"]}))
    assert _run("merge", out) == 1
    assert "names a command that has no shards: 'download'; expected synth, predict" in capsys.readouterr().err


def test_symmetries_of_mesh_files(monkeypatch, tmp_path):
    """Accepted ones stay when the command runs again; proposed ones are taken when asked for."""
    import trimesh

    from monopose.datasets.bop import writing
    from monopose.synthesis import bop_folder

    trimesh.creation.box((80, 50, 30)).export(tmp_path / "part.stl")
    made = {}

    def write(models, out, **options):
        made.update({m.obj_id: m for m in models})
        writing.write_models(out / "models", made)
        return out

    monkeypatch.setattr(bop_folder, "write_bop", write)
    monkeypatch.setattr(object_viz, "save_samples", lambda *args: tmp_path)
    argv = ["synth", tmp_path / "part.stl", "--unit", "mm", "--out", tmp_path / "data"]
    assert _run(*argv) == 0
    assert not made[1].symmetries.any
    assert _run(*argv, "--propose-symmetries") == 0
    assert len(made[1].symmetries.discrete) == 3  # half turns about the three axes
    assert _run(*argv) == 0
    assert len(made[1].symmetries.discrete) == 3


def test_synth_passes_everything_on(monkeypatch, tmp_path, capsys):
    import trimesh

    from monopose.synthesis import bop_folder

    trimesh.creation.box((80, 50, 30)).export(tmp_path / "part.stl")
    seen = {}
    monkeypatch.setattr(bop_folder, "write_bop", lambda models, out, **options: seen.update(options) or out)
    monkeypatch.setattr(object_viz, "save_samples", lambda *args: tmp_path)
    argv = [
        "synth",
        tmp_path / "part.stl",
        "--unit",
        "mm",
        "--out",
        tmp_path / "data",
        "--split",
        "test",
        "--seed",
        3,
        "--upright",
    ]
    assert _run(*argv, "--elevation-deg", 20, 60, "--distance", 0.4, 0.9) == 0
    scene = seen["scene"]
    assert (seen["split"], seen["seed"], seen["camera"].size) == ("test", 3, (480, 640))
    assert (scene.upright, scene.elevation_deg, scene.distance) == (True, (20, 60), (0.4, 0.9))
    assert _run(*argv) == 0
    near, far = seen["scene"].distance
    assert far / near == pytest.approx(5)
    assert _run(*argv, "--distance", 0.9, 0.4) == 1
    assert "distances must be positive and growing, in metres" in capsys.readouterr().err


@pytest.mark.slow
def test_synth_goes_on_from_the_same_mesh_file(tmp_path, capsys):
    """What is read again from the file, or from the folder's own models, is what the folder was started with."""
    import trimesh

    part, out, camera = tmp_path / "part.stl", tmp_path / "data", tmp_path / "camera.json"
    camera.write_text(json.dumps({"K": [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], "resolution": [48, 64]}))
    trimesh.creation.capsule(height=50, radius=20, count=(8, 8)).export(part)
    argv = ["synth", "--unit", "mm", "--out", out, "--camera", camera, "--images"]
    assert _run(*argv, 1, part) == 0
    assert _run(*argv, 2, part, "--propose-symmetries") == 0
    assert _run(*argv, 3, out / "models") == 0
    assert (out / "train/000000/rgb/000002.png").is_file()
    with Image.open(out / "contact_sheet_train.jpg") as sheet:
        assert sheet.width > sheet.height > 200  # three pictures in a row
    trimesh.creation.capsule(height=50, radius=21, count=(8, 8)).export(part)
    capsys.readouterr()
    assert _run(*argv, 4, part) == 1
    assert "data was started with other meshes (object 1 has other vertices)" in capsys.readouterr().err


def test_predict_bop(pipeline, tmp_path):
    out = tmp_path / "monopose_lmo-test.csv"
    assert _run("predict", "--bop", "lmo", "--targets", "t.json", "--model", "x", "--out", out) == 0
    ((args, _),) = pipeline.bop_calls
    assert [str(a) for a in args] == ["lmo", "t.json", str(out)]


@pytest.mark.parametrize(
    "argv, code, message",
    [
        (["predict", "--model", "x"], 2, "give either a SOURCE"),
        (["predict", "a.png", "--bop", "lmo", "--model", "x"], 2, "give either a SOURCE"),
        (["predict", "--bop", "lmo", "--model", "x"], 2, "--bop needs --out METHOD_DATASET-SPLIT.csv"),
        (["predict", "PHOTO", "--model", "x"], 1, "photo.png needs a camera: give a camera file, or the horizontal field"),
        (["predict", "PHOTO", "--model", "x", "--camera", "nothing.json"], 1, "no camera file at nothing.json"),
        (
            ["predict", "PHOTO", "--model", "x", "--fov", "60", "--boxes", "8:1,2,3,4"], 1,
            "given for object 8, but the model knows only 5",
        ),
        (["predict", "nothing.png", "--model", "x", "--fov", "60"], 1, "no image at nothing.png"),
        (["predict", "nothing", "--model", "x", "--fov", "60", "--shard", "1/2"], 1, "no folder of pictures, tar or Parquet"),
        (["predict", "PHOTO", "--model", "x", "--fov", "60", "--shard", "1/2"], 2, "--shard and --ray need a folder"),
        (["predict", "PHOTO", "--model", "x", "--fov", "60", "--true-boxes"], 2, "--true-boxes belongs to --bop DIR"),
        (["predict", "PHOTO", "--model", "x", "--fov", "60", "--posterior"], 1, "coordinates, which have no distribution"),
        (["predict", "--bop", "lmo", "--model", "x", "--fov", "60"], 2, "--fov goes with a SOURCE, not with --bop"),
        (["predict", "--bop", "lmo", "--model", "x", "--posterior"], 2, "--posterior goes with a SOURCE, not with --bop"),
        (
            ["predict", "--bop", "lmo", "--model", "x", "--boxes", "1,2,3,4"], 2,
            "takes one BOP detections file, got 1,2,3,4",
        ),
        (["predict", "--bop", "lmo", "--model", "x", "--true-boxes", "--boxes", "a.json"], 2, "give one of them"),
        (["predict", "--bop", "lmo", "--model", "x", "--true-boxes", "--score", "0"], 2, "--score belongs to the detector"),
        (["predict", "PHOTO", "--model", "x", "--fov", "60", "--boxes", "1,2,3,4", "--score", "0.1"], 2, "--score belongs"),
        (["predict", "PHOTO", "--model", "x", "--fov", "60", "--boxes", "1,2,3,4", "--looks", "1"], 2, "--looks belongs"),
    ],
)  # fmt: skip
def test_expected_errors_are_one_line(pipeline, photo, argv, code, message, capsys):
    assert _run(*[photo if a == "PHOTO" else a for a in argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("monopose: error: ")
    assert message in line


def test_camera_of_another_size_names_the_flag(pipeline, photo, tmp_path, capsys):
    camera = tmp_path / "camera.json"
    camera.write_text(json.dumps({"K": [[100, 0, 63.5], [0, 100, 47.5], [0, 0, 1]], "resolution": [96, 128]}))
    argv = ["predict", photo, "--model", "x", "--camera", camera, "--out", tmp_path / "out"]
    assert _run(*argv) == 1
    assert "camera.json is for 128x96 but photo.png is 64x48; pass --resize-camera to scale K" in capsys.readouterr().err
    assert _run(*argv, "--resize-camera") == 0
    assert pipeline.calls[-1][0].camera.K[0, 0] == 50


def test_unexpected_errors_and_tracebacks(pipeline, photo, monkeypatch, tmp_path, capsys):
    def fails(*args, **kwargs):
        raise IndexError("list index\nout of range")

    pipeline.answer(monkeypatch, fails)
    argv = ["predict", photo, "--model", "x", "--fov", 60, "--out", tmp_path]
    assert _run(*argv) == 1
    expected = "monopose: error: IndexError: list index out of range (unexpected; --debug shows where)\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(IndexError):
        _run(*argv, "--debug")


def test_full_disk_is_one_line(pipeline, photo, monkeypatch, tmp_path, capsys):
    import errno

    from monopose import viz

    class _Full:
        def save(self, path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(viz, "draw", lambda *a, **k: _Full())
    assert _run("predict", photo, "--model", "x", "--fov", 60, "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("monopose: error: the disk is full (")
    assert list((tmp_path / "out").glob("*")) == []


def test_warnings_are_one_line(pipeline, tmp_path, capsys):
    rgba = np.zeros((48, 64, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert _run("predict", tmp_path / "a.png", "--model", "x", "--fov", 60, "--out", tmp_path / "out") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("monopose: warning: a.png has transparent pixels")


def test_evaluate_prints_json(monkeypatch, capsys):
    from monopose.evaluation import bop as bop_evaluation

    scores = {"ar": {"mssd": np.float64(0.5), "vsd": None}, "per_object": {1: {"recall": 0.25}}, "targets": 3}
    monkeypatch.setattr(bop_evaluation, "evaluate", lambda *args, **kwargs: scores)
    assert _run("evaluate", "a_lmo-test.csv", "--data", "lmo", "--json") == 0
    expected = {"ar": {"mssd": 0.5, "vsd": None}, "per_object": {"1": {"recall": 0.25}}, "targets": 3}
    assert json.loads(capsys.readouterr().out) == expected
    assert _run("evaluate", "a_lmo-test.csv", "--data", "lmo") == 0
    header, _, _, last, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["percent", "targets", "MSSD"]
    assert last.split() == ["all", "targets", "3", "50.0"]


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["check", "--help"], ["--version"]])
def test_readers_may_stop_reading(words):
    """As with `monopose --help | head -1`, where nothing is left of the pipe when Python flushes."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", f"from monopose.cli import main; raise SystemExit(main({words!r}))"]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=100)
    finally:
        os.close(write)
    assert (done.stderr, done.returncode) == ("", 0)


def test_threads_are_limited_for_every_library(monkeypatch, capsys):
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENCV_FOR_THREADS_NUM", "9")
    before = torch.get_num_threads()
    try:
        assert cli.main(["merge", "nothing_there", "--threads", "1"]) == 1
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OPENCV_FOR_THREADS_NUM"]) == ("1", "1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
        for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
            os.environ.pop(f"{name}_NUM_THREADS", None)
    capsys.readouterr()
    assert cli.main(["merge", "nothing_there", "--threads", "0"]) == 1
    assert "--threads must be 1 or more, got 0" in capsys.readouterr().err
