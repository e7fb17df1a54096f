"""Smoothing: noise shrinks, motion stays, lost frames are left out."""

import numpy as np
import pytest
import torch

from monopose.contour import lines
from monopose.tracking.smoothing import smoothed


def path(n, noise=0.0):
    rng = np.random.default_rng(0)
    t = np.arange(n)[:, None]
    tangent = np.array([0.01, 0, 0.005, 0.05, 0.02, 0]) * t + np.array([0.001, 0, 0, 0, 0.002, 0]) * t**2
    clean = lines.moved(np.repeat(np.eye(4)[None], n, 0), np.concatenate([tangent[:, :3], np.zeros((n, 3))], 1))
    clean = lines.moved(clean, np.concatenate([np.zeros((n, 3)), 0.3 * tangent[:, 3:]], 1))
    noisy = lines.moved(clean, rng.normal(0, 1, (n, 6)) * noise)
    return [torch.from_numpy(p) for p in clean], [torch.from_numpy(p) for p in noisy]


def error(pose, true):
    return np.abs(lines.difference(pose.numpy()[None], true.numpy()[None])).max()


def test_a_motion_of_constant_acceleration_stays_as_it_is():
    clean, _ = path(7)
    assert error(smoothed(clean, 3), clean[3]) < 1e-3
    assert error(smoothed(clean, 0), clean[0]) < 1e-3


def test_noise_shrinks():
    pairs = [path(60, 0.005)]
    clean, noisy = pairs[0]
    before = np.mean([error(noisy[i], clean[i]) for i in range(5, 55)])
    after = np.mean([error(smoothed(noisy[i - 5 : i + 6], 5), clean[i]) for i in range(5, 55)])
    assert after < 0.7 * before


def test_lost_frames_are_left_out_and_a_lost_pose_is_refused():
    clean, _ = path(7)
    window = [clean[0], None, clean[2], clean[3], None, clean[5], clean[6]]
    assert error(smoothed(window, 3), clean[3]) < 1e-3
    assert smoothed([None, clean[1], clean[2]], 1) is clean[1]
    with pytest.raises(ValueError, match="lost object"):
        smoothed(window, 4)
