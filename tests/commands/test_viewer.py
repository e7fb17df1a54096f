"""`monopose view`: what stands in the scene, without a browser; and the page itself in one, where viser and Chromium are."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli
from monopose.commands import viewer
from monopose.contour import points
from monopose.geometry import symmetry
from monopose.mesh.symmetries import SymmetryFinding, group_of
from monopose.objects.pipeline import Trace
from monopose.tracking import film
from monopose.tracking.tracker import Track
from monopose.types import Camera, Detections, Frame, PoseEstimates, Symmetries
from shapes import box


@pytest.fixture(scope="module")
def brick():
    return box((0.1, 0.06, 0.04))


@pytest.fixture(scope="module")
def frame():
    return Frame(torch.full((3, 48, 64), 0.5), Camera(torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]), (48, 64)))


def found(*depths, **more):
    poses = torch.eye(4).repeat(len(depths), 1, 1)
    poses[:, 2, 3] = torch.tensor(depths)
    return PoseEstimates(
        torch.ones(len(depths), dtype=torch.int64), poses, torch.full((len(depths),), 0.9), names={1: "brick"}, **more
    )


def test_the_scene_has_the_camera_the_models_and_how_sure_their_places_are(frame, brick):
    covariance = torch.diag(torch.tensor([1e-6, 4e-6, 9e-4, 1, 1, 1])).repeat(2, 1, 1)
    covariance[1] = torch.nan  # unknown
    things = viewer.scene_of(frame, found(0.5, 0.7, covariance=covariance), {1: brick}, left_out=found(0.6))
    assert [(t.kind, t.path, t.shown) for t in things] == [
        ("frustum", "camera", True), ("model", "1 brick/model", True), ("ellipsoid", "1 brick/2 sigma", True),
        ("model", "2 brick/model", True), ("model", "left out/1 brick", False),
    ]  # fmt: skip
    photo, fov, aspect = things[0].value
    assert photo.shape == (48, 64, 3)
    assert 60 * np.tan(fov / 2) == pytest.approx(24)
    assert aspect == pytest.approx(64 / 48)
    around = things[2].pose
    np.testing.assert_allclose(around[:3, 3], [0, 0, 0.5])
    half = np.abs(around[:3, :3] @ np.diag(things[2].value))  # along x, y, z in some order
    np.testing.assert_allclose(half.max(1), [0.002, 0.004, 0.06], rtol=1e-4)
    assert np.linalg.det(around[:3, :3]) == pytest.approx(1)
    assert things[4].opacity < 1


def test_objects_without_a_mesh_are_points(frame):
    assert [t.kind for t in viewer.scene_of(frame, found(0.5), {})] == ["frustum", "points"]


def test_a_posterior_shows_its_samples_by_weight_and_its_other_modes(frame, brick):
    samples = torch.eye(4).repeat(2, 1, 1)
    samples[:, 2, 3] = torch.tensor([0.5, 0.8])
    other = samples[1]
    posterior = SimpleNamespace(
        label=1, samples=samples, log_weights=torch.tensor([0.75, 0.25]).log(), modes=torch.stack([samples[0], other, other])
    )
    things = viewer.scene_of(frame, found(0.5), {1: brick}, posteriors=[posterior])
    assert [(t.path, t.shown) for t in things[2:]] == [("posterior 1 brick/samples", True), ("posterior 1 brick/mode 2", False)]
    np.testing.assert_allclose(things[3].pose, other)
    depths = things[2].value[:, 2]
    assert (depths == 0.5).mean() == pytest.approx(0.75, abs=0.01)


def half_turn(axis, accepted=True):
    verdict = "geometry" if accepted else "nearly"
    return SymmetryFinding(2, axis, (0.0, 0.0, 0.0), 0.0, 0.0, None, verdict)


def test_axes_go_through_the_object_and_show_what_is_proposed(brick):
    things = viewer.axes_of(brick, [half_turn((0.0, 0.0, 1.0)), half_turn((1.0, 0.0, 0.0), False)])
    assert [t.kind for t in things] == ["model", "line", "line"]
    assert things[1].color != things[2].color
    np.testing.assert_allclose(things[1].value[1], [0, 0, 0.75 * brick.diameter], atol=1e-6)


def test_accepted_axes_make_a_group_and_are_written_beside_other_objects(brick, tmp_path):
    both = group_of([half_turn((0.0, 0.0, 1.0)), half_turn((1.0, 0.0, 0.0))], brick)
    assert len(symmetry.transforms(both)) == 4  # the third half turn follows
    around = SymmetryFinding(0, (0.0, 0.0, 1.0), (0.01, 0.0, 0.0), 0.0, 0.0, None, "nearly")
    turned = group_of([around], brick)
    torch.testing.assert_close(turned.axes, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(turned.offsets, torch.tensor([[0.01, 0.0, 0.0]]))
    assert not group_of([], brick).any
    file = tmp_path / "models_info.json"
    file.write_text('{"7": {"diameter": 5}}')
    viewer.accept(file, 1, brick, both)
    viewer.accept(file, 2, brick, Symmetries())
    written = json.loads(file.read_text())
    assert list(written) == ["7", "1", "2"]
    assert written["7"] == {"diameter": 5}
    assert len(written["1"]["symmetries_discrete"]) == 3
    assert "symmetries_discrete" not in written["2"]
    assert written["1"]["diameter"] == pytest.approx(1000 * brick.diameter, rel=1e-5)
    file.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        viewer.accept(file, 1, brick, both)


def test_what_cannot_be_shown_is_said_at_once(tmp_path, capsys):
    assert cli.main(["view", "demo", str(tmp_path / "photo.jpg")]) == 1
    assert "a photo needs its camera: --camera FILE" in capsys.readouterr().err
    assert viewer._plain("a|b<script>\n*") == "a\\|b\\<script\\> \\*"


class _Run:
    """Finds one brick in every picture, of an uploaded one at another distance; as a run of known objects does."""

    def __init__(self, brick):
        self.models, self.names = {1: brick}, {1: "brick"}

    def predict_traced(self, frame):
        nothing = Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0))
        poses = found(0.3 if frame.image.mean() < 0.4 else 0.5)
        return replace(poses, calibrated=True), Trace(nothing, [], [], [])

    def trusted(self, poses, frame, least=None):
        return poses[poses.scores >= least]


@pytest.fixture
def browser():
    if "MONOPOSE_BROWSER" not in os.environ:
        pytest.skip("half a minute of a browser: MONOPOSE_BROWSER=1 pytest tests/commands/test_viewer.py")
    pytest.importorskip("viser")
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        shown = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--use-gl=swiftshader"])
        yield shown
        shown.close()


@pytest.mark.slow
def test_the_page_shows_poses_and_takes_a_photo(browser, frame, brick, tmp_path):
    server = viewer.serve_run(_Run(brick), {"fov_deg": 50.0}, "127.0.0.1", 18080, np.full((48, 64, 3), 200, np.uint8))
    try:
        page = browser.new_page(viewport={"width": 320, "height": 240})
        page.set_default_timeout(120_000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.get_port()}")
        page.get_by_text("0.000, 0.000, 0.500").wait_for()
        assert page.locator("canvas").count() >= 1
        Image.new("RGB", (64, 48)).save(tmp_path / "dark.png")
        page.locator("input[type=file]").set_input_files(tmp_path / "dark.png")
        page.get_by_text("0.000, 0.000, 0.300").wait_for()
        (tmp_path / "broken.png").write_bytes(b"no picture")
        page.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
        page.get_by_text("cannot identify").wait_for()
        assert problems == []
    finally:
        server.stop()


@pytest.mark.slow
def test_the_page_of_a_video_plays_stops_and_goes_back(browser, frame, brick):
    def steps():
        for i in range(6):
            pose = found(0.5 + 0.01 * i).cam_from_obj[0]
            yield f"picture {i}", frame, [Track(1, "brick", pose, torch.eye(6), 0.1, False, ())]

    views = [points.views_of(brick, views=60)]
    server = viewer.serve_film(film.Film(steps(), views), [brick], False, "127.0.0.1", 18100)
    try:
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.set_default_timeout(120_000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.get_port()}")
        page.get_by_text("ended after 6 pictures").wait_for()
        page.get_by_text("0.000, 0.000, 0.550").wait_for()
        slider = page.get_by_role("slider").first
        slider.focus()
        slider.press("ArrowLeft")
        page.get_by_text("0.000, 0.000, 0.540").wait_for()
        assert problems == []
    finally:
        server.stop()


@pytest.mark.slow
def test_the_page_of_a_mesh_writes_what_is_accepted(browser, brick, tmp_path):
    file = tmp_path / "models_info.json"
    server = viewer.serve_mesh(replace(brick, colors=None), file, 3, "127.0.0.1", 18090)
    try:
        page = browser.new_page(viewport={"width": 320, "height": 240})
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{server.get_port()}")
        page.get_by_text("Write models_info.json").dispatch_event("click")
        page.get_by_text("object 3, 3 discrete").wait_for()
        for n in range(2):
            page.get_by_role("checkbox").nth(n).dispatch_event("click")
        page.get_by_text("Write models_info.json").dispatch_event("click")
        page.get_by_text("object 3, 1 discrete").wait_for()
        assert len(json.loads(file.read_text())["3"]["symmetries_discrete"]) == 1
    finally:
        server.stop()
