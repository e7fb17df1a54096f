"""Foreground maps from colours and masks."""

import numpy as np
import pytest

from monopose.contour import colours, lines, points

RED, BLUE = (200, 30, 30), (20, 40, 220)
K = np.array([[400.0, 0, 49.5], [0, 400.0, 49.5], [0, 0, 1]])


def picture(radius=30):
    v, u = np.mgrid[:100, :100]
    inside = np.hypot(u - 49.5, v - 49.5) < radius
    return np.where(inside[..., None], np.uint8(RED), np.uint8(BLUE)), inside


def test_bins_tell_colours_apart_that_differ_in_their_upper_bits():
    row = np.array([[[0, 0, 0], [15, 15, 15], [16, 0, 0], [0, 16, 0], [255, 255, 255]]], np.uint8)
    assert colours.bins(row).tolist() == [[0, 0, 256, 16, 4095]]


def test_colours_learnt_from_a_mask_give_the_mask_back():
    image, inside = picture()
    index = colours.bins(image)[None]
    noisy = np.clip(inside * 0.6 + 0.2, 0, 1)[None]
    f, b = colours.histograms_of_mask(index, noisy, 1 - noisy)
    assert f.sum() == pytest.approx(1)
    p = colours.posterior(index, f, b)[0]
    assert p[inside].min() > 0.8
    assert p[~inside].max() < 0.4


def test_pixels_that_are_to_count_for_neither_side_do_not():
    image, inside = picture()
    index = colours.bins(image)[None]
    f, b = colours.histograms_of_mask(index, inside[None].astype(float), np.zeros((1, 100, 100)))
    assert f.sum() == pytest.approx(1)
    assert b.sum() == 0


def test_colours_learnt_along_a_contour_tell_the_sides_apart():
    image, inside = picture()
    index = colours.bins(image)[None]
    found = points.from_mask(inside, np.ones(inside.shape), K, np.eye(4))
    front = np.full((1, 100, 100), np.inf, np.float32)
    f, b = colours.histograms_of_contour(index, found, np.eye(4)[None], K[None], np.zeros(1, int), front, reach=10)
    at = {name: int(colours.bins(np.array([[c]], np.uint8))[0, 0]) for name, c in (("red", RED), ("blue", BLUE))}
    assert f[0, at["red"]] > 0.99
    assert b[0, at["blue"]] > 0.99


def test_a_colour_never_seen_says_nothing():
    f = np.zeros((1, 4096))
    assert colours.posterior(np.zeros((1, 2, 2), np.uint16), f, f) == pytest.approx(0.5)


def test_two_opinions_as_one():
    a = np.array([0.5, 0.9, 0.9, 1.0, 0.0])
    b = np.array([0.3, 0.9, 0.1, 0.0, 0.0])
    assert colours.product(a, b) == pytest.approx([0.3, 0.81 / 0.82, 0.5, 0.5, 0.0])


def test_maps_are_kept_away_from_certainty():
    maps = lines.maps_of(np.array([[[0.0, 1.0, 0.5]]]))
    assert maps.probability.min() == pytest.approx(lines.CLIP)
    assert maps.probability.max() == pytest.approx(1 - lines.CLIP)
    assert np.isinf(maps.front).all()


def test_similarity_forgives_another_light_and_not_another_colour():
    size = 1 << 3 * colours.BITS
    red, brighter, green = (np.zeros((1, size)) for _ in range(3))
    for histogram, colour in ((red, (120, 20, 20)), (brighter, (136, 20, 20)), (green, (20, 120, 20))):
        histogram[0, colours.bins(np.array([[colour]], np.uint8))[0, 0]] = 1
    assert colours.similarity(red, red)[0] == pytest.approx(1)
    assert colours.similarity(red, brighter)[0] > 0.6
    assert colours.similarity(red, green)[0] < 0.01
