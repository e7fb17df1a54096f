"""Half precision goes into geometry as it comes out of networks; it is computed in float32."""

import pytest
import torch

from monopose.geometry import boxes3d, camera, rotation, se3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    generator = torch.Generator().manual_seed(0)
    omega = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    t = (torch.rand(5, 3, generator=generator) + torch.tensor([0.0, 0.0, 2.0])).to(dtype)
    lhw = (torch.rand(5, 3, generator=generator) + 0.5).to(dtype)
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]).to(dtype)
    pixels, depth = (torch.rand(5, 7, 2, generator=generator) * 100).to(dtype), torch.ones(5, 7).to(dtype)
    R = rotation.so3_exp(omega)
    T = se3.from_rt(R, t.float()).to(dtype)
    for function, given in (
        (rotation.so3_exp, (omega,)), (rotation.so3_log, (R.to(dtype),)), (rotation.nearest_rotation, (R.to(dtype),)),
        (rotation.quat_wxyz_from_matrix, (R.to(dtype),)), (se3.log, (T,)), (se3.inverse, (T,)),
        (camera.project, (t[:, None], K)), (camera.unproject, (pixels, depth, K)), (boxes3d.project, (T, lhw, K, (240, 320))),
        (se3.perturbed, (T, 0.1, 0.01)),
    ):  # fmt: skip
        found, right = function(*given), function(*(v.float() if isinstance(v, torch.Tensor) else v for v in given))
        assert found.dtype == torch.float32, function
        assert torch.equal(found, right), function


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_crops_of_half_precision_lie_where_they_should(dtype):
    image = torch.zeros(1, 64, 1920)
    image[..., 1801:] = 1  # bfloat16 knows only every eighth pixel there
    boxes = torch.tensor([[1793.0, 0, 1809, 16]])
    crop = camera.crop_resize(image.to(dtype), boxes, (16, 16))
    assert crop.dtype == dtype
    assert torch.equal(crop.float(), camera.crop_resize(image, boxes, (16, 16)))
