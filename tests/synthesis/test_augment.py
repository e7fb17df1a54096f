"""Augmentation: what is promised about size, type, repetition, identity and untouched arguments."""

import numpy as np
import pytest

from monopose.synthesis import augment


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(size=(48, 64), seed=0):
    return rng(seed).integers(0, 256, (*size, 3), np.uint8)


FUNCTIONS = {
    "photometric": augment.photometric,
    "resolution": lambda image, r: augment.resolution(image, 20.0),
    "blur": augment.blur,
    "blur, large pixels": lambda image, r: augment.blur(image, r, 4.0),
    "noise": augment.noise,
    "noise, large pixels": lambda image, r: augment.noise(image, r, 4.0),
    "patches": lambda image, r: augment.patches(image, r, 255 - image)[0],
    "background": lambda image, r: augment.background_patch(image, (48, 64), r),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_seed_same_picture_and_the_argument_is_left_alone(name):
    change, image = FUNCTIONS[name], picture()
    before = image.copy()
    outputs = []
    for seed in range(12):
        out = change(image, rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert np.array_equal(out, change(image, rng(seed)))
        outputs.append(out)
    assert np.array_equal(image, before)
    if name != "resolution":
        assert len({o.tobytes() for o in outputs}) > 3


def test_strength_zero_changes_no_value():
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, -1)
    for image in (grey, picture((32, 32)), picture((32, 32), 1)):
        for seed in range(30):
            assert np.array_equal(augment.photometric(image, rng(seed), 0.0), image)


def test_photometric_is_as_often_brighter_as_darker():
    grey = np.full((8, 8, 3), 110, np.uint8)
    shifts = np.array([augment.photometric(grey, rng(seed)).mean() - 110 for seed in range(400)])
    assert abs(np.median(shifts)) < 6
    assert shifts.std() > 10


def test_resolution_keeps_what_the_camera_resolves():
    image = picture()
    for native in (64.0, 64.5, 1000.0):
        assert augment.resolution(image, native) is image
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    lost = augment.resolution(stripes, 32.0)
    assert abs(lost.astype(int) - 127.5).max() <= 1  # a stripe of one pixel is finer than half the pixels can show
    ramp = np.repeat(np.linspace(0, 252, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, -1)
    kept = augment.resolution(ramp, 32.0)
    assert abs(kept[8:-8, 8:-8].astype(int) - ramp[8:-8, 8:-8]).max() <= 2  # nothing moves


def test_blur_and_resolution_keep_a_plain_area():
    plain = np.full((32, 32, 3), 90, np.uint8)
    for seed in range(20):
        assert abs(augment.blur(plain, rng(seed), 2.0).astype(int) - 90).max() <= 1
        assert abs(augment.resolution(plain, 11.0).astype(int) - 90).max() <= 1


def test_noise_is_centred_and_bounded():
    plain = np.full((64, 64, 3), 128, np.uint8)
    outs = [augment.noise(plain, rng(seed)).astype(float) for seed in range(40)]
    assert abs(np.mean(outs) - 128) < 1
    assert max(o.std() for o in outs) < 15
    assert max(o.std() for o in outs) > 4


def test_light_field_is_smooth_positive_and_around_one():
    fields = [augment.light_field((40, 60), rng(seed)) for seed in range(60)]
    assert all(f.shape == (40, 60, 1) for f in fields)
    assert min(f.min() for f in fields) > 0
    assert 0.7 < np.mean([f.mean() for f in fields]) < 1.05


def test_patches_tell_what_they_cover():
    image, fill = picture(), np.full((48, 64, 3), 7, np.uint8)
    for seed in range(30):
        out, covered = augment.patches(image, rng(seed), fill)
        assert covered.dtype == bool
        assert np.array_equal(out[~covered], image[~covered])
        if covered.any():
            assert (out[covered] == out[covered][0]).all()  # the fill, or one colour
        assert covered.mean() < 0.9


@pytest.mark.parametrize("photo_size", [(40, 200), (200, 40), (32, 32), (33, 700)])
@pytest.mark.parametrize("size", [(16, 16), (48, 64), (90, 20)])
def test_a_patch_of_any_photo_fits_any_size(photo_size, size):
    for seed in range(6):
        patch = augment.background_patch(picture(photo_size), size, rng(seed))
        assert patch.shape == (*size, 3)
        assert patch.dtype == np.uint8


def test_procedural_backgrounds_have_structure():
    kinds = [augment.procedural_background((40, 60), rng(seed)) for seed in range(30)]
    assert all(k.shape == (40, 60, 3) and k.dtype == np.uint8 for k in kinds)
    assert min(k.std() for k in kinds) > 5
    assert len({k.tobytes() for k in kinds}) == 30


def test_paint_stays_on_the_object_and_shows_all_sorts():
    points = np.random.default_rng(0).uniform(-0.1, 0.1, (500, 3))
    counts = []
    for seed in range(60):
        colours = augment.paint(points, 0.3, rng(seed))
        assert colours.shape == (500, 3)
        assert colours.dtype == np.float32
        assert colours.min() >= 0.05
        assert colours.max() <= np.float32(0.95)
        some = np.arange(0, 500, 7)  # a point's colour does not depend on which others are seen, nor on the unit
        assert np.array_equal(colours[some], augment.paint(points[some] * 1000, 300.0, rng(seed)))
        counts.append(len(np.unique(colours, axis=0)))
    assert {1, 3} <= set(counts)
    assert max(counts) == 3
