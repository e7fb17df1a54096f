import json
import math
import shutil
import struct
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from monopose.io import images, limits
from monopose.io.cameras import ImageWarning, read_camera
from monopose.io.images import (
    as_frame,
    from_array,
    iterate_frames,
    iterate_source,
    make_frame,
    read_frame,
    read_image,
    undistort,
)
from monopose.types import Camera


@pytest.fixture(autouse=True)
def _no_silent_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageWarning)
        yield


def _array(h=4, w=6):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def _save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# pictures


def test_rgb_png_is_exact(tmp_path):
    array = _array()
    image = read_image(_save(tmp_path / "a.png", array))
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(array).permute(2, 0, 1))


def test_huge_pictures_take_two_bytes_a_value_and_lose_none(tmp_path, monkeypatch):
    array = np.arange(3 * 256, dtype=np.uint8).reshape(16, 16, 3)
    lens = Camera(torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]), (16, 16), torch.tensor([0.1, 0, 0, 0, 0]))
    as_usual = read_frame(_save(tmp_path / "a.png", array), lens).image
    monkeypatch.setattr(images, "HUGE", 256)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.float16
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(array).permute(2, 0, 1))
    seen = read_frame(tmp_path / "a.png", lens).image
    assert seen.dtype == torch.float16
    torch.testing.assert_close(seen.float(), as_usual, atol=1e-3, rtol=0)


def test_grey_and_palette_become_rgb(tmp_path):
    grey = _array()[..., 0]
    image = read_image(_save(tmp_path / "grey.png", grey))
    assert image.shape == (3, 4, 6)
    assert torch.equal(image[0], image[2])
    assert torch.equal((image[0] * 255).round().byte(), torch.from_numpy(grey))
    Image.fromarray(_array()).quantize(8).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (3, 4, 6)
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert set(read_image(tmp_path / "bits.png").unique().tolist()) == {0.0, 1.0}


def test_alpha_is_laid_on_grey_with_a_warning(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (255, 0, 0, 0)
    rgba[0, 2] = (254, 0, 0, 128)
    _save(tmp_path / "a.png", rgba)
    with pytest.warns(ImageWarning, match=r"a\.png has transparent pixels; they were laid on middle grey"):
        image = read_image(tmp_path / "a.png")
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    assert (image[:, 0, 1] * 255).tolist() == [128, 128, 128]
    assert (image[:, 0, 2] * 255).tolist() == pytest.approx([191, 64, 64], abs=1)
    rgba[..., 3] = 255
    assert read_image(_save(tmp_path / "opaque.png", rgba))[0].tolist() == [[1, 1, pytest.approx(254 / 255)]]  # no warning


def test_sixteen_bit_is_scaled_with_a_warning(tmp_path):
    _save(tmp_path / "a.png", np.array([[0, 65535, 32768]], np.uint16))
    with pytest.warns(ImageWarning, match=r"one channel of 16 bit, values 0 to 65535; .* If it is a depth map"):
        image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 1, 3)
    assert image[1, 0].tolist() == pytest.approx([0, 1, 0.5], abs=1e-4)


def test_sixteen_bit_rgb(tmp_path):
    values = np.zeros((1, 2, 3), np.uint16)
    values[0, 1] = (65535, 0, 32768)  # R, G, B
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    assert read_image(tmp_path / "a.png")[:, 0, 1].tolist() == pytest.approx([1, 0, 0.5], abs=3e-3)


def test_float_image_outside_its_range_is_an_error(tmp_path):
    _save(tmp_path / "a.tif", np.array([[0.0, 3.5]], np.float32))
    with pytest.raises(ValueError, match=r"a\.tif has values from 0 to 3\.5, expected 0 to 1"):
        read_image(tmp_path / "a.tif")


def test_exif_rotation_is_applied_and_reported(tmp_path):
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, 8:] = 255  # right half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that this has to be turned clockwise
    _save(tmp_path / "a.png", array, exif=exif)
    with pytest.warns(
        ImageWarning, match=r"a\.png was turned by its EXIF orientation 6 from 16x8 to 8x16; the camera has to be"
    ):
        image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 16, 8)
    assert image[:, :8].max() == 0  # clockwise: what was left is on top
    assert image[:, 8:].min() == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image(tmp_path, suffix):
    path = _save(tmp_path / f"a.{suffix}", _array(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix} is a broken or cut off image .*copy it again"):
        read_image(path)


def test_an_image_beyond_all_sizes_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = _save(tmp_path / "a.png", np.zeros((1300, 1300), np.uint8))
    path.write_bytes(path.read_bytes()[:60])  # nothing to decode
    monkeypatch.setenv("MONOPOSE_MAX_MEGAPIXELS", "1")
    with pytest.raises(ValueError, match=r"a\.png asks for 1\.69 megapixels .*set the environment variable MONOPOSE_MAX_MEGAP"):
        read_image(path)


def test_a_raised_limit_lets_in_more_than_pillow_would(tmp_path, monkeypatch):
    path = _save(tmp_path / "a.png", _array(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice that
    assert read_image(path).shape == (3, 64, 64)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(("orientation", "message"), [(0, None), (1, None), (9, "EXIF orientation 9, which does not exist")])
def test_orientations_that_turn_nothing(tmp_path, orientation, message):
    array, exif = _array(), Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / "a.png", array, exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImageWarning)
        image = read_image(path)
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(array).permute(2, 0, 1))
    assert len(caught) == (message is not None)
    assert all(message in str(w.message) for w in caught)


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path):
    _save(tmp_path / "a.png", np.array([[0, 4095, 2048]], np.uint16))
    with pytest.warns(ImageWarning, match=r"one channel of 12 bit, values 0 to 4095; they were divided by 4095"):
        assert read_image(tmp_path / "a.png")[0, 0].tolist() == pytest.approx([0, 1, 0.5], abs=1e-3)


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_files_of_several_pictures_are_named(tmp_path, suffix):
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
    with pytest.warns(ImageWarning, match=r"holds 2 pictures, the first is taken"):
        assert (read_image(tmp_path / f"a.{suffix}") * 255).round().unique().tolist() == [10]


def test_endings_of_pictures(tmp_path):
    array = _array(16, 16)
    _save(tmp_path / "1.jfif", array, format="JPEG", quality=100)
    _save(tmp_path / "2.ppm", array)
    (tmp_path / "3.heic").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    (tmp_path / "notes.txt").touch()
    with pytest.warns(ImageWarning, match=r"left out 3\.heic; save photos as JPEG"):
        names = [name for name, _ in iterate_source(tmp_path)]
    assert [name.rsplit("/", 1)[1] for name in names] == ["1.jfif", "2.ppm"]
    with pytest.raises(ValueError, match=r"3\.heic is not an image that can be read: it is a HEIC photo.*export it as JPEG"):
        read_image(tmp_path / "3.heic")
    for text, message in (
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("<!DOCTYPE html>", "a web page"),
    ):
        (tmp_path / "4.png").write_text(text)
        with pytest.raises(ValueError, match=rf"4\.png is not an image that can be read: it is {message}"):
            read_image(tmp_path / "4.png")


@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_turned_videos_are_upright_and_named(tmp_path, degrees, corner):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255  # upper left
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    writer.write(picture)
    writer.release()
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    c, s = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    at = data.index(b"tkhd") + 44  # the matrix of the track
    data[at : at + 36] = struct.pack(">9i", c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.warns(ImageWarning, match=rf"a is turned by its rotation tag of {degrees} degrees; the camera"):
        (_, image), *_ = iterate_source(tmp_path / "a.mp4")
    assert image.shape == ((3, 48, 64) if degrees == 180 else (3, 64, 48))
    halves = image.mean(0).unflatten(1, (2, -1)).unflatten(0, (2, -1)).mean((1, 3))
    assert divmod(int(halves.argmax()), 2) == corner


def test_what_is_not_an_image(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png is not an image that can be read: it is empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello world")
    with pytest.raises(ValueError, match=r"starts with b'hello wo'; expected PNG"):
        read_image(tmp_path / "text.png")
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a\.mp4 is a video"):
        read_image(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match=r"no image at .*txt\.png; did you mean .*text\.png\?"):
        read_image(tmp_path / "txt.png")


def test_from_array_says_what_it_expects():
    with pytest.raises(ValueError, match=r"\(H, W, 3\) of uint8.* got \(4, 6\) of float64"):
        from_array(np.zeros((4, 6)))


# cameras

K = [[600.0, 0.0, 320.0], [0.0, 610.0, 240.0], [0.0, 0.0, 1.0]]
FLAT = [v for row in K for v in row]


def _write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


ROS_FILE = """
image_width: 640
image_height: 480
camera_name: narrow
camera_matrix: {rows: 3, cols: 3, data: [600.0, 0.0, 320.0, 0.0, 610.0, 240.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0.05]}
"""
ROS_ECHO = """header: {frame_id: camera}
height: 480
width: 640
distortion_model: plumb_bob
d: [0.1, -0.2, 0.001, 0.002, 0.05]
k: [600.0, 0.0, 320.0, 0.0, 610.0, 240.0, 0.0, 0.0, 1.0]
---
"""
ROS_1_ECHO = ROS_ECHO.replace("d: [", "D: [").replace("k: [", "K: [")
BOP = {"fx": 600, "fy": 610, "cx": 320, "cy": 240, "width": 640, "height": 480, "depth_scale": 0.1}
MEGAPOSE = {"K": K, "resolution": [480, 640]}


@pytest.mark.parametrize(
    "content, distorted",
    [(BOP, 0), (MEGAPOSE, 0), (ROS_FILE, 1), (ROS_ECHO, 1), (ROS_1_ECHO, 1)],
    ids=["bop", "mega", "ros", "echo", "ros1"],
)
def test_camera_formats(tmp_path, content, distorted):
    camera = read_camera(_write(tmp_path / "camera.json", content))
    assert torch.equal(camera.K, torch.tensor(K))
    assert camera.size == (480, 640)
    if distorted:
        assert camera.distortion is not None
        torch.testing.assert_close(camera.distortion, torch.tensor([0.1, -0.2, 0.001, 0.002, 0.05]))
    else:
        assert camera.distortion is None


def test_zero_distortion_is_none(tmp_path):
    text = ROS_ECHO.replace("[0.1, -0.2, 0.001, 0.002, 0.05]", "[0.0, 0.0, 0.0, 0.0, 0.0]")
    assert read_camera(_write(tmp_path / "c.yaml", text)).distortion is None
    assert (
        read_camera(_write(tmp_path / "c.yaml", ROS_ECHO.replace("[0.1, -0.2, 0.001, 0.002, 0.05]", "[]"))).distortion is None
    )


def test_scene_camera(tmp_path):
    other = [*FLAT[:2], 300.0, *FLAT[3:]]
    path = _write(tmp_path / "scene_camera.json", {"3": {"cam_K": FLAT, "depth_scale": 1.0}, "7": {"cam_K": other}})
    assert torch.equal(read_camera(path, im_id=3, size=(480, 640)).K, torch.tensor(K))
    assert read_camera(path, im_id=7, size=(480, 640)).K[0, 2] == 300
    with pytest.raises(ValueError, match=r"cameras for the images 3, 7, not for image 4; give im_id="):
        read_camera(path, im_id=4, size=(480, 640))
    with pytest.raises(ValueError, match="does not say how large its images are"):
        read_camera(path, im_id=3)
    _save(tmp_path / "000007.png", _array(480, 640))
    assert read_frame(tmp_path / "000007.png", path).camera.K[0, 2] == 300
    _write(path, {"3": {"cam_model": {"projection_model_type": "fisheye"}}})
    with pytest.raises(ValueError, match=r"image 3: no 'cam_K' but cam_model; only pinhole"):
        read_camera(path, size=(480, 640))


@pytest.mark.parametrize(
    "content, message",
    [
        ({k: v for k, v in BOP.items() if k != "fy"}, r"camera\.json has no 'fy'; it has fx, cx, cy, width"),
        ({k: v for k, v in BOP.items() if k != "width"}, r"has no 'width'"),
        ({**BOP, "fx": "wide"}, r"'fx' should be 1 number, got 'wide'"),
        ({**BOP, "dist_coeffs": [-3000, 0, 0, 0]}, r"moves points half way to the corners by .* pixels, which no lens does"),
        ({**BOP, "fx": -600}, r"camera\.json: K needs positive focal lengths in pixels, got fx -600"),
        ({"K": K}, r"does not say how large its images are"),
        ({"K": FLAT[:8], "resolution": [480, 640]}, r"'k' should be 9 numbers"),
        ({"K": [list(row) for row in zip(*K)], "resolution": [480, 640]}, r"it is transposed; write it row by row"),
        ({"a": 1, "b": 2}, r"is no camera file: it has the keys a, b; expected fx, fy"),
        ({}, r"it has the keys \(none\)"),
        ([1, 2], r"should hold 9 or 12 numbers, a matrix row by row: got 2"),
        ("", r"got nothing|got NoneType"),
        ('{"fx": 1,', r"is not valid JSON \(line 1.*expected a camera file in JSON or YAML"),
        (ROS_FILE.replace("plumb_bob", "equidistant"), r"distortion_model 'equidistant' is not supported"),
        (ROS_ECHO.replace("0.002, 0.05", "0.002, 0.05, 1.0"), r"'d' should hold 4, 5 or 8 coefficients .*, got 6"),
        (ROS_FILE.replace("image_width: 640\n", ""), r"has no 'image_width'; it has image_height"),
    ],
)
def test_bad_camera_files(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_camera(_write(tmp_path / "camera.json", content))


def test_swapped_resolution_is_noticed(tmp_path):
    wide = [[600.0, 0.0, 900.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]
    with pytest.warns(ImageWarning, match=r"principal point \(900\.0, 240\.0\) lies outside the 480x1800 image .*swapped"):
        read_camera(_write(tmp_path / "camera.json", {"K": wide, "resolution": [1800, 480]}))


def test_camera_file_that_is_an_image_or_missing(tmp_path):
    with pytest.raises(ValueError, match=r"is an image, expected a camera file .*swapped"):
        read_camera(_save(tmp_path / "photo.png", _array()))
    with pytest.raises(FileNotFoundError, match="no camera file at"):
        read_camera(tmp_path / "camera.json")


# frames


def test_frame_with_camera(tmp_path):
    _save(tmp_path / "photo.png", _array(480, 640))
    frame = read_frame(tmp_path / "photo.png", _write(tmp_path / "camera.json", BOP))
    assert frame.camera.size == (480, 640) == tuple(frame.image.shape[1:])
    assert frame.path.endswith("photo.png")
    assert torch.equal(frame.camera.K, read_frame(tmp_path / "photo.png", frame.camera).camera.K)


def test_camera_of_another_size(tmp_path):
    _save(tmp_path / "photo.jpg", _array(360, 640))
    content = {"fx": 1000, "fy": 1000, "cx": 639.5, "cy": 359.5, "width": 1280, "height": 720}
    camera = _write(tmp_path / "camera.json", content)
    with pytest.raises(
        ValueError, match=r"^camera\.json is for 1280x720 but photo\.jpg is 640x360; pass --resize-camera to scale K$"
    ):
        read_frame(tmp_path / "photo.jpg", camera)
    K_half = read_frame(tmp_path / "photo.jpg", camera, resize_camera=True).camera.K
    torch.testing.assert_close(K_half, torch.tensor([[500, 0, 319.5], [0, 500, 179.5], [0, 0, 1]]))


def test_crop_and_turn_are_not_a_resize():
    camera = Camera(torch.tensor(K), (480, 640))
    with pytest.raises(
        ValueError, match="640x480 but the image is 480x640: height and width are swapped; was the picture turned"
    ):
        make_frame(torch.zeros(3, 640, 480), camera, resize_camera=True)
    with pytest.raises(ValueError, match="another aspect ratio, so the picture was cropped"):
        make_frame(torch.zeros(3, 400, 640), camera, resize_camera=True)
    assert make_frame(torch.zeros(3, 333, 444), camera, resize_camera=True).camera.size == (333, 444)
    assert make_frame(torch.zeros(3, 101, 134), camera, resize_camera=True).camera.size == (101, 134)  # rounded to pixels


def test_field_of_view():
    frame = make_frame(torch.zeros(3, 480, 640), None, fov_deg=90)
    assert frame.camera.K[0, 0] == pytest.approx(320)
    assert frame.camera.K[0, 2] == pytest.approx(319.5)
    with pytest.raises(ValueError, match=r"both a camera .*give one of them"):
        make_frame(torch.zeros(3, 480, 640), frame.camera, fov_deg=90)


def test_no_camera_hints_at_exif(tmp_path):
    _save(tmp_path / "a.png", _array())
    with pytest.raises(
        ValueError, match=r"a\.png needs a camera: give a camera file, or the horizontal field of view in degrees$"
    ):
        read_frame(tmp_path / "a.png")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    _save(tmp_path / "b.jpg", _array(), exif=exif)
    fov = round(math.degrees(2 * math.atan(18 / 28)))
    with pytest.raises(ValueError, match=rf"28 mm \(35 mm equivalent\) suggests --fov {fov}, a guess"):
        read_frame(tmp_path / "b.jpg")
    exif[ExifTags.Base.Orientation] = 6  # held upright: the horizontal side is the short one
    _save(tmp_path / "c.jpg", _array(), exif=exif)
    fov = round(math.degrees(2 * math.atan(12 / 28)))
    with pytest.warns(ImageWarning), pytest.raises(ValueError, match=rf"suggests --fov {fov}, a guess"):
        read_frame(tmp_path / "c.jpg")


def test_undistortion_puts_points_where_a_pinhole_sees_them():
    """A dot drawn where OpenCV's model says the lens sees a point moves to where K alone projects it."""
    K_ = torch.tensor(K)
    distortion = torch.tensor([0.2, -0.1, 0.002, -0.001, 0.0])
    point = np.array([[0.25, -0.2, 1.0]])
    seen = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K_.double().numpy(), distortion.double().numpy())[0].reshape(2)
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    image = torch.exp(-((u - seen[0]) ** 2 + (v - seen[1]) ** 2) / 18).float().expand(3, -1, -1)
    frame = make_frame(image, Camera(K_, (480, 640), distortion))
    assert frame.camera.distortion is None
    weight = frame.image[0] / frame.image[0].sum()
    centre = torch.stack([(weight * u).sum(), (weight * v).sum()])
    ideal = torch.tensor([600 * 0.25 + 320, 610 * -0.2 + 240])
    assert np.linalg.norm(seen - ideal.numpy()) > 1.5  # the lens matters here
    torch.testing.assert_close(centre, ideal, atol=0.1, rtol=0)
    assert undistort(image, Camera(K_, (480, 640))) is image


# sources


def test_folder_in_the_order_of_its_numbers(tmp_path):
    for name in ("im10.png", "im9.jpg", "im1.png"):
        _save(tmp_path / name, _array())
    (tmp_path / "notes.txt").touch()
    assert [name.rsplit("/", 1)[1] for name, _ in iterate_source(tmp_path)] == ["im1.png", "im9.jpg", "im10.png"]
    frames = list(iterate_frames(tmp_path, fov_deg=60))
    assert [name for name, _ in frames] == ["im1", "im9", "im10"]
    assert frames[0][1].camera.size == (4, 6)


def test_single_image_and_nothing(tmp_path):
    path = _save(tmp_path / "a.png", _array())
    ((name, image),) = iterate_source(path)
    assert name == str(path)
    assert image.shape == (3, 4, 6)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no images in the folder .*sub \(it holds \.txt\); expected \.png"):
        list(iterate_source(tmp_path / "sub"))
    with pytest.raises(FileNotFoundError, match=r"no image at .*b\.png"):
        list(iterate_source(tmp_path / "b.png"))


def test_video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG videos")
    for red in (0, 120, 240):
        writer.write(np.full((48, 64, 3), (0, 0, red), np.uint8))
    writer.release()
    items = list(iterate_source(path))
    assert [name for name, _ in items] == ["clip_000000", "clip_000001", "clip_000002"]
    assert items[2][1][0].mean() == pytest.approx(240 / 255, abs=0.03)  # red first
    assert items[2][1][2].mean() == pytest.approx(0, abs=0.03)
    path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"cannot open .*clip\.avi; is it whole"):
        list(iterate_source(path))


def test_stems_name_frames_unless_they_repeat(tmp_path):
    for name in ("a.png", "b.jpg"):
        _save(tmp_path / name, _array(8, 8))
    assert [name for name, _ in iterate_frames(tmp_path, fov_deg=60)] == ["a", "b"]
    _save(tmp_path / "B.png", _array(8, 8))  # the same file name where case does not count
    assert sorted(name for name, _ in iterate_frames(tmp_path, fov_deg=60)) == ["B.png", "a.png", "b.jpg"]


def test_a_camera_file_is_parsed_once(tmp_path, monkeypatch):
    for n in (3, 4, 5):
        _save(tmp_path / f"{n:06d}.png", _array(8, 16))
    per_image = {str(n): {"cam_K": [20.0 + n, 0, 8, 0, 20 + n, 4, 0, 0, 1]} for n in (3, 4, 5)}
    file = tmp_path / "scene_camera.json"
    file.write_text(json.dumps(per_image))
    opened = []
    parse = images.parse_camera
    monkeypatch.setattr(images, "parse_camera", lambda path: opened.append(path) or parse(path))
    focal = [float(frame.camera.K[0, 0]) for _, frame in iterate_frames(tmp_path, file)]
    assert focal == [23, 24, 25]  # each picture has its own camera all the same
    assert opened == [file]
    with pytest.raises(ValueError, match=r"both a camera \(scene_camera\.json\) and a field of view"):
        list(iterate_frames(tmp_path, file, fov_deg=60))
    file.write_text(json.dumps({"K": [[100, 0, 15], [0, 100, 7], [0, 0, 1]], "resolution": [16, 32]}))
    with pytest.raises(ValueError, match=r"scene_camera\.json is for 32x16 but 000003\.png is 16x8"):
        list(iterate_frames(tmp_path, str(file)))


# live videos


class Source:
    """A camera, or a file, that gives so many pictures."""

    def __init__(self, count, promised=0, grey=False):
        self.left, self.promised, self.shape = count, promised, (4, 6) if grey else (4, 6, 3)

    def isOpened(self):
        return True

    def set(self, *_):
        return True

    def get(self, what):
        return self.promised if what == cv2.CAP_PROP_FRAME_COUNT else 0

    def read(self):
        self.left -= 1
        return (True, np.full(self.shape, 51, np.uint8)) if self.left >= 0 else (False, None)

    def release(self):
        pass


def test_a_camera_that_is_dropped_ends_the_pictures_and_says_so(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Source(3))
    with pytest.warns(ImageWarning, match="camera0 gave no further picture after 3"):
        assert [name for name, _ in iterate_source(0)] == ["camera0_000000", "camera0_000001", "camera0_000002"]


def test_a_video_that_breaks_off_says_so(tmp_path, monkeypatch):
    (tmp_path / "cut.mp4").write_bytes(b"x")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Source(3, promised=10))
    with pytest.warns(ImageWarning, match="breaks off after 3 of 10"):
        assert len(list(iterate_source(tmp_path / "cut.mp4"))) == 3


def test_a_grey_video_comes_in_three_channels(tmp_path, monkeypatch):
    (tmp_path / "grey.mp4").write_bytes(b"x")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Source(1, promised=1, grey=True))
    ((_, image),) = iterate_source(tmp_path / "grey.mp4")
    assert torch.equal(image, torch.full((3, 4, 6), 0.2))


def test_an_address_is_a_live_video_and_its_password_is_not_shown(monkeypatch):
    asked = []

    class Closed(Source):
        def isOpened(self):
            return False

    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: asked.append(given) or Closed(0))
    assert images.is_live("rtsp://host/stream")
    assert images.is_live("0")
    assert not images.is_live("video.mp4")
    with pytest.raises(ValueError, match="cannot open rtsp://host/stream; is it reachable") as raised:
        next(iterate_frames("rtsp://me:secret@host/stream", fov_deg=60))
    assert "secret" not in str(raised.value)
    assert asked[0][1] == cv2.CAP_FFMPEG
    assert images.WAITING in asked[0][2]  # a stalled one ends


# whatever people have


ROWS = [[500.0, 0.0, 2.5], [0.0, 500.0, 1.5], [0.0, 0.0, 1.0]]


def test_pictures_of_every_kind_are_the_same_frame(tmp_path):
    array = _array()
    path = _save(tmp_path / "a.png", array)
    frames = [as_frame(source, ROWS) for source in (path, str(path), Image.open(path), array, array[..., ::-1][..., ::-1])]
    for frame in frames:
        assert torch.equal(frame.image, frames[0].image)
        assert frame.camera.K.tolist() == ROWS
    assert frames[0].path == str(path)
    assert as_frame(frames[0]) is frames[0]
    rgba = Image.fromarray(np.dstack([array, np.full((4, 6, 1), 255, np.uint8)]))
    assert torch.equal(as_frame(rgba, ROWS).image, frames[0].image)


def test_cameras_of_every_kind_are_the_same(tmp_path):
    file = tmp_path / "camera.json"
    file.write_text(json.dumps({"K": ROWS, "resolution": [4, 6]}))
    for camera in (file, str(file), Camera(torch.tensor(ROWS), (4, 6)), ROWS, np.array(ROWS), torch.tensor(ROWS)):
        assert as_frame(_array(), camera).camera.K.tolist() == ROWS
    seen = as_frame(_array(), fov_deg=60).camera.K
    assert float(seen[0, 0]) == pytest.approx(3 / math.tan(math.radians(30)))
    assert torch.equal(as_frame(_array(), default_fov=60).camera.K, seen)
    assert as_frame(_array(), ROWS, default_fov=60).camera.K.tolist() == ROWS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            np.zeros((4, 6, 3), np.float32),
            r"give \(255 \* image\)\.round\(\)\.astype\(np\.uint8\)\. Pictures of OpenCV are BGR",
        ),
        (np.full((4, 6, 3), 200.0), r"give image\.astype\(np\.uint8\)"),
        (np.full((4, 6, 3), 60000, np.uint16), r"give \(image / 257\)\.astype\(np\.uint8\)"),
        (np.zeros((3, 4, 6), np.uint8), r"channels come first; give image\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 6), np.uint8), "one channel; give np.repeat"),
        (np.zeros((4, 6, 4), np.uint8), r"give image\[\.\.\., :3\] if it is RGBA, image\[\.\.\., 2::-1\] if it is BGRA"),
        (np.zeros((2, 4, 6, 3), np.uint8), "one picture at a time"),
        (np.zeros((0, 6, 3), np.uint8), r"expected an RGB array \(H, W, 3\) of uint8"),
        (torch.zeros(3, 4, 6), r"give monopose\.Frame\(image, monopose\.Camera\(K, \(height, width\)\)\)"),
        (b"\xff\xd8", r"give PIL\.Image\.open\(file\)"),
        (["a.png"], "one picture at a time"),
        (0, r"for name, frame in monopose\.iterate_frames\(0, camera=\.\.\.\)"),
        (None, "got NoneType; give a file name"),
        ("https://example.org/a.png", "download the picture first"),
        ("nothing.png", "no image at nothing.png"),
        (".", r"is a folder; for all its pictures: for name, frame in monopose\.iterate_frames\('\.', camera=\.\.\.\)"),
    ],
)
def test_what_is_no_picture_names_the_right_call(source, message):
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        as_frame(source, ROWS)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (np.eye(3)[None], r"must be \(3, 3\), in pixels, got \(1, 3, 3\)"),
        (np.zeros((3, 4)), r"a projection matrix P\? Give P\[:, :3\]"),
        ((500, 500, 2.5, 1.5), r"fx, fy, cx, cy\? Give \[\[fx, 0, cx\]"),
        (60.0, r"a field of view\? Give fov_deg="),
        (np.array(ROWS).T, "it is transposed"),
        ({"fx": 500}, r"camera= must be a camera file, a monopose\.Camera or K"),
        (None, "needs a camera"),
        ("nothing.json", "no camera file at nothing.json"),
        (Camera(torch.tensor(ROWS), (8, 12)), "12x8"),
    ],
)
def test_what_is_no_camera_says_what_it_looks_like(camera, message):
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        as_frame(_array(), camera)


def test_a_frame_has_its_camera():
    with pytest.raises(ValueError, match="a Frame has its camera"):
        as_frame(as_frame(_array(), ROWS), ROWS)
    with pytest.raises(ValueError, match="give one of them"):
        as_frame(_array(), ROWS, fov_deg=60)


def test_what_only_looks_like_a_picture_in_a_folder_stops_nothing(tmp_path):
    """A link to nothing, a folder, a picture that is gone when its turn comes: each is for the caller to name and go on."""
    Image.new("RGB", (32, 24)).save(tmp_path / "b.png")
    shutil.copy(tmp_path / "b.png", tmp_path / "d.png")
    (tmp_path / "a.png").symlink_to("gone.png")
    (tmp_path / "c.png").mkdir()
    listed = list(images.listed_frames(tmp_path, fov_deg=60))
    (tmp_path / "d.png").unlink()
    said = {}
    for name, read in listed:
        try:
            said[name] = tuple(read().image.shape)
        except images.Unreadable as error:
            said[name] = str(error)
    assert said["b"] == (3, 24, 32)
    assert "a.png: it is a link to gone.png, which is not there" in said["a"]
    assert "c.png" in said["c"]
    assert "d.png" in said["d"]
    with pytest.raises(FileNotFoundError):  # asked for by name it is a mistake
        images.read_frame(tmp_path / "d.png", fov_deg=60)


def test_a_tiff_is_turned_aloud_and_its_width_is_the_one_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.tif", "a.png"):
        path = _save(tmp_path / name, _array(), exif=exif)
        with pytest.warns(ImageWarning, match=r"orientation 6 from 6x4 to 4x6"):
            assert images.read_image(path).shape[-2:] == (6, 4)
        with limits.picture(path, name) as opened:
            assert limits.size_as_seen(opened) == (6, 4)


def test_twelve_of_sixteen_bits_in_colour_are_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (8, 16, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "dark.png"), values)
    with pytest.warns(ImageWarning, match=r"dark\.png has 16 bit a channel and uses 12"):
        images.read_image(tmp_path / "dark.png")
    cv2.imwrite(str(tmp_path / "whole.png"), 16 * values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(images.read_image(tmp_path / "whole.png").max()) > 0.9
