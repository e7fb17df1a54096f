import pytest
import torch

from followed import SIZE


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder where contours are kept."""
    return tmp_path_factory.mktemp("views")


@pytest.fixture(scope="session")
def backdrop():
    coarse = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")[0] * 0.5
