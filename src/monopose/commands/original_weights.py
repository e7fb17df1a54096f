"""Weights of the original systems -> files of this package: every name in a file is used, ignored for a reason, or an error.

Source: names and shapes of the modules of tjiiv-cprg/EPro-PnP and EPro-PnP-v2 (EPro-PnP-6DoF, EPro-PnP-Det),
kirumang/Pix2Pose and DecaYale/RNNPose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..datasets.bop import models as bop_models
from ..datasets.bop.convert import OBJECTS
from ..io import limits
from ..io.files import existing_file
from ..objects import coordinates, probabilistic
from ..objects.training import keep_objects
from ..road import config as road_config
from ..road.network import Model as RoadModel

LINEMOD = tuple(number for name, number in OBJECTS.items() if name not in ("bowl", "cup"))  # the 13 that are learned
RESNET = (  # torchvision's names -> those of `nets.backbones`
    (r"backbone\.conv1\.(.+)", r"backbone.stages.0.0.\1"),
    (r"backbone\.bn1\.(.+)", r"backbone.stages.0.1.\1"),
    (r"backbone\.layer1\.(.+)", r"backbone.stages.1.1.\1"),
    (r"backbone\.layer([234])\.(.+)", r"backbone.stages.\1.\2"),
)
CDPN_IGNORED = (
    (r"trans_head_net\..+", "the head of translations, which EPro-PnP freezes and never asks"),
    (r"monte_carlo_pose_loss\.momentum", "a constant"),
)
DET_HEADS = (  # modules of its head, which have no counterpart here; see `epropnp_det`
    r"bbox_head\.(detector\.((cls|reg)_convs|conv_(cls|centerness|emb|offset|bbox)(_prev)?)|convs|conv_upsampled|k_proj|v_proj"
    r"|query_proj|query_scale|obj_query_scale|x2d_pos_enc|(dim|score|scale|w2d_scale|velo|attr|depth)_branch|pred_fc|cls_emb"
    r"|attention_sampler|pts_trans|corr_regs?|corr_reg_aux|loss_\w+)(\.[\w.]+)?"
)
HEADS = "heads, which have other layers here and begin anew; encoder and pyramid start a training: train box3d --init"
RNNPOSE = (  # what a .tckpt holds, and what stands in its place here
    (r"hybrid_desc_net\.corr_fea_extractor_2d\..+", "SuperPoint; here descriptors come from the shared ResNet"),
    (r"hybrid_desc_net\.corr_fea_extractor_3d\..+", "KPConv over the model's points; here `SurfaceNet`"),
    (r"ctx_fea_net\.context_fea_extractor_3d\..+", "a second KPConv of 256 channels; here `SurfaceNet`"),
    (r"motion_net\.image_fea_enc\..+", "RAFT's encoder of stride 8; here a ResNet with a decoder"),
    (r"motion_net\.cf_net\..+", "RAFT's update block on 324 correlations; here it also sees features and expected flows"),
    (r"(motion_net\.)?(renderer|diff_renderer)\..+", "the renderer"),
    (r"motion_net\.\w*sigma\w*", "the width of the similarity weight"),
    (r"(contrastive_loss|pose_loss)\..+", "a loss"),
    (r"global_step", "a counter"),
)


def convert(
    kind: str, path: str | Path, out: str | Path, models: str | Path | None = None, obj_id: int | None = None
) -> dict[str, Any]:
    """Write what the original's weights become here.

    Args:
        kind: "epropnp-6dof", "epropnp-det", "pix2pose" or "rnnpose".
        path: the original's file (.pth, .hdf5, .tckpt), with tensors in it and no code.
        out: of "epropnp-6dof" and "pix2pose" the run folder to make; of "epropnp-det" the weights file to write.
        models: of "epropnp-6dof" BOP's CAD models of LINEMOD, lm/models; of "pix2pose" the models folder that the original's
            coordinates were made of. Kept in the run.
        obj_id: of "pix2pose": which object it is.

    Returns:
        what was written, how many tensors were used, and those that were not, by reason.

    Raises:
        FileNotFoundError, ValueError: no such file; code in it; a name that nobody knows, one missing, another shape; an
            architecture that is not ours.
    """
    if kind == "epropnp-6dof" and models is None:
        raise ValueError("epropnp-6dof needs --models, BOP's CAD models of LINEMOD (lm/models)")
    if kind == "pix2pose" and (models is None or obj_id is None):
        raise ValueError("pix2pose needs --models, the BOP models folder, and --object, which of them the network knows")
    state = read_keras(path) if kind == "pix2pose" else read_state(path)
    if kind == "epropnp-6dof":
        assert models is not None
        tensors, config, ignored = epropnp_6dof(state, str(path), models)
        keep_objects(Path(models), Path(out), config.obj_ids)
        file = weights.save(
            Path(out) / "probabilistic.safetensors", tensors, method="probabilistic", config=config,
            labels=config.obj_ids, notes={"source": f"EPro-PnP-6DoF, {Path(path).name}"},
        )  # fmt: skip
    elif kind == "epropnp-det":
        tensors, road, ignored = epropnp_det(state, str(path))
        file = weights.save(
            out, tensors, method="box3d", config=road, notes={"source": f"EPro-PnP-Det, {Path(path).name}: no head"}
        )
    elif kind == "pix2pose":
        assert models is not None
        assert obj_id is not None
        tensors, plain, ignored = pix2pose(state, str(path), models, obj_id)
        keep_objects(Path(models), Path(out), (obj_id,))
        file = weights.save(
            Path(out) / "coordinates.safetensors", tensors, method="coordinates", config=plain, labels=(obj_id,),
            notes={"source": f"Pix2Pose, {Path(path).name}"},
        )  # fmt: skip
    elif kind == "rnnpose":
        raise ValueError(refused_rnnpose(state, str(path)))
    else:
        raise ValueError(f"no weights of {kind!r} are known; expected epropnp-6dof, epropnp-det, pix2pose or rnnpose")
    unused = {reason: len(names) for reason, names in ignored.items()}
    return {"file": str(file), "used": len(state) - sum(unused.values()), "ignored": unused}


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save by name, under "state_dict" or alone; nothing in it is run.

    Raises:
        FileNotFoundError, ValueError: nothing there; cut off; more than tensors and plain values in it; too many parameters.
    """
    path = existing_file(path, "weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of any kind
        why = str(error).splitlines()[0].partition(". ")[0][:200]
        raise ValueError(
            f"{path} cannot be read as tensors ({type(error).__name__}: {why}); a file with code "
            "in it, such as a whole network, is not opened: where you trust it, load it in the original's program and write "
            "torch.save({'state_dict': model.state_dict()}, FILE)"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no tensors by name; expected a state dict, alone or under the key 'state_dict'")
    limits.check("MONOPOSE_MAX_PARAMETERS", sum(v.numel() for v in content.values()), str(path))
    state = {str(name).removeprefix("module."): value.detach().clone() for name, value in content.items()}
    return _finite(state, path)


def read_keras(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of Keras' save_weights or save, by "LAYER/WEIGHT", in Keras' order of axes.

    Raises:
        FileNotFoundError, ValueError: nothing there; no HDF5 file, or a cut one; not Keras'; too many parameters; NaN.
        ImportError: h5py is not installed.
    """
    path = existing_file(path, "weights file")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ImportError("weights of Keras are HDF5 files: pip install 'monopose[keras]'") from error
    state: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            top = file.get("model_weights", file)  # a whole model has its weights in there
            layers = {
                str(name): [str(w) for w in _texts(top[name].attrs["weight_names"])]
                for name in _texts(top.attrs["layer_names"])
            }
            count = sum(top[layer][name].size for layer, names in layers.items() for name in names)
            limits.check("MONOPOSE_MAX_PARAMETERS", count, str(path))
            for layer, names in layers.items():
                nested = len({name.split("/")[-2] for name in names if "/" in name}) > 1  # a model within the model
                for name in names:
                    own = name.split("/")[-2] if nested else layer
                    state[f"{own}/{name.split('/')[-1].split(':')[0]}"] = torch.from_numpy(top[layer][name][()])
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds no weights of Keras, or is cut off ({type(error).__name__}: {error}); expected an HDF5 file of "
            "model.save_weights or model.save"
        ) from error
    return _finite(state, path)


def _texts(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _finite(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {name} holds NaN or infinity; the file is damaged, or the training diverged")
    return state


def _unknown(names: list[str], path: str, what: str) -> None:
    if names:
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise ValueError(f"{path} has {len(names)} tensors that {what} has not: {shown}")


def _filled(own: Mapping[str, Tensor], found: Mapping[str, tuple[str, Tensor]], path: str) -> dict[str, Tensor]:
    """The tensors by our names, shapes checked. own: what there must be; found: our name -> theirs, and the tensor."""
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} tensors of the network, what becomes {', '.join(missing[:6])}")
    for name, (theirs, value) in found.items():
        if name not in own:
            raise ValueError(f"{path}: {theirs} is one layer more than the published network has")
        if own[name].shape != value.shape:
            raise ValueError(f"{path}: {theirs} is {tuple(value.shape)}, expected {tuple(own[name].shape)}")
    return {name: value.to(own[name].dtype) for name, (_, value) in found.items()}


Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours) if isinstance(ours, str) else ours(match)
    return None


def _of_head(match: re.Match[str]) -> str:
    """Theirs has nine modules in a row for each of three stages; here the four of the two convolutions lie in two groups."""
    stage, part = divmod(int(match[1]), 9)
    places = {0: "0", 1: "1", 3: "3.0", 4: "3.1", 6: "4.0", 7: "4.1"}
    if part not in places:
        return f"net.stages.{match[0]}"  # none of ours
    first, _, rest = places[part].partition(".")
    return ".".join(("net.stages", str(5 * stage + int(first)), *([rest] if rest else []), match[2]))


CDPN: Rules = (
    *((pattern, f"net.{ours}") for pattern, ours in RESNET),
    (r"rot_head_net\.features\.(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)", _of_head),
    (r"rot_head_net\.scale_branch\.(weight|bias)", r"weight_scale.\1"),
    (r"monte_carlo_pose_loss\.norm_factor", "norm"),
)


def epropnp_6dof(
    state: Mapping[str, Tensor], path: str, models: str | Path
) -> tuple[dict[str, Tensor], probabilistic.Config, dict[str, list[str]]]:
    """EPro-PnP-6DoF (v1, v1b, v2), or CDPN's first stage that it starts from -> tensors, configuration, names not used.

    The network gives what the original's gives: BGR photos that are not normalised, coordinates in units of the box's lowest
    corner, a pixel of the grid standing for its upper left corner. v2 has no head of translations, which tells it apart.
    """
    coordinates_alone = "rot_head_net.features.27.weight" in state  # CDPN's own, before EPro-PnP split its last layer off
    last = "rot_head_net.features.27" if coordinates_alone else "rot_head_net.out_layer"
    first_release = any(name.startswith("trans_head_net.") for name in state)
    preset = probabilistic.coords if coordinates_alone else probabilistic.coord_init if first_release else probabilistic.v2
    config = replace(preset(LINEMOD), pretrained=False, plain_photos=True, corner_pixels=True)
    with torch.device("meta"):
        own = probabilistic.Model(config).state_dict()
    ignored: dict[str, list[str]] = {}
    unknown: list[str] = []
    found: dict[str, tuple[str, Tensor]] = {}
    for name, value in state.items():
        reason = next((why for pattern, why in CDPN_IGNORED if re.fullmatch(pattern, name)), None)
        if reason is not None:
            ignored.setdefault(reason, []).append(name)
        elif name not in (f"{last}.weight", f"{last}.bias"):
            ours = _renamed(name, CDPN)
            unknown += [name] if ours is None else []
            found |= {} if ours is None else {ours: (name, value)}
    _unknown(unknown, path, "EPro-PnP-6DoF")
    rows = 4 if coordinates_alone else 5
    for part, shape in (("weight", (rows, config.deconv_width, 1, 1)), ("bias", (rows,))):
        last_layer = state.get(f"{last}.{part}")
        if last_layer is None or tuple(last_layer.shape) != shape:
            got = "nothing" if last_layer is None else str(tuple(last_layer.shape))
            raise ValueError(f"{path}: {last}.{part} must be {shape}, got {got}")
        row = last_layer.flatten(1) if part == "weight" else last_layer
        every = row.expand(len(LINEMOD), *row.shape)  # the original asks no object which it is
        found[f"net.head.{part}"] = f"{last}.{part}", every[:, :3]
        if not coordinates_alone:
            found[f"weight_head.{part}"] = f"{last}.{part}", every[:, 3:]
    conv = "net.backbone.stages.0.0.weight"
    if conv in found:
        found[conv] = found[conv][0], found[conv][1].flip(1)  # BGR -> RGB
    made = {"ids": torch.tensor(LINEMOD), "net.which.weight": torch.zeros(own["net.which.weight"].shape)} | _places(models)
    if coordinates_alone:  # what CDPN has not is as before training
        made |= {k: torch.zeros(own[k].shape) for k in own if k.startswith(("weight_head.", "weight_scale.", "norm"))}
    return _filled({k: v for k, v in own.items() if k not in made}, found, path) | made, config, ignored


def _places(models: str | Path) -> dict[str, Tensor]:
    """The frame and unit of its coordinates: the origin of the CAD file, and how far the lowest corner lies from it."""
    read = bop_models.read_models(models, LINEMOD)
    return {
        "centre": torch.zeros(len(LINEMOD), 3),
        "scale": torch.stack([read[i].bounds[0].abs().clamp_min(1e-6) for i in LINEMOD]),
        "corners": torch.stack([read[i].corners for i in LINEMOD]),
    }


FPN = (
    (r"backbone\.layer([234])\.(.+)\.conv_offset\.(weight|bias)", r"encoder.backbone.stages.\1.\2.offset.\3"),
    *((pattern, f"encoder.{ours}") for pattern, ours in RESNET),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(weight|bias)", r"pyramid.smooth.\1.\2"),  # the last of them are `further`
    (r"neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)", r"pyramid.lateral.\1.\2"),
)


def epropnp_det(state: Mapping[str, Tensor], path: str) -> tuple[dict[str, Tensor], road_config.Config, dict[str, list[str]]]:
    """EPro-PnP-Det -> encoder and pyramid, for `train box3d --init`; the configuration of the preset they fit; names not used.

    Its heads, an eighth of the parameters, have no counterpart, and are learned anew: towers that end in deformable
    convolutions and branches of two layers behind them, one dense tower for all levels, samples at the border where ours are
    outside, points by their own mean and deviation, sizes for each class, velocities in the camera's axes.
    """
    strides = sum(re.fullmatch(r"neck\.lateral_convs\.\d+\.conv\.weight", name) is not None for name in state)
    if strides not in (3, 4):
        raise ValueError(
            f"{path} has {strides} lateral convolutions (neck.lateral_convs), EPro-PnP-Det has 3 (v1b, v2) or 4 (v1)"
        )
    config = replace(road_config.basic() if strides == 4 else road_config.v1b(), pretrained=False)
    with torch.device("meta"):
        model = RoadModel(config)
    unknown, found, ignored = [], {}, []
    for name, value in state.items():
        if re.fullmatch(DET_HEADS, name):
            ignored.append(name)
        elif (ours := _renamed(name, FPN)) is None:
            unknown.append(name)
        else:  # the masks of our deformable convolutions are twice theirs
            halved = name.removesuffix("weight") + "conv_offset.weight" in state
            found[ours] = name, value / 2 if halved else value
    for name in [name for name in found if name.startswith("pyramid.smooth.")]:
        level = int(name.split(".")[2])
        if level >= strides:
            found[name.replace(f"smooth.{level}", f"further.{level - strides}")] = found.pop(name)
    _unknown(unknown, path, "EPro-PnP-Det")
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("encoder.", "pyramid."))}
    return _filled(own, found, path), config, {HEADS: ignored} if ignored else {}


PIX2POSE: Rules = (
    (r"conv([123])_1", r"net.encoder.down\1.first.0"),
    (r"conv([123])_2", r"net.encoder.down\1.second.0"),
    ("conv4_1", "net.down4.first.0"),
    ("conv4_2", "net.down4.second.0"),
    (r"deconv([123])", r"net.mix\1.0"),
    ("conv1", "net.encoder.stem.0"),
    ("bn_conv1", "net.encoder.stem.1"),
    (r"(res|bn)([23])([a-d])_branch(1|2[abc])", lambda m: _of_block(*m.groups())),
)
_DECODER = ("net.up1", "net.mix1", "net.up2", "net.mix2", "net.up3", "net.mix3")
UNNAMED = {  # layers that Keras has numbered in the order in which they were made
    "dense": ("net.dense.0", "net.dense.1"),
    "conv2d_transpose": ("net.up1.0", "net.up2.0", "net.up3.0", "net.head.0", "net.head.1"),
    "batch_normalization": (
        *(f"net.encoder.down{i}.{part}.1.0" for i in (1, 2, 3) for part in ("first", "second")),
        *(f"net.down4.{part}.1.0" for part in ("first", "second")), *(f"{name}.1.0" for name in _DECODER),
    ),
}  # fmt: skip
OF_KERAS = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip


def _of_block(what: str, stage: str, block: str, branch: str) -> str:
    place = f"net.encoder.stage{stage}.{'abcd'.index(block)}."
    if branch == "1":
        return f"{place}downsample.{int(what == 'bn')}"
    return f"{place}{'conv' if what == 'res' else 'bn'}{'abc'.index(branch[1]) + 1}"


def pix2pose(
    state: Mapping[str, Tensor], path: str, models: str | Path, obj_id: int
) -> tuple[dict[str, Tensor], coordinates.Config, dict[str, list[str]]]:
    """Pix2Pose's network of one object, of the paper or of BOP'20 (ResNet-50) -> tensors, configuration, names not used.

    Args:
        state: see `read_keras`.
        path: for errors.
        models: the models folder of which the original's coordinates were made: their origin is the mean of the vertices, their
            unit the largest distance from it along each axis.
        obj_id: the object.
    """
    resnet = any(name.startswith("res2a_branch2a/") for name in state)
    backbone = "pix2pose_resnet50" if resnet else "pix2pose"
    config = replace(coordinates.pix2pose((obj_id,)), adversarial_weight=0.0, backbone=backbone)
    with torch.device("meta"):
        own = coordinates.Model(config).state_dict()
    layers = {name.rpartition("/")[0]: "" for name in state}
    numbered = {
        kind: sorted((k for k in layers if re.fullmatch(rf"{kind}(_\d+)?", k)), key=lambda k: int("0" + k[len(kind) + 1 :]))
        for kind in UNNAMED
    }
    for kind, names in numbered.items():
        expected = UNNAMED[kind][6:] if kind == "batch_normalization" and resnet else UNNAMED[kind]
        if len(names) != len(expected):
            raise ValueError(
                f"{path} has {len(names)} layers {kind}, the network of Pix2Pose {len(expected)}; a file of its training "
                "becomes one for inference by its tools/4_convert_weights_inference.py"
            )
        layers |= dict(zip(names, expected))
    layers |= {k: _renamed(k, PIX2POSE) or "" for k, ours in layers.items() if not ours}
    _unknown([k for k, ours in layers.items() if not ours], path, "Pix2Pose")
    found: dict[str, tuple[str, Tensor]] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition("/")
        _unknown([name] if kind not in OF_KERAS else [], path, "Pix2Pose")
        found[f"{layers[layer]}.{OF_KERAS[kind]}"] = name, _in_torchs_order(layers[layer], kind, value)
    for ours in [k for k in found if k.startswith(("net.encoder.stem.0.bias", "net.encoder.stage")) and k.endswith(".bias")]:
        if ours not in own:  # of a convolution before a normalisation, whose mean takes it
            norm = ours.replace("stem.0", "stem.1").replace("conv", "bn").replace("downsample.0", "downsample.1")
            mean, (theirs, bias) = norm.removesuffix("bias") + "running_mean", found.pop(ours)
            if mean in found and found[mean][1].shape == bias.shape:
                found[mean] = theirs, found[mean][1] - bias
    for part, axis in (("weight", 1), ("bias", 0)):  # the coordinates' layer and the error's are one here
        heads = [found.pop(f"net.head.{k}.{part}") for k in (0, 1) if f"net.head.{k}.{part}" in found]
        if heads:
            whole = len(heads) == 2 and all(value.dim() > axis for _, value in heads)
            found[f"net.head.{part}"] = heads[0][0], torch.cat([v for _, v in heads], axis) if whole else heads[0][1]
    points = torch.from_numpy(bop_models.read_model_points(models, (obj_id,))[obj_id])
    made = {k: torch.tensor(0) for k in own if k.endswith("num_batches_tracked")} | {
        "ids": torch.tensor([obj_id]),
        "centre": points.mean(0)[None].float(),
        "scale": (points - points.mean(0)).abs().amax(0).clamp_min(1e-6)[None].float(),
        "corners": bop_models.read_models(models, (obj_id,))[obj_id].corners[None],
    }
    return _filled({k: v for k, v in own.items() if k not in made}, found, path) | made, config, {}


def _in_torchs_order(layer: str, kind: str, value: Tensor) -> Tensor:
    """Keras keeps channels last: kernels (h, w, in, out), of transposed ones (h, w, out, in), of dense layers (in, out)."""
    if value.dim() == 4:
        return value.permute(3, 2, 0, 1)
    if layer == "net.dense.0" and kind == "kernel" and tuple(value.shape) == (8 * 8 * 512, 256):
        return value.unflatten(0, (8, 8, 512)).permute(3, 2, 0, 1).flatten(1)
    if layer == "net.dense.1" and value.shape[-1] == 8 * 8 * 256:
        channels_first = value.unflatten(-1, (8, 8, 256)).movedim(-1, -3).flatten(-3)
        return channels_first.T if kind == "kernel" else channels_first
    return value


def refused_rnnpose(state: Mapping[str, Tensor], path: str) -> str:
    """Why weights of RNNPose make no refiner here, part by part; ValueError for names that RNNPose has not."""
    parts: dict[str, int] = {}
    unknown = []
    for name in state:
        what = next((why for pattern, why in RNNPOSE if re.fullmatch(pattern, name)), None)
        if what is None:
            unknown.append(name)
        else:
            parts[what] = parts.get(what, 0) + 1
    _unknown(unknown, path, "RNNPose")
    listed = "; ".join(f"{count} tensors are of {part}" for part, count in parts.items())
    return (
        f"{path} holds weights of RNNPose, and its networks are not ours, so they cannot be taken over: {listed}. Train anew: "
        "monopose train refiner --preset published"
    )
