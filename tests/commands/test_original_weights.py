"""Weights under the original systems' names: what is made of them computes what the originals compute; the rest is said."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision

from monopose import cli, weights
from monopose.commands import original_weights
from monopose.datasets.bop import writing
from monopose.objects import coordinates, probabilistic
from monopose.road import config as road_config
from monopose.road import pyramid
from monopose.road.network import Model as RoadModel
from monopose.training import warm_start
from shapes import box

SMALL = ("rot_head_net.scale_branch.", "rot_head_net.out_layer.")  # whose exponential is taken


def filled(shapes, seed=0):
    """Random tensors of these shapes that keep a deep network's numbers within bounds."""
    made, generator = {}, torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * (0.01 if name.startswith(SMALL) else 1.0)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1:
            value = value * (2 / value[0].numel()) ** 0.5
        made[name] = value if not name.endswith("num_batches_tracked") else torch.tensor(7)
    return made


@pytest.fixture(scope="module")
def cdpn():
    """The names and shapes of EPro-PnP-6DoF v1; the head of translations is cut short, since nobody looks at its shape."""
    resnet = {k: tuple(v.shape) for k, v in torchvision.models.resnet34().state_dict().items() if not k.startswith("fc.")}
    shapes = {f"backbone.{k}": v for k, v in resnet.items()}
    for stage in range(3):
        inputs = 512 if stage == 0 else 256
        for part, shape in ((0, (inputs, 256, 3, 3)), (3, (256, 256, 3, 3)), (6, (256, 256, 3, 3))):
            shapes[f"rot_head_net.features.{9 * stage + part}.weight"] = shape
            for statistic in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"rot_head_net.features.{9 * stage + part + 1}.{statistic}"] = (256,)
            shapes[f"rot_head_net.features.{9 * stage + part + 1}.num_batches_tracked"] = ()
    shapes |= {"rot_head_net.out_layer.weight": (5, 256, 1, 1), "rot_head_net.out_layer.bias": (5,)}
    shapes |= {"rot_head_net.scale_branch.weight": (2, 256), "rot_head_net.scale_branch.bias": (2,)}
    shapes |= {"trans_head_net.linears.0.weight": (2, 2), "monte_carlo_pose_loss.norm_factor": ()}
    return filled(shapes)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "models"
    sizes = {i: (0.05 + 0.001 * i, 0.06, 0.1) for i in original_weights.LINEMOD}
    writing.write_models(folder, {i: box(size, centre=(0.002, 0.0, -0.001), obj_id=i) for i, size in sizes.items()})
    return folder


def published(state, images):
    """The original's network: BGR photos in [0, 1]; coordinates and weight logits (B, 5, 64, 64), scale (B, 2)."""
    resnet = torchvision.models.resnet34()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    resnet.eval()
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images.flip(1)))))
    x = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))
    head = {k.removeprefix("rot_head_net."): v for k, v in state.items()}
    for i in range(0, 27, 3):
        w = head[f"features.{i}.weight"]
        x = F.conv_transpose2d(x, w, None, 2, 1, 1) if i % 9 == 0 else F.conv2d(x, w, None, 1, 1)
        s = [head[f"features.{i + 1}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *s).relu()
    scale = F.linear(x.mean((2, 3)), head["scale_branch.weight"], head["scale_branch.bias"]).exp()
    return F.conv2d(x, head["out_layer.weight"], head["out_layer.bias"]), scale


def test_a_converted_network_is_the_original(cdpn, models, tmp_path, capsys):
    torch.save({"state_dict": cdpn, "optimizer": {}}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    words = ["convert-weights", "epropnp-6dof", str(tmp_path / "model.pth"), "--models", str(models)]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["used"] == len(cdpn) - 1
    assert list(said["ignored"].values()) == [1]  # of the head of translations
    assert (tmp_path / "run/objects/models_info.json").is_file()
    model = weights.load_network(
        tmp_path / "run/probabilistic.safetensors", "probabilistic", probabilistic.Config, probabilistic.Model
    )
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps, scale = published(cdpn, images)
        output = model(images, torch.tensor([15]))
    for ours, theirs in ((output.coordinates, maps[:, :3]), (output.logits, maps[:, 3:]), (output.scale, scale)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert bool((model.net.head.weight == model.net.head.weight[:1]).all())  # it asks no object which it is
    # points and weights as in its lib/test.py: in photo pixels from the crop's edge on, in units of the lowest corner
    left, top, side = 120.0, 40.0, 128.0
    index = model.index_of(torch.tensor([15]))
    given = probabilistic.correspond(model, output, index, torch.tensor([[left, top, left + side, top + side]]))
    unit = side / 64
    low = torch.tensor([0.065 / 2 - 0.002, 0.06 / 2, 0.1 / 2 + 0.001])
    torch.testing.assert_close(given.points3d, maps[:, :3].flatten(2).mT * low, rtol=1e-3, atol=1e-3)
    photo = (given.points2d[0] + 0.5) * unit - 0.5 + torch.tensor([left, top])
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    torch.testing.assert_close(photo, torch.stack([left + column * unit, top + row * unit], -1).flatten(0, 1))
    w = maps[:, 3:].flatten(2)
    theirs = (w - w.mean(-1, keepdim=True)).exp().mT / 4096 * scale[:, None]  # 1 / photo pixels
    more = (
        unit * (64 * 64 / model.config.points) ** 0.5
    )  # per grid pixel; of all pixels together as much as of those in training
    torch.testing.assert_close(given.weights, more * theirs, rtol=1e-2, atol=1e-6)


def test_the_second_release_and_cdpns_first_stage_are_told_apart(cdpn, models):
    second = {k: v for k, v in cdpn.items() if not k.startswith("trans_head_net.")}
    _, config, ignored = original_weights.epropnp_6dof(second, "v2.pth", models)
    assert (config.legacy_weights, ignored) == (False, {})
    stage = {k: v for k, v in cdpn.items() if "out_layer" not in k and "scale_branch" not in k and "monte" not in k}
    stage |= {"rot_head_net.features.27.weight": torch.ones(4, 256, 1, 1), "rot_head_net.features.27.bias": torch.ones(4)}
    tensors, config, _ = original_weights.epropnp_6dof(stage, "cdpn_stage_1.pth", models)
    assert config.monte_carlo_weight == 0
    assert bool((tensors["net.head.weight"] == 1).all())
    assert not bool((tensors["weight_head.bias"] == 1).any())  # its confidence is none of the weights


def test_starting_from_them_needs_the_same_photos(tmp_path):
    config = probabilistic.Config((1,), plain_photos=True)
    weights.save(tmp_path / "a.safetensors", {"a": torch.ones(1)}, method="probabilistic", config=config, labels=(1,))
    other = SimpleNamespace(config=probabilistic.Config((1,)))
    with pytest.raises(ValueError, match="add --set plain_photos=true"):
        warm_start.start_from(other, tmp_path / "a.safetensors")


def test_what_does_not_fit_is_named(cdpn, models, tmp_path):
    for changes, message in (
        ({"rot_head_net.extra.weight": torch.zeros(1)}, "1 tensors that EPro-PnP-6DoF has not: rot_head_net.extra.weight"),
        ({"rot_head_net.features.2.weight": torch.zeros(1)}, "features.2.weight is one layer more"),
        (
            {"backbone.conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"backbone.conv1.weight is \(64, 3, 3, 3\), expected \(64, 3, 7, 7",
        ),
        ({"rot_head_net.out_layer.bias": torch.zeros(4)}, r"out_layer.bias must be \(5,\), got \(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            original_weights.epropnp_6dof(cdpn | changes, "f.pth", models)
    with pytest.raises(ValueError, match="lacks 1 tensors of the network"):
        original_weights.epropnp_6dof({k: v for k, v in cdpn.items() if k != "backbone.bn1.bias"}, "f.pth", models)

    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="a file with code in it"):
        original_weights.read_state(tmp_path / "code.pth")
    torch.save({"state_dict": {"a": torch.tensor([float("nan")])}}, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="a holds NaN"):
        original_weights.read_state(tmp_path / "nan.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        original_weights.read_state(tmp_path / "list.pth")


def test_encoder_and_pyramid_of_the_detector():
    with torch.device("meta"):
        resnet = torchvision.models.resnet101()
        own = RoadModel(road_config.v1b(pretrained=False))
    shapes = {f"backbone.{k}": tuple(v.shape) for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    for name in [k for k in shapes if k.endswith("conv2.weight") and k.split(".")[1] in ("layer3", "layer4")]:
        stem = name.removesuffix("weight") + "conv_offset."
        shapes |= {stem + "weight": (27, shapes[name][1], 3, 3), stem + "bias": (27,)}
    for i, channels in enumerate((512, 1024, 2048)):
        shapes[f"neck.lateral_convs.{i}.conv.weight"] = (256, channels, 1, 1)
        shapes[f"neck.lateral_convs.{i}.conv.bias"] = (256,)
    for i in range(5):
        shapes |= {f"neck.fpn_convs.{i}.conv.weight": (256, 256, 3, 3), f"neck.fpn_convs.{i}.conv.bias": (256,)}
    state = {k: torch.zeros(()).expand(v) for k, v in shapes.items()}
    looked_at = [k for k in shapes if k.startswith(("backbone.layer3.1.", "neck.fpn_convs.3.", "neck.fpn_convs.4."))]
    state |= filled({k: shapes[k] for k in looked_at})
    heads = ("detector.cls_convs.1.conv.conv_offset.bias", "detector.conv_emb.gn.weight", "corr_regs.1.weight", "cls_emb")
    state |= {f"bbox_head.{k}": torch.zeros(1) for k in (*heads, "pts_trans.0.attentions.0.attn.in_proj_weight")}
    tensors, config, ignored = original_weights.epropnp_det(state, "det.pth")
    assert config.dense_stride == 8
    assert [len(names) for names in ignored.values()] == [5]
    assert sum(k in tensors for k, _ in own.named_parameters()) > len(list(own.parameters())) / 2  # enough for --init
    torch.testing.assert_close(tensors["pyramid.further.1.bias"], state["neck.fpn_convs.4.conv.bias"])

    # a bottleneck with a modulated deformable convolution, as mmcv has it
    block = torchvision.models.resnet.Bottleneck(1024, 256)
    block.conv2 = pyramid.ModulatedConv(block.conv2)
    stem = "encoder.backbone.stages.3.1."
    block.load_state_dict({k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)})
    x = torch.randn(1, 1024, 6, 7, generator=torch.Generator().manual_seed(2))
    p = {k.removeprefix("backbone.layer3.1."): v for k, v in state.items() if k.startswith("backbone.layer3.1.")}

    def norm(y, which):
        return F.batch_norm(y, *(p[f"bn{which}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    y = norm(F.conv2d(x, p["conv1.weight"]), 1).relu()
    first, second, mask = F.conv2d(y, p["conv2.conv_offset.weight"], p["conv2.conv_offset.bias"], 1, 1).chunk(3, 1)
    offset = torch.cat([first, second], 1)
    y = torchvision.ops.deform_conv2d(y, offset, p["conv2.weight"], None, 1, 1, 1, mask.sigmoid())
    y = (norm(F.conv2d(norm(y, 2).relu(), p["conv3.weight"]), 3) + x).relu()
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(x), y, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"has not: neck.more"):
        original_weights.epropnp_det(state | {"neck.more": torch.zeros(1)}, "det.pth")


# -------------------------------------------------------------------------------------------------------- Pix2Pose's, of Keras


def keras_layers(resnet):
    """The layers of its generator in the order in which they are made: name -> shapes of kernels, channels last."""
    shapes, counts = {}, {}

    def numbered(kind):
        counts[kind] = counts.get(kind, 0) + 1
        return f"{kind}_{counts[kind]}"

    def normed(name, kernel, norm=None):
        transposed = name.startswith("conv2d_transpose")
        shapes[name] = {"kernel": kernel, "bias": (kernel[-2 if transposed else -1],)}
        channels = shapes[name]["bias"]
        shapes[norm or numbered("batch_normalization")] = dict.fromkeys(
            ("gamma", "beta", "moving_mean", "moving_variance"), channels
        )

    if resnet:
        normed("conv1", (7, 7, 3, 64), "bn_conv1")
        for stage, width, blocks, inputs in (("2", 64, "abc", 64), ("3", 128, "abcd", 256)):
            for block in blocks:
                given = inputs if block == "a" else 4 * width
                for branch, kernel in (
                    ("2a", (1, 1, given, width)), ("2b", (3, 3, width, width)), ("2c", (1, 1, width, 4 * width)),
                    ("1", (1, 1, given, 4 * width)),
                ):  # fmt: skip
                    if branch != "1" or block == "a":
                        normed(f"res{stage}{block}_branch{branch}", kernel, f"bn{stage}{block}_branch{branch}")
    else:
        for level, (given, made) in enumerate(((3, 64), (128, 128), (256, 128)), 1):
            normed(f"conv{level}_1", (5, 5, given, made))
            normed(f"conv{level}_2", (5, 5, given, made))
    for part in (1, 2):
        normed(f"conv4_{part}", (5, 5, 512 if resnet else 256, 256))
    shapes[numbered("dense")] = {"kernel": (8 * 8 * 512, 256), "bias": (256,)}
    shapes[numbered("dense")] = {"kernel": (256, 8 * 8 * 256), "bias": (8 * 8 * 256,)}
    for level, (given, made, side, mixed) in enumerate(
        ((256, 256, 128, 256), (256, 128, 128, 256), (256, 64, 32 if resnet else 64, 128)), 1
    ):
        normed(numbered("conv2d_transpose"), (5, 5, made, given))
        normed(f"deconv{level}", (5, 5, made + side, mixed))
    for made in (3, 1):
        shapes[numbered("conv2d_transpose")] = {"kernel": (5, 5, made, 128), "bias": (made,)}
    return shapes


def keras_file(path, resnet, seed=0):
    """Such a file with random weights, and those by "LAYER/WEIGHT". That of the ResNet is of model.save, which nests it."""
    h5py = pytest.importorskip("h5py")
    generator, state = torch.Generator().manual_seed(seed), {}
    for layer, weights_ in keras_layers(resnet).items():
        for kind, shape in weights_.items():
            value = torch.rand(shape, generator=generator) - 0.5
            if kind == "kernel":
                inputs = value[..., 0, 0].numel() * shape[-1 if "transpose" in layer else -2] if len(shape) == 4 else shape[0]
                value = value * (24 / inputs) ** 0.5
            state[f"{layer}/{kind}"] = value + (kind in ("gamma", "moving_variance"))
    nested = [k for k in keras_layers(resnet) if k.startswith(("res", "bn", "conv1"))] if resnet else []
    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if resnet else file
        groups = ["input_1", *(["resnet_part"] if resnet else []), *(k for k in keras_layers(resnet) if k not in nested)]
        top.attrs["layer_names"] = [name.encode() for name in groups]
        for name in groups:
            group = top.create_group(name)
            own = [k for k in state if k.split("/")[0] in (nested if name == "resnet_part" else [name])]
            group.attrs["weight_names"] = [f"{k}:0".encode() for k in own]
            for k in own:
                group[f"{k}:0"] = state[k].numpy()
    return state


def keras_network(state, resnet, images):
    """Its generator by TensorFlow's definitions: (B, 3, 128, 128), RGB in [0, 1] -> what tanh and sigmoid take."""

    def same(x, kernel, stride):  # the odd pixel goes to the right and the bottom
        total = max((x.shape[-1] // stride - 1) * stride + kernel.shape[0] - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), None, stride)

    def conv(x, name, stride):
        return same(x, state[f"{name}/kernel"], stride) + state[f"{name}/bias"][:, None, None]

    def transposed(x, name):  # the gradient of the convolution that would have made it
        kernel = state[f"{name}/kernel"]
        larger = torch.zeros(len(x), kernel.shape[2], 2 * x.shape[-2], 2 * x.shape[-1], requires_grad=True)
        (made,) = torch.autograd.grad((same(larger, kernel, 2) * x).sum(), larger)
        return made + state[f"{name}/bias"][:, None, None]

    def norm(x, name):
        gamma, beta, mean, variance = (
            state[f"{name}/{k}"][:, None, None] for k in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * gamma + beta

    counts = iter(range(1, 99))

    def leaky(x):
        return F.leaky_relu(norm(x, f"batch_normalization_{next(counts)}"), 0.3)

    x, skips = (images * 255 - 128) / 128, []
    if resnet:
        x = F.conv2d(F.pad(x, (3, 3, 3, 3)), state["conv1/kernel"].permute(3, 2, 0, 1), state["conv1/bias"], 2)
        x = norm(x, "bn_conv1").relu()
        skips.append(x[:, :32])
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        for stage, blocks in (("2", "abc"), ("3", "abcd")):
            for block in blocks:
                at, stride = f"{stage}{block}_branch", 2 if stage + block == "3a" else 1
                y = norm(conv(x[:, :, ::stride, ::stride], f"res{at}2a", 1), f"bn{at}2a").relu()
                y = norm(conv(y, f"res{at}2b", 1), f"bn{at}2b").relu()
                y = norm(conv(y, f"res{at}2c", 1), f"bn{at}2c")
                if block == "a":
                    x = norm(conv(x[:, :, ::stride, ::stride], f"res{at}1", 1), f"bn{at}1")
                x = (x + y).relu()
            skips.append(x[:, :128])
    else:
        for level in (1, 2, 3):
            first, second = (leaky(conv(x, f"conv{level}_{part}", 2)) for part in (1, 2))
            skips.append(second)
            x = torch.cat([first, second], 1)
    x = torch.cat([leaky(conv(x, f"conv4_{part}", 2)) for part in (1, 2)], 1)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for i in (1, 2):
        x = x @ state[f"dense_{i}/kernel"] + state[f"dense_{i}/bias"]
    x = x.unflatten(1, (8, 8, 256)).permute(0, 3, 1, 2)
    for i in (1, 2, 3):
        x = leaky(transposed(x, f"conv2d_transpose_{i}"))
        x = leaky(conv(torch.cat([x, skips[-i]], 1), f"deconv{i}", 1))
    return transposed(x, "conv2d_transpose_4"), transposed(x, "conv2d_transpose_5")


@pytest.mark.slow
@pytest.mark.parametrize("resnet", [False, True])
def test_pix2pose_of_keras_is_the_original(tmp_path, capsys, resnet):
    state = keras_file(tmp_path / "inference.hdf5", resnet)
    wedge = box((0.06, 0.08, 0.1), obj_id=5)
    top = wedge.vertices[:, 2:] > 0
    wedge = dataclasses.replace(
        wedge, vertices=torch.where(top & (wedge.vertices[:, :1] > 0), wedge.vertices / 2, wedge.vertices)
    )
    writing.write_models(tmp_path / "models", {5: wedge, 6: box(obj_id=6)})
    words = ["convert-weights", "pix2pose", str(tmp_path / "inference.hdf5"), "--models", str(tmp_path / "models")]
    assert cli.main([*words, "--object", "5", "--out", str(tmp_path / "run"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["used"], said["ignored"]) == (len(state), {})
    model = weights.load_network(
        tmp_path / "run/coordinates.safetensors", "coordinates", coordinates.Config, coordinates.Model
    ).eval()
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    maps, error = keras_network(state, resnet, images)
    assert float(maps.std()) > 0.05  # where nothing depends on anything, nothing is compared
    with torch.no_grad():
        output = model(images, torch.tensor([5]))
    torch.testing.assert_close(output.coordinates, maps.tanh(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.error, error[:, 0], rtol=1e-3, atol=1e-3 * float(error.abs().max()))
    # its norm_factor.json: the mean of the vertices, the largest distance from it along each axis
    centre = wedge.vertices.mean(0)
    torch.testing.assert_close(model.centre[0], centre)
    torch.testing.assert_close(model.scale[0], (wedge.vertices - centre).abs().amax(0))
    assert sorted(p.name for p in (tmp_path / "run/objects").glob("*.ply")) == ["obj_000005.ply"]


def test_files_of_keras_that_do_not_fit_are_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    writing.write_models(tmp_path / "models", {5: box(obj_id=5)})
    (tmp_path / "cut.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["images"] = [1.0]
    for name in ("cut", "images"):
        with pytest.raises(ValueError, match="holds no weights of Keras"):
            original_weights.read_keras(tmp_path / f"{name}.hdf5")
    layers = {f"{k}/{w}": torch.zeros(1) for k, v in keras_layers(False).items() for w in v}
    for changes, message in (
        ({"dense_3/kernel": torch.zeros(1)}, "has 3 layers dense, the network of Pix2Pose 2.*4_convert_weights_inference"),
        ({"block_1/kernel": torch.zeros(1)}, "1 tensors that Pix2Pose has not: block_1"),
        ({}, r"conv1_1/kernel is \(1,\), expected \(64, 3, 5, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            original_weights.pix2pose(layers | changes, "inference.hdf5", tmp_path / "models", 5)
    with pytest.raises(ValueError, match="needs --models, the BOP models folder, and --object"):
        original_weights.convert("pix2pose", tmp_path / "images.hdf5", tmp_path / "run")


def test_rnnpose_says_why_not(tmp_path, capsys):
    names = (
        "hybrid_desc_net.corr_fea_extractor_2d.conv1a.weight",
        "hybrid_desc_net.corr_fea_extractor_3d.encoder_blocks.0.KPConv.weights",
        "ctx_fea_net.context_fea_extractor_3d.bottle.weight", "motion_net.image_fea_enc.fnet.conv1.weight",
        "motion_net.cf_net.update_block.gru.convz1.weight", "global_step",
    )  # fmt: skip
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "cat.tckpt")
    assert cli.main(["convert-weights", "rnnpose", str(tmp_path / "cat.tckpt"), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "cannot be taken over" in said
    assert "KPConv" in said
    assert "train refiner --preset published" in said
    with pytest.raises(ValueError, match="RNNPose has not: strange"):
        original_weights.refused_rnnpose({"strange": torch.zeros(1)}, "cat.tckpt")
