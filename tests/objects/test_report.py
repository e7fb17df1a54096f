"""`monopose report` and `monopose train all`: what is counted, what stands on the page, where a killed run goes on."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from monopose import cli, weights
from monopose.datasets.bop import writing
from monopose.detection import detector
from monopose.geometry import camera as camera_ops
from monopose.objects import calibrate, calibration, coordinates, heldout, judging, pipeline, report, training, whole_run
from monopose.synthesis import blender, bop_folder
from monopose.synthesis import scene as synth
from monopose.training import progress
from monopose.types import Camera, Detections, PoseEstimates
from shapes import box, half_turn

IDS = (2, 5)
OBJECTS = {2: box(obj_id=2), 5: box((0.05, 0.07, 0.06), obj_id=5)}
CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (96, 128)), (96, 128))
SCENE = synth.SceneConfig(objects=(2, 2), distractors=(0, 0), distance=(0.3, 0.5))
SMALL = {
    "coordinates": coordinates.Config(
        IDS, pretrained=False, input_size=64, output_size=32, widths=(16, 16, 16, 16), symmetry_steps=4
    ),
    "detector": detector.small(IDS, image_height=64, image_width=64, pretrained=False, channels=16),
}
SECTIONS = ["verdict", "errors", "outcomes", "where", "calibration", "worst", "learning", "more", "try"]


@pytest.fixture(autouse=True)
def _our_renderer(monkeypatch):
    monkeypatch.setattr(blender, "is_there", lambda: False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    writing.write_models(folder / "models", OBJECTS)
    writing.write_camera(folder / "camera.json", CAMERA)
    return folder


@pytest.fixture
def run(tmp_path, data):
    """A run folder with an untrained network, that says where its data lies and how it got better."""
    folder = tmp_path / "run"
    torch.manual_seed(0)
    state = coordinates.Model(SMALL["coordinates"], OBJECTS).state_dict()
    notes = {"scene": json.dumps({"objects": [2, 2], "distractors": [0, 0], "distance": [0.3, 0.5]})}
    weights.save(
        folder / "coordinates.safetensors", state, method="coordinates", config=SMALL["coordinates"], labels=IDS, notes=notes
    )
    writing.write_models(folder / "objects", OBJECTS)
    (folder / "coordinates.json").write_text(json.dumps({"config": {}, "data": str(data)}))
    for n, right in enumerate((0.1, 0.3, 0.5, 0.6, 0.65, 0.7)):
        line = {"method": "coordinates", "step": n, "crops": n, "minutes": 20.0 * (n + 1), "crops_per_second": 9.0}
        progress.append(folder, line | {"loss": 1.0, "right": right, "error": 1 - right, "mm": 4.0, "deg": 3.0})
    return folder


class Answers:
    """Object 2 is always found; object 5 in turn: turned over, without a box, without a pose in its box, filtered."""

    def __init__(self, monkeypatch):
        self.truth, self.picture, self.boxes, drawn = None, 0, [], bop_folder.Frames.__getitem__
        self.expected = []  # what becomes of the objects of which a tenth is seen; others are not asked for

        def remember(frames, n):
            item = drawn(frames, n)
            self.truth, self.picture = item[0].instances, n
            return item

        monkeypatch.setattr(bop_folder.Frames, "__getitem__", remember)
        monkeypatch.setattr(pipeline.Pipeline, "predict_counted", lambda run, frame, given=None: self.answer(frame, given))

    def answer(self, frame, given):
        assert frame.instances is None
        self.boxes.append(given)
        truth, turn = self.truth, self.picture % 4
        second = truth.labels == 5
        of_second = ("wrong pose", "no box", "no pose in its box", "filtered")[turn]
        seen = truth.labels[truth.visibility >= 0.1].tolist()
        self.expected += ["right" if label == 2 else of_second for label in seen]
        poses = truth.cam_from_obj.clone()
        poses[second] = poses[second] @ half_turn(0)
        poses[:, 2, 3] += 0.001
        kept = ~second if turn else torch.ones_like(second)
        boxed = kept | (second if turn > 1 else torch.zeros_like(second))
        order = truth.labels[kept].argsort()
        scores = torch.where(truth.labels == 2, 0.9, 0.4)
        found = PoseEstimates(truth.labels, poses, scores, boxes=truth.boxes)[kept][order]
        detections = Detections(truth.labels, truth.boxes, torch.ones(len(truth)))[boxed]
        solved = truth.labels[boxed] if turn == 3 else truth.labels[kept]
        return replace(found, names={2: "two", 5: "five"}), pipeline.Trace(detections, [], [], [], solved)


class Page(HTMLParser):
    """What stands on a page, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.links, self.sources, self.words = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sections += [found["id"]] if tag == "section" else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.mark.slow
def test_the_report_counts_what_became_of_every_object_and_makes_one_page(run, tmp_path, monkeypatch, capsys):
    answers = Answers(monkeypatch)
    assert cli.main(["report", str(run), "--images", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outcomes"] == {name: answers.expected.count(name) for name in report.OUTCOMES}
    assert min(found["outcomes"].values()) >= 1
    assert found["targets"] == len(answers.expected)
    assert found["right"] == found["outcomes"]["right"] / found["targets"]
    share = progress.share_text(found["right"], found["targets"])
    assert found["verdict"].startswith(f"right in {share} held-out renderings, ")
    assert found["verdict"].endswith("still improving: another 2 hours is worth it")
    assert found["by_object"]["box2"]["right"] == 1
    assert found["by_object"]["box5"]["right"] == 0
    assert sum(b["total"] for b in found["by"]["metres to the camera"]) == found["targets"]
    assert found["thresholds"][2]["right"] == 1  # of a score of 0.5 or more
    assert not found["calibrated"]
    assert any("monopose calibrate" in line for line in found["advice"])
    often = found["outcomes"]["no box"] > 0.1 * found["targets"]
    assert any("get no box" in line for line in found["advice"]) == often
    assert json.loads((run / "report.json").read_text()) == found

    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.sections == SECTIONS
    assert page.links == [f"#{name}" for name in SECTIONS]
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    assert len(page.sources) >= 5 + len(found["worst"])
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in page.sources)
    assert found["verdict"] in page.words
    assert "180 degrees off, score 0.40" in page.words  # the worst poses first

    # for people
    assert cli.main(["report", str(run), "--images", "8", "--data", str(tmp_path / "data0")]) == 1
    capsys.readouterr()
    assert cli.main(["report", str(run), "--images", "3", "--out", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert f"report: {tmp_path / 'page.html'}" in said
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).sections == SECTIONS
    # a place that cannot be written to
    assert cli.main(["report", str(run), "--images", "3", "--out", "/dev/null/page.html"]) == 0
    nowhere = capsys.readouterr()
    assert "page could not be saved" in nowhere.err
    assert nowhere.out.splitlines() == [line for line in said.splitlines() if not line.startswith("report: ")]


def test_a_report_says_what_it_lacks(run):
    (run / "coordinates.json").write_text(json.dumps({"config": {}, "data": "/nowhere"}))
    with pytest.raises(ValueError, match=r"does not say where the data lies .*, or it is gone; name it: --data DIR"):
        report.run(run)
    with pytest.raises(ValueError, match="at least one picture, got 0"):
        report.run(run, images=0)


def test_what_a_mesh_alone_reaches_is_reported_in_true_boxes(data, tmp_path, monkeypatch, capsys):
    answers = Answers(monkeypatch)
    monkeypatch.chdir(tmp_path)
    mesh = data / "models" / "obj_000002.ply"
    assert cli.main(["report", str(mesh), "--unit", "mm", "--images", "2"]) == 0
    said = capsys.readouterr().out
    text = " ".join((tmp_path / "out/report/obj_000002/report.html").read_text(encoding="utf-8").split())
    assert "in true boxes" in said
    assert "Nothing was trained" in text
    assert "monopose calibrate" not in text  # which an untrained run cannot be
    assert json.loads((tmp_path / "out/report/obj_000002/report.json").read_text())["training"] == {}
    assert sorted(p.name for p in data.iterdir()) == ["camera.json", "models"]
    seen = answers.truth.visibility >= 0.1
    torch.testing.assert_close(answers.boxes[1].boxes, answers.truth.boxes[seen])
    assert len(answers.truth) <= 2 + 3  # objects and distractors
    assert cli.main(["report", str(data), "--unit", "mm"]) == 2
    assert "belong to a mesh file" in capsys.readouterr().err


def test_errors_are_to_the_nearest_equivalent_pose():
    model = box((0.06, 0.06, 0.1), symmetries=None)
    pose = np.eye(4)
    pose[:3, 3] = 0.01, 0.02, 0.5
    turned = pose @ half_turn(2).double().numpy()
    moved = turned.copy()
    moved[2, 3] += 0.003
    plain = judging.judge(moved, pose, judging.judged_by(model))
    assert plain.deg == pytest.approx(180, abs=1e-3)
    symmetric = replace(model, symmetries=replace(model.symmetries, discrete=half_turn(2)[None]))
    twin = judging.judge(moved, pose, judging.judged_by(symmetric))
    assert (twin.mm, twin.deg) == (pytest.approx(3, abs=1e-4), pytest.approx(0, abs=1e-3))
    assert twin.share == pytest.approx(0.003 / model.diameter, abs=1e-6)


def test_shares_fall_into_bins():
    values, right = np.arange(40.0), np.arange(40) >= 20
    bins = report.shares(values, right)
    assert [b.total for b in bins] == [8] * 5
    assert [b.right for b in bins] == [0, 0, 0.5, 1, 1]
    assert all(b.lower <= b.right <= b.upper for b in bins)
    assert report.shares([3.0, 3.0], np.array([True, False]))[0].right == 0.5
    assert report.shares([], np.zeros(0, bool)) == []


# ----------------------------------------------------------------------------------------------- measured while it learns


def test_held_out_samples_are_measured_the_same_every_time(data, monkeypatch):
    monkeypatch.setattr(heldout, "CROPS", 3)
    monkeypatch.setattr(heldout, "PICTURES", 2)
    source = training.crop_samples.Source(OBJECTS, CAMERA, [], SCENE)
    for method, config in SMALL.items():
        entry = training.METHODS[method]
        torch.manual_seed(0)
        network = entry.model(config, OBJECTS).eval()
        shown = heldout.plain(config)
        measure = heldout.measure(method, config, OBJECTS, lambda n, seed: entry.samples(shown, source, n, seed))  # noqa: B023
        with torch.no_grad():
            first, second = measure(network), measure(network)
        assert first == second
        assert 0 <= first["error"] <= 1
        assert first["right" if method == "coordinates" else "found"] <= 1
        assert first["of"] >= 2


# -------------------------------------------------------------------------------------------------------------- train all


def plan(steps=2):
    few = training.TrainConfig(steps=steps, batch_size=2, workers=0, checkpoint_minutes=1e6)
    return [whole_run.Stage(method, 1.0, config, few) for method, config in SMALL.items()]


@pytest.mark.slow
def test_train_all_goes_on_between_the_stages_and_cleans_up(data, tmp_path, monkeypatch):
    out, train = tmp_path / "run", training.train
    how = {"scene": SCENE, "images": (2, 2), "progress_bar": False}

    def interrupted(method, *args, **kwargs):
        if method == "detector":
            raise KeyboardInterrupt
        return train(method, *args, **kwargs)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="run keeps what is done; the same command goes on"):
        whole_run.run(data, out, plan=plan(), **how)
    file = out / "coordinates.safetensors"
    first = file.stat().st_mtime_ns
    assert (out / "checkpoints/coordinates/last.ckpt").is_file()

    def too_few(*args, **kwargs):
        raise calibrate.TooFew("3 estimates are too few to calibrate on")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(calibrate, "run", too_few)
    found = whole_run.run(data, out, plan=plan(), **how)
    assert file.stat().st_mtime_ns == first  # that stage was finished
    assert weights.read(out / "detector.safetensors").notes["steps"] == "2"
    assert found["calibration"] == "3 estimates are too few to calibrate on"
    assert found["run"] == str(out)
    assert found["verdict"].startswith("right in ")
    assert Page((out / "report.html").read_text(encoding="utf-8")).sections == SECTIONS
    assert "not calibrated: 3 estimates" in whole_run.text(found)
    assert [line["method"] for line in progress.read(out)] == ["coordinates", "detector"]
    assert not (out / "checkpoints").exists()

    # a finished run does nothing more
    monkeypatch.setattr(report, "run", None)
    again = whole_run.run(data, out, plan=plan(), **how)
    assert again == found
    assert file.stat().st_mtime_ns == first

    # more goes on from the weights, and is reported anew
    class New:
        def as_dict(self):
            return {"verdict": "new"}

    monkeypatch.setattr(report, "run", lambda *args, **kwargs: New())
    assert whole_run.run(data, out, plan=plan(3), **how)["verdict"] == "new"
    assert weights.read(file).notes["steps"] == "3"


def test_the_stages_share_the_budget(monkeypatch):
    monkeypatch.setattr(weights, "base", lambda method: None)
    alone = whole_run.stages(100, IDS)
    assert [s.method for s in alone] == ["coordinates", "detector", "refiner"]
    assert sum(s.minutes for s in alone) == pytest.approx(90)
    assert all(s.train.minutes == s.minutes for s in alone)
    monkeypatch.setattr(weights, "base", lambda method: "refiner.safetensors")
    helped = whole_run.stages(240, IDS)
    assert [s.method for s in helped] == ["coordinates", "detector"]
    assert sum(s.minutes for s in helped) == pytest.approx(228)


def test_little_time_goes_into_the_detector_alone(monkeypatch):
    """On a CPU, below an hour an object, or what is said; then poses are searched for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    short = whole_run.stages(59, (1,))
    assert [s.method for s in short] == ["detector"]
    assert short[0].minutes == pytest.approx(0.9 * 59)
    assert [s.method for s in whole_run.stages(61, (1,))] == ["coordinates", "detector"]
    assert [s.method for s in whole_run.stages(61, (1, 2))] == ["detector"]
    assert [s.method for s in whole_run.stages(31, (1, 2), patience=15)] == ["coordinates", "detector"]
    monkeypatch.setattr(weights, "base", lambda method: "refiner.safetensors" if method == "refiner" else None)
    assert [s.method for s in whole_run.stages(5, (1,))] == ["coordinates", "detector"]  # nothing to search with


def test_train_all_takes_a_mesh_file(tmp_path, monkeypatch, capsys):
    writing.write_models(tmp_path / "m", {2: OBJECTS[2]})
    seen = {}
    monkeypatch.setattr(
        whole_run, "run", lambda data, out, **how: seen.update(data=data, out=out, **how) or {"verdict": "good"}
    )
    monkeypatch.setattr(whole_run, "text", lambda found: "the words")
    argv = ["train", "all", "--data", str(tmp_path / "m/obj_000002.ply"), "--unit", "mm", "--out", str(tmp_path / "run")]
    assert cli.main([*argv, "--minutes", "5"]) == 0
    assert capsys.readouterr().out == "the words\n"
    assert (seen["data"], seen["out"], seen["minutes"]) == (tmp_path / "run/data", tmp_path / "run", 5.0)
    assert training.read_objects(seen["data"])[1].diameter == pytest.approx(OBJECTS[2].diameter, rel=1e-5)
    assert training.read_data_camera(seen["data"]).size == (480, 640)
    assert cli.main(["train", "all", "--data", str(tmp_path / "m"), "--unit", "mm"]) == 2
    assert "belong to a mesh file" in capsys.readouterr().err
    assert cli.main(["train", "all", "--data", str(tmp_path / "m"), "--minutes", "0"]) == 2


def test_a_calibration_of_other_weights_is_made_anew(run):
    assert not whole_run.is_calibrated(run)
    digest = calibration.digest_of(run / "coordinates.safetensors")
    calibration.write(run, calibration.Calibration(weights={"coordinates": digest}))
    assert whole_run.is_calibrated(run)
    calibration.write(run, calibration.Calibration(weights={"coordinates": "0" * 16}))
    assert not whole_run.is_calibrated(run)
