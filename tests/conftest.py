"""Fixtures for all tests: the optional shared data beside the checkout, threads, hypothesis without clocks."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# tests never time anything, and repeat exactly
settings.register_profile("monopose", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("monopose")

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody asks the real hub; nothing answers there

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per worker, set before torch is imported
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it after every few tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _threads():
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


def _beside(*parts: str) -> Path:
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.is_dir():
        pytest.skip(f"needs the folder {'/'.join(('shared', *parts))} beside the checkout")
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: data sets and recorded values that are not part of the repository."""
    return _beside()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets: lmo/, meshes/, backgrounds/ and others."""
    return _beside("data")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Values recorded from other programs."""
    return _beside("oracles")


@pytest.fixture
def charts(monkeypatch) -> list:
    """The matplotlib figures behind the charts that a test draws, as they come."""
    from monopose.viz import figure

    drawn: list = []
    to_image = figure.to_image
    monkeypatch.setattr(figure, "to_image", lambda fig: drawn.append(fig) or to_image(fig))
    return drawn


@pytest.fixture
def no_base(monkeypatch, tmp_path):
    """No base weights: runs that have no refiner do not refine."""
    monkeypatch.setattr("monopose.weights.BASE", tmp_path / "no base")
