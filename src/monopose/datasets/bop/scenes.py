"""BOP folders in and out: models, scenes, targets. With its `bop_*` parts the only place that knows millimetres.

Everything leaves here in metres and arrives here in metres. What scores need (models' vertices, true poses, targets, result
files) works on numpy alone, so that `monopose evaluate` starts without torch; functions that return `ObjectModel`, `Frame`
or `Instances` import torch when called.

Source: BOP datasets format, https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...io import limits, records
from ...io.packed import read_member
from ...io.records import (
    MM,
    Array,
    PathLike,
    by_number,
    check_rotations,
    check_translations,
    found,
    image_size,
    intrinsics,
    length,
    numbers,
    read_json,
    table,
    value,
    whole_numbers,
)
from .results import Targets, mask_from_rle

if TYPE_CHECKING:
    from ...types import Camera, Frame, Instances

# -------------------------------------------------------------------------------------------------------------- scenes


class SceneTruth(NamedTuple):
    """True objects, one row each, in the order of scene_gt.json.

    im_id, obj_id: (N,), int64. gt_id: place in the image's list, (N,). R: (N, 3, 3), as written, not always orthonormal.
    t: (N, 3), metres. boxes: amodal, boxes_visible: (N, 4), xyxy pixel edges, zeros where empty; visibility: (N,), in [0, 1].
    The last three are None without scene_gt_info.json.
    """

    im_id: Array
    obj_id: Array
    gt_id: Array
    R: Array
    t: Array
    boxes: Array | None
    boxes_visible: Array | None
    visibility: Array | None


class Scene(NamedTuple):
    """One scene folder with its JSON files read into arrays; pictures stay on the disk.

    sensor: suffix of folders and JSON names in multi-sensor sets, "" otherwise. im_ids: (M,), sorted. K: (M, 3, 3), pixels.
    depth_unit: metres per stored depth value, (M,). cam_from_world: (M, 4, 4), metres, NaN where not given.
    truth: None without scene_gt.json. members: where the files of each image lie, in other layouts than scene folders.
    """

    folder: Path
    scene_id: int
    sensor: str
    im_ids: Array
    K: Array
    depth_unit: Array
    cam_from_world: Array
    truth: SceneTruth | None
    members: Members | None = None


class Members(NamedTuple):
    """The files of images that are no files of a scene folder.

    tars: of a web data set; () where every member is a file in `folder` called SCENE_IMAGE.KIND.
    places: tar, offset, size of the members rgb, depth and mask_visib, (M, 3, 3), int64; size -1: there is none.
    folder: of the split.
    """

    tars: tuple[Path, ...]
    places: Array
    folder: Path


def open_scene(folder: PathLike, sensor: str = "") -> Scene:
    """Read the JSON files of a scene folder such as lmo/test/000002.

    Args:
        folder: holds scene_camera.json and, if the truth is public, scene_gt.json and scene_gt_info.json.
        sensor: for multi-sensor sets the suffix of the names: "photoneo" reads scene_camera_photoneo.json.

    Raises:
        FileNotFoundError, ValueError: naming file, image, key; says when K is missing and cam_model is there instead.
    """
    folder = Path(folder)
    suffix = f"_{sensor}" if sensor else ""
    if not folder.name.isdecimal():
        raise ValueError(f"{folder}: a scene folder is named by six digits, e.g. test/000002; to list a split use images(...)")
    if not folder.is_dir():
        raise FileNotFoundError(f"no scene folder {folder} ({found(folder.parent)})")
    path = folder / f"scene_camera{suffix}.json"
    truth = infos = None
    if (file := folder / f"scene_gt{suffix}.json").exists():
        truth = _lists(file)
        infos = _lists(file) if (file := folder / f"scene_gt_info{suffix}.json").exists() else None
    return scene_of(folder, int(folder.name), sensor, _by_image(path), truth, infos, str(folder / f"{{}}{suffix}.json"))


def scene_of(
    folder: Path,
    scene_id: int,
    sensor: str,
    cameras: Mapping[int, Any],
    truth: Mapping[int, list[Any]] | None,
    infos: Mapping[int, list[Any]] | None,
    named: str = "{}.json",
) -> Scene:
    """A scene of the records of its images: image number -> entry of scene_camera, scene_gt, scene_gt_info.

    named: how the files are called in errors, with {} for scene_camera and the others.
    """
    path = named.format("scene_camera")
    im_ids = np.array(sorted(cameras), np.int64)
    entries, where = [cameras[i] for i in im_ids], [f"{path}, image {i}" for i in im_ids]
    for record, place in zip(entries, where):
        records.refuse_lens(record, place)
        if isinstance(record, dict) and "cam_K" not in record and "cam_model" in record:
            model = record["cam_model"]
            kind = model.get("projection_model_type", "unknown") if isinstance(model, dict) else "unknown"
            raise ValueError(
                f"{place}: has 'cam_model' ({kind}) instead of 'cam_K'; only pinhole cameras are read. "
                "Undistort the images and write cam_K"
            )
    K = np.array([intrinsics(value(r, "cam_K", w), f"{w}: 'cam_K'") for r, w in zip(entries, where)]).reshape(-1, 3, 3)
    unit = np.array([length(r, "depth_scale", w) if "depth_scale" in r else 1.0 for r, w in zip(entries, where)]) * MM
    world = np.full((len(im_ids), 4, 4), np.nan)
    for n, (record, place) in enumerate(zip(entries, where)):
        if "cam_R_w2c" in record and "cam_t_w2c" in record:
            world[n] = np.eye(4)
            world[n, :3, :3] = numbers(record, "cam_R_w2c", (3, 3), place)
            check_rotations(world[n : n + 1, :3, :3], place, "cam_R_w2c")
            world[n, :3, 3] = numbers(record, "cam_t_w2c", (3,), place) * MM
    known = None if truth is None else _truth(truth, infos, named)
    return Scene(folder, scene_id, sensor, im_ids, K, unit, world, known)


def _by_image(path: Path) -> dict[int, Any]:
    return by_number(read_json(path), str(path))


def _lists(path: Path) -> dict[int, list[Any]]:
    return {i: records.rows(content, f"{path}, image {i}") for i, content in _by_image(path).items()}


def _truth(lists: Mapping[int, list[Any]], infos: Mapping[int, list[Any]] | None, named: str) -> SceneTruth:
    path = named.format("scene_gt")
    rows = [(i, n, record) for i in sorted(lists) for n, record in enumerate(lists[i])]
    where = [f"{path}, image {i}, object {n}" for i, n, _ in rows]
    entries = [record for _, _, record in rows]
    R = table(entries, "cam_R_m2c", (3, 3), where)
    t = table(entries, "cam_t_m2c", (3,), where) * MM
    check_rotations(R, where, "cam_R_m2c")
    check_translations(t, path, "cam_t_m2c")
    if len(t) > 1 and np.all(t[:, 2] < 0):  # an origin far outside of its object may lie there, and then some of them do
        raise ValueError(
            f"{path}: 'cam_t_m2c' puts all objects behind the camera; BOP's looks along +z (x right, y down): was it "
            "written for OpenGL's, which looks along -z?"
        )
    ids = whole_numbers(entries, "obj_id", where)
    im_id, gt_id = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    if infos is None:
        return SceneTruth(im_id, ids, gt_id, R, t, None, None, None)
    path = named.format("scene_gt_info")
    for i, objects in lists.items():
        if len(infos.get(i, ())) != len(objects):
            raise ValueError(
                f"{path}, image {i}: must describe the {len(objects)} objects of scene_gt, got {len(infos.get(i, ()))}"
            )
    where = [f"{path}, image {i}, object {n}" for i, n, _ in rows]
    details = [infos[i][n] for i, n, _ in rows]
    boxes, visible = (_edges(table(details, key, (4,), where)) for key in ("bbox_obj", "bbox_visib"))
    share = table(details, "visib_fract", (), where)
    if (wrong := (share > 1 + 1e-6) | (share < -1e-6)).any():
        n = int(np.argmax(wrong))
        raise ValueError(f"{where[n]}: 'visib_fract' must be a share from 0 to 1, got {share[n]:g}; is it in percent?")
    return SceneTruth(im_id, ids, gt_id, R, t, boxes, visible, share)


def _edges(boxes: Array) -> Array:
    """scene_gt_info boxes (x, y, xmax - xmin, ymax - ymin) of pixel indices as xyxy on pixel edges: one wider than they say."""
    x, y, w, h = boxes.T
    empty = (w < 0) | (h < 0)
    return np.where(empty[:, None], 0.0, np.stack([x, y, x + w + 1, y + h + 1], -1))


def scenes(split: PathLike, sensor: str = "") -> Iterator[Scene]:
    """The scenes of a split folder (lmo/test, lmo/train_pbr), one after the other, by number.

    Raises:
        FileNotFoundError: no such folder, or no scene in it.
    """
    split = Path(split)
    if not split.is_dir():
        raise FileNotFoundError(f"no split folder {split} ({found(split.parent)})")
    folders = sorted((p for p in split.iterdir() if p.is_dir() and p.name.isdecimal()), key=lambda p: int(p.name))
    if not folders:
        raise FileNotFoundError(f"no scene folder such as 000001 in {split} ({found(split)})")
    return (open_scene(folder, sensor) for folder in folders)


class ImageFile(NamedTuple):
    """Where one picture lies: its scene, its number, its file."""

    scene: Scene
    im_id: int
    path: Path


def images(split: PathLike, sensor: str = "", scene_ids: Iterable[int] | None = None) -> list[ImageFile]:
    """The pictures of a split folder that are on the disk, by scene and number; listed cameras without a picture are skipped.

    Args:
        split: a split folder (lmo/test) or one scene folder (lmo/test/000002).
        sensor: suffix of multi-sensor sets.
        scene_ids: only these scenes.
    """
    split = Path(split)
    opened = [open_scene(split, sensor)] if split.name.isdecimal() else scenes(split, sensor)
    wanted = None if scene_ids is None else set(scene_ids)
    listed = []
    for scene in opened:
        if wanted is None or scene.scene_id in wanted:
            files = _picture_files(scene)
            listed += [ImageFile(scene, int(i), files[int(i)]) for i in scene.im_ids if int(i) in files]
    return listed


_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def _picture_files(scene: Scene) -> dict[int, Path]:
    suffix = f"_{scene.sensor}" if scene.sensor else ""
    for name in (f"rgb{suffix}", f"gray{suffix}", *((f"{scene.sensor}_rgb",) if scene.sensor else ())):
        folder = scene.folder / name
        if folder.is_dir():
            return {int(p.stem): p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.stem.isdecimal()}
    return {}


def pictures_there(scene: Scene) -> Array:
    """Which images of a scene folder have a picture, (M,), bool."""
    files = _picture_files(scene)
    return np.array([int(i) in files for i in scene.im_ids], bool)


def picture_file(scene: Scene, im_id: int) -> Path | None:
    """The picture of one image, without listing the folder where it is called as usual."""
    suffix = f"_{scene.sensor}" if scene.sensor else ""
    names = (scene.folder / f"rgb{suffix}" / f"{im_id:06d}{s}" for s in _SUFFIXES)
    return next((p for p in names if p.is_file()), None) or _picture_files(scene).get(im_id)


KINDS = {  # of members, and how their names end
    "rgb": ("rgb.jpg", "rgb.png", "gray.png", "gray.tiff", "gray.tif"),
    "depth": ("depth.png",),
    "masks": ("mask_visib.json",),
}


def member(scene: Scene, im_id: int, kind: str) -> tuple[str, bytes] | None:
    """Name and content of a member, kind rgb, depth or masks, of an image that lies in no scene folder; None: there is none."""
    assert scene.members is not None
    tars, places, folder = scene.members
    key = f"{scene.scene_id:06d}_{im_id:06d}"
    if not tars:
        files = (folder / f"{key}.{end}" for end in KINDS[kind])
        found = next((f for f in files if f.is_file()), None)
        return None if found is None else (str(found), found.read_bytes())
    tar, offset, size = places[_row(scene, im_id), list(KINDS).index(kind)].tolist()
    if size < 0:
        return None
    return f"{tars[tar]}:{key}.{kind}", read_member(tars[tar], f"{key}.{kind}", offset, size)


def packed_masks(scene: Scene, im_id: int, gt_ids: Iterable[int]) -> list[Array] | None:
    """Visible masks, (H, W) each, bool, of objects of an image that lies in no scene folder; None: it has none."""
    if (packed := member(scene, im_id, "masks")) is None:
        return None
    name, content = packed
    runs = by_number(records.parse_json(content.decode(), name), name)
    if lost := [n for n in gt_ids if n not in runs]:
        raise ValueError(f"{name} has no mask of object {lost[0]} of the image (it has {len(runs)})")
    return [mask_from_rle(runs[n], name) for n in gt_ids]


def _row(scene: Scene, im_id: int) -> int:
    n = int(np.searchsorted(scene.im_ids, im_id))
    if n == len(scene.im_ids) or scene.im_ids[n] != im_id:
        ids = ", ".join(map(str, scene.im_ids[:6])) + (", ..." if len(scene.im_ids) > 6 else "")
        raise ValueError(f"{scene.folder}/scene_camera.json: no image {im_id} (has: {ids})")
    return n


def scene_camera(scene: Scene, im_id: int, size: tuple[int, int]) -> Camera:
    """The camera of one image; BOP does not store the size (height, width), the picture has it."""
    from ...io.cameras import make_camera

    return make_camera(scene.K[_row(scene, im_id)], size, None, f"{scene.folder}/scene_camera.json, image {im_id}, cam_K")


def read_camera(path: PathLike) -> Camera:
    """The camera of a data set's camera.json: fx, fy, cx, cy in pixels, width, height."""
    import torch

    from ...types import Camera

    raw = read_json(path)
    records.refuse_lens(raw, str(path))
    fx, fy, cx, cy = (float(numbers(raw, key, (), str(path))) for key in ("fx", "fy", "cx", "cy"))
    size = image_size(value(raw, "height", str(path)), value(raw, "width", str(path)), str(path))
    K = intrinsics([fx, 0, cx, 0, fy, cy, 0, 0, 1], str(path), size)
    return Camera(torch.tensor(K, dtype=torch.float32), size)


def read_instances(scene: Scene, im_id: int, masks: bool = True, raw: bool = False) -> Instances | None:
    """The true objects of one image.

    Args:
        scene: from `open_scene`.
        im_id: number of the image.
        masks: read mask_visib/IMID_GTID.png when the folder is there.
        raw: poses as written, float64; otherwise rotations are projected to SO(3), float32. Official scores use them raw.

    Returns:
        None when the scene has no scene_gt.json; zero rows when the image shows no object.
    """
    import torch

    from ...geometry.rotation import nearest_rotation
    from ...types import Instances

    if scene.truth is None:
        return None
    truth = scene.truth
    rows = np.flatnonzero(truth.im_id == im_id)
    pose = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    R = torch.as_tensor(truth.R[rows])
    pose[:, :3, :3] = R if raw else nearest_rotation(R)
    pose[:, :3, 3] = torch.as_tensor(truth.t[rows])
    boxes, visible, visibility = (
        None if column is None else torch.as_tensor(column[rows], dtype=torch.float32)
        for column in (truth.boxes, truth.boxes_visible, truth.visibility)
    )
    suffix = f"_{scene.sensor}" if scene.sensor else ""
    folder, pictures = scene.folder / f"mask_visib{suffix}", None
    if scene.members is not None:
        planes = packed_masks(scene, im_id, truth.gt_id[rows].tolist()) if masks and len(rows) else None
        pictures = None if planes is None else torch.from_numpy(np.stack(planes))
    elif masks and len(rows) and folder.is_dir():
        names = [folder / f"{im_id:06d}_{n:06d}.png" for n in truth.gt_id[rows]]
        pictures = torch.from_numpy(np.stack([_read_plane(name) > 0 for name in names]))
    labels = torch.as_tensor(truth.obj_id[rows])
    return Instances(labels, pose if raw else pose.float(), boxes, visible, pictures, visibility)


def read_frame(scene: Scene | PathLike, im_id: int, masks: bool = True, depth: bool = True, raw: bool = False) -> Frame:
    """One picture of a scene with its camera, depth and true objects, as far as the folder has them.

    Args:
        scene: from `open_scene`, or a scene folder (read anew each time).
        im_id: number of the image.
        masks, depth: read them when they are there.
        raw: true poses as written, float64, instead of projected to SO(3).

    Raises:
        FileNotFoundError, ValueError: naming file, image and key.
    """
    import torch

    from ...io.images import read_image
    from ...types import Frame

    scene = scene if isinstance(scene, Scene) else open_scene(scene)
    _row(scene, im_id)
    packed: tuple[str, bytes | None] | None
    if scene.members is None:
        file = picture_file(scene, im_id)
        packed = None if file is None else (str(file), None)
    else:
        packed = member(scene, im_id, "rgb")
    if packed is None:
        raise FileNotFoundError(
            f"no picture {im_id:06d} (.png, .jpg, .tif) in {scene.folder}/rgb or gray ({found(scene.folder)})"
        )
    name, content = packed
    image = read_image(name, content)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    distances = None
    there = depth and (_depth_file(scene, im_id) if scene.members is None else member(scene, im_id, "depth")) is not None
    if there:
        distances = torch.from_numpy(read_depth(scene, im_id))
        if distances.shape != size:
            h, w = distances.shape
            raise ValueError(f"the depth of image {im_id} of {scene.folder} is {w}x{h} but {name} is {size[1]}x{size[0]}")
    instances = read_instances(scene, im_id, masks, raw)
    if instances is not None and instances.masks is not None and tuple(instances.masks.shape[-2:]) != size:
        h, w = instances.masks.shape[-2:]
        raise ValueError(
            f"{scene.folder}/mask_visib: masks of image {im_id} are {w}x{h} but the picture is {size[1]}x{size[0]}"
        )
    return Frame(image, scene_camera(scene, im_id, size), distances, instances, scene.scene_id, im_id, name)


def read_depth(scene: Scene, im_id: int) -> Array:
    """The sensor's depth of one image, (H, W), float32, metres, 0 = unknown.

    Raises:
        FileNotFoundError: the scene has no depth image of that number.
    """
    path, content = _depth_file(scene, im_id), None
    if scene.members is not None and (packed := member(scene, im_id, "depth")) is not None:
        path, content = Path(packed[0]), packed[1]
    if path is None:
        raise FileNotFoundError(f"no depth image {im_id:06d}.png in {scene.folder}/depth ({found(scene.folder)})")
    unit = scene.depth_unit[_row(scene, im_id)]
    depth = (_read_plane(path, content) * unit).astype(np.float32)
    known = depth[depth > 0]
    middle = float(np.median(known)) if known.size else 1.0
    if not records.NEAREST < middle < records.FARTHEST:
        raise ValueError(
            f"{path} shows things {middle:.3g} m away (median) by the 'depth_scale' {unit / MM:g} of scene_camera.json, image "
            f"{im_id}; it must be millimetres for each stored value"
        )
    return depth


def _depth_file(scene: Scene, im_id: int) -> Path | None:
    folder = scene.folder / (f"depth_{scene.sensor}" if scene.sensor else "depth")
    return next((p for s in _SUFFIXES if (p := folder / f"{im_id:06d}{s}").exists()), None)


def image_widths(scene: Scene, im_ids: Iterable[int]) -> Array:
    """Width of each picture of a scene as it is seen, (N,), pixels: turned as its EXIF says; where it is not on the disk that
    of the others, if they agree, or of the data set's only camera.json.

    Raises:
        FileNotFoundError: neither is there.
    """
    wanted, files = list(im_ids), _picture_files(scene)
    known = {i: _width_as_seen(files[i]) for i in wanted if i in files}
    if scene.members is not None:
        packed = {i: member(scene, i, "rgb") for i in dict.fromkeys(wanted)}
        known = {i: _width_as_seen(Path(found[0]), found[1]) for i, found in packed.items() if found is not None}
    if not known and files:
        known = {i: _width_as_seen(path) for i, path in sorted(files.items())[:20]}
    if len(known) >= len(set(wanted)) and set(wanted) <= set(known):
        return np.array([known[i] for i in wanted], np.int64)
    others = set(known.values())
    other = others.pop() if len(others) == 1 else _width_of_cameras(scene)
    return np.array([known.get(i, other) for i in wanted], np.int64)


def _width_as_seen(path: Path, content: bytes | None = None) -> int:
    with limits.picture(path if content is None else BytesIO(content), str(path)) as picture:
        return limits.size_as_seen(picture)[1]


def _width_of_cameras(scene: Scene) -> int:
    root = scene.folder.parent if scene.members is not None else scene.folder.parent.parent
    files = sorted(root.glob("camera*.json"))
    widths = {records.image_size(1, float(numbers(read_json(p), "width", (), str(p))), str(p))[1] for p in files}
    if len(widths) != 1:
        raise FileNotFoundError(f"cannot tell the width of the images: no picture in {scene.folder}, no camera.json in {root}")
    return widths.pop()


def _read_plane(path: Path, content: bytes | None = None) -> Array:
    """A one-channel picture as stored, (H, W)."""
    try:
        with limits.picture(path if content is None else BytesIO(content), str(path)) as picture:
            plane = np.asarray(picture)
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent} ({found(path.parent)})") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); was it cut short while written?") from None
    if plane.ndim != 2:
        raise ValueError(f"{path} must have one channel, got shape {plane.shape}")
    return plane


def read_targets(path: PathLike) -> Targets:
    """A targets file in the localisation form (with obj_id and inst_count) or the BOP'24 detection form (images only)."""
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"{path} must be a list of targets with keys scene_id, im_id (and obj_id, inst_count), got {rows!r:.60}"
        )
    where = [f"{path}, entry {n}" for n in range(len(rows))]
    scene_id, im_id = (whole_numbers(rows, key, where) for key in ("scene_id", "im_id"))
    if not any("obj_id" in row for row in rows):
        return Targets(scene_id, im_id, None, None)
    obj_id = whole_numbers(rows, "obj_id", where)
    _, first = np.unique(np.stack([scene_id, im_id, obj_id]), axis=1, return_index=True)
    if len(first) < len(rows):
        again = where[int(np.setdiff1d(np.arange(len(rows)), first)[0])]
        raise ValueError(f"{again}: this object of this image is there before; give it once, with its inst_count")
    return Targets(scene_id, im_id, obj_id, whole_numbers(rows, "inst_count", where, 1))


def targets_of(opened: Iterable[Scene], min_visibility: float = 0.1) -> Targets:
    """Localisation targets of scenes with truth: per image and object, how many instances are visible enough.

    Source: BOP challenge 2019: targets are instances with at least 10 % of the silhouette visible.
    """
    counts: dict[tuple[int, int, int], int] = {}
    for scene in opened:
        if scene.truth is None:
            raise ValueError(f"{scene.folder}: targets need scene_gt.json")
        seen = (
            np.ones(len(scene.truth.im_id), bool)
            if scene.truth.visibility is None
            else scene.truth.visibility >= min_visibility
        )
        for im_id, obj_id in zip(scene.truth.im_id[seen].tolist(), scene.truth.obj_id[seen].tolist()):
            key = (scene.scene_id, im_id, obj_id)
            counts[key] = counts.get(key, 0) + 1
    keys = sorted(counts)
    scene_id, im_id, obj_id = np.array(keys, np.int64).reshape(-1, 3).T
    return Targets(scene_id, im_id, obj_id, np.array([counts[key] for key in keys], np.int64))
