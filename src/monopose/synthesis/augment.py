"""What a camera does to a picture and a renderer does not: colour, blur, noise, compression, resolution, patches.

Images are (H, W, 3) uint8 RGB numpy arrays; every function takes a `numpy.random.Generator`.
"""

import cv2
import numpy as np
from numpy.random import Generator


def photometric(image: np.ndarray, rng: Generator, strength: float = 1.0) -> np.ndarray:
    """Random brightness, contrast, gamma, saturation, hue, white balance; now and then grey.

    Args:
        image: (H, W, 3), uint8.
        rng: source of randomness.
        strength: 0 changes nothing, 1 is the default range.
    """
    x: np.ndarray = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        gain = 1 + strength * rng.uniform(-0.35, 0.35)
        balance = 1 + strength * rng.uniform(-0.12, 0.12, 3)
        x = x * (gain * balance).astype(np.float32) + np.float32(strength * rng.uniform(-0.08, 0.08))
    if rng.random() < 0.6:
        mean = x.mean()
        x = (x - mean) * np.float32(1 + strength * rng.uniform(-0.4, 0.5)) + mean
    if rng.random() < 0.6:
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        x = grey[..., None] + (x - grey[..., None]) * np.float32(1 + strength * rng.uniform(-0.8, 0.6))
    if rng.random() < 0.3:
        hsv = cv2.cvtColor(np.clip(x, 0, 1), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + strength * rng.uniform(-12, 12)) % 360
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    x = np.clip(x, 0, 1)
    if rng.random() < 0.4:
        x = x ** np.float32(np.exp(strength * rng.uniform(-0.35, 0.35)))
    if rng.random() < 0.03 * strength:
        x = np.repeat(x.mean(-1, keepdims=True), 3, -1)
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def resolution(image: np.ndarray, native: float) -> np.ndarray:
    """Lose the detail that a crop of `native` pixels a side does not have: shrink by area, enlarge bilinearly."""
    height, width = image.shape[:2]
    scale = native / width
    if scale >= 1:
        return image
    small = (max(int(width * scale), 8), max(int(height * scale), 8))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)


def blur(image: np.ndarray, rng: Generator, pixel: float = 1.0) -> np.ndarray:
    """Defocus or motion, measured in pixels of the original photo, `pixel` wide each in this image."""
    if rng.random() < 0.5:
        sigma = rng.uniform(0.2, 1.1) * pixel
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.15:
        length = int(rng.integers(2, 6) * max(pixel, 1)) | 1
        kernel: np.ndarray = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D((length // 2, length // 2), rng.uniform(0, 180), 1)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        image = cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6))
    if rng.random() < 0.2:
        soft = cv2.GaussianBlur(image, (0, 0), pixel)
        image = cv2.addWeighted(image, 1 + (a := rng.uniform(0.3, 1.5)), soft, -a, 0)
    return image


def noise(image: np.ndarray, rng: Generator, pixel: float = 1.0) -> np.ndarray:
    """Sensor noise, grains of `pixel` pixels, then JPEG compression."""
    height, width = image.shape[:2]
    if rng.random() < 0.7:
        shape = (max(int(height / max(pixel, 1)), 4), max(int(width / max(pixel, 1)), 4), 3)
        grain: np.ndarray = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(1, 10))
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
        image = np.clip(image.astype(np.float32) + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        image = cv2.imdecode(coded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return image


def light_field(size: tuple[int, int], rng: Generator) -> np.ndarray:
    """A smooth random brightness pattern around 1, (H, W, 1): cast shadows and uneven light, roughly."""
    coarse = rng.uniform(0.45, 1.35, (int(rng.integers(2, 6)), int(rng.integers(2, 6)))).astype(np.float32)
    field = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.3:  # one hard edge, as a shadow has
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
        y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j].astype(np.float32)
        field = np.where(np.cos(angle) * x + np.sin(angle) * y > offset, field, field * np.float32(rng.uniform(0.4, 0.8)))
    return field[..., None]


def paint(points: np.ndarray, diameter: float, rng: Generator) -> np.ndarray:
    """Random colours for a surface whose own nobody knows: one colour, or up to three in stripes and spots.

    Args:
        points: (n, 3), coordinates in the object's own frame, so that the paint stays on the object as it turns.
        diameter: of the object, in the same unit.
        rng: source of randomness.

    Returns:
        (n, 3), RGB in [0.05, 0.95], float32.
    """
    grey = rng.uniform(0.05, 0.95, (3, 1))
    colours = np.clip(grey + rng.uniform(-0.5, 0.5, (3, 3)) * rng.uniform(0, 1), 0.05, 0.95).astype(np.float32)
    if rng.random() < 0.4:
        return np.broadcast_to(colours[0], points.shape).copy()
    waves = rng.standard_normal((3, 2, 3)) * rng.uniform(2, 12) / diameter  # three sums of two waves each
    phases = rng.uniform(0, 2 * np.pi, (3, 2))
    strength = np.sin(np.einsum("nk,cwk->ncw", points, waves) + phases).sum(-1)
    return colours[strength.argmax(-1)]


def patches(image: np.ndarray, rng: Generator, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cover up to three rectangles or ellipses with pixels of `fill`: occluders without a model.

    Args:
        image, fill: (H, W, 3), uint8.

    Returns:
        the image, and the covered pixels (H, W), bool.
    """
    height, width = image.shape[:2]
    covered = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        half = (int(rng.uniform(0.04, 0.2) * width), int(rng.uniform(0.04, 0.2) * height))
        if rng.random() < 0.5:
            cv2.ellipse(covered, centre, half, rng.uniform(0, 180), 0, 360, 1, -1)
        else:
            corners = cv2.boxPoints((centre, (2 * half[0], 2 * half[1]), rng.uniform(0, 180)))
            cv2.fillConvexPoly(covered, corners.astype(np.int32), 1)
    mask = covered.astype(bool)
    paint = fill if rng.random() < 0.6 else np.broadcast_to(rng.integers(0, 256, 3, np.uint8), fill.shape)
    return np.where(mask[..., None], paint, image), mask


def background_patch(photo: np.ndarray, size: tuple[int, int], rng: Generator) -> np.ndarray:
    """A random part of a photo, flipped and turned at random, resized to `size` (h, w)."""
    height, width = photo.shape[:2]
    aspect = size[1] / size[0]
    share = rng.uniform(0.25, 1.0)
    h = int(min(height, width / aspect) * share)
    w = int(h * aspect)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    patch = photo[y : y + max(h, 2), x : x + max(w, 2)]
    flipped = rng.random() < 0.5
    interpolation = cv2.INTER_AREA if patch.shape[0] > size[0] else cv2.INTER_LINEAR
    patch = cv2.resize(patch, (size[1], size[0]), interpolation=interpolation)
    return np.ascontiguousarray(patch[:, ::-1]) if flipped else patch


def procedural_background(size: tuple[int, int], rng: Generator) -> np.ndarray:
    """A background where there are no photos: gradients, stripes, checkers and blobs in random colours, (H, W, 3)."""
    height, width = size
    colours = rng.uniform(0, 255, (4, 3)).astype(np.float32)
    coarse = rng.uniform(0, 255, (int(rng.integers(2, 9)), int(rng.integers(2, 9)), 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    kind = rng.integers(0, 4)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 80)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if kind == 1:
        image = np.where((u // period % 2 == 0)[..., None], image, colours[0])
    elif kind == 2:
        image = np.where(((u // period + v // period) % 2 == 0)[..., None], image, colours[0])
    elif kind == 3:
        fine = rng.uniform(0, 1, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
        grain = cv2.GaussianBlur(cv2.resize(fine, (width, height)), (0, 0), rng.uniform(0.7, 4))
        image = image * (0.6 + 0.8 * grain[..., None])
    image = np.ascontiguousarray(np.clip(image, 0, 255))
    for _ in range(rng.integers(0, 12)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(rng.uniform(4, width / 4)), int(rng.uniform(4, height / 4)))
        colour = tuple(float(c) for c in rng.uniform(0, 255, 3))
        if rng.random() < 0.5:
            cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1)
        else:
            corners = cv2.boxPoints((centre, axes, rng.uniform(0, 180))).astype(np.int32)
            cv2.fillConvexPoly(image, corners, colour)
    return np.clip(image, 0, 255).astype(np.uint8)
