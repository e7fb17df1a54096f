"""Every function of the package that opens a user's file, with whole files to start from.

`test_fuzz.py` compares the list with the code: a new reader must be put here, or among `OTHERS` with the reason.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from datasets import test_kitti, test_nuscenes
from monopose import weights
from monopose.category.pipeline import read_masks
from monopose.datasets import kitti, nocs, nuscenes, pix3d
from monopose.datasets.bop import models, pictures, results, scenes, writing
from monopose.evaluation import kitti as kitti_evaluation
from monopose.evaluation import viewpoint
from monopose.io import boxes, cameras, images, limits, records
from monopose.mesh import loading
from monopose.objects import calibration
from monopose.road import samples as road
from monopose.tracking.commands import read_start
from monopose.types import Camera, Frame, Instances
from shapes import box


class Reader(NamedTuple):
    """One way to read a file.

    Args:
        functions: what is tried by it: MODULE.FUNCTION.
        write: makes the files in a folder.
        call: reads them; takes the folder.
        files: patterns of those that are mutated.
        unknown: NaN in the result says that something is not known.
        kinds: a value of another kind is no longer the same.
        called: how errors call what was read, where they do not know the file.
    """

    functions: str
    write: Callable[[Path], Any]
    call: Callable[[Path], Any]
    files: tuple[str, ...] = ("*",)
    unknown: bool = False
    kinds: bool = True
    called: str = "\n"


OTHERS = {  # functions that look like readers, and why they are not in the list
    "io.records.read_text": "the door that readers of text go through",
    "io.records.parse_json": "the door that readers of JSON go through",
    "io.records.parse_yaml": "the door that readers of YAML go through",
    "io.files.existing_file": "reads nothing",
    "io.cameras.parse_camera": "by read_camera",
    "io.images.read_frame": "by read_image and read_camera",
    "io.images.iterate_source": "by read_image; videos are OpenCV's",
    "io.images.iterate_frames": "by read_image and read_camera",
    "datasets.bop.results.parse_results_name": "reads nothing but a name",
    "datasets.bop.scenes.scenes": "by open_scene",
    "datasets.bop.scenes.images": "by open_scene",
    "datasets.bop.scenes.image_widths": "by read_frame",
    "datasets.bop.models.model_paths": "reads nothing but names",
    "datasets.bop.writing.count_images": "reads what its own writer has written",
    "datasets.bop.index.open_split": "by open_scene; its index is the package's own",
    "datasets.bop.index.open_scenes": "by open_scene; its index is the package's own",
    "io.packed.read_member": "reads bytes at a place that its own index has",
    "datasets.nuscenes_index.open_frames": "by the reader of nuScenes; its index is the package's own",
    "datasets.nuscenes_splits.scenes": "by read_tables",
    "datasets.pix3d.read_split": "a pickle of torch's data sets, tried in tests/io/test_pickles.py",
    "io.pickles.read_pickle": "by datasets.nocs.read_results",
    "datasets.nocs.find": "reads nothing but names",
    "datasets.kitti.read": "by read_frame",
    "mesh.readers.read_parts": "by load_mesh",
    "mesh.obj.read_obj": "by load_mesh",
    "mesh.gltf.read_gltf": "by load_mesh",
    "io.ply.read_ply": "by load_mesh",
    "mesh.loading.read_raw": "by load_mesh",
    "mesh.loading.look_is_whole": "by load_mesh",
    "weights.find_run": "reads nothing but names",
    "weights.find_file": "reads nothing but names",
    "weights.weights_in": "reads nothing but names",
}

K = [[100.0, 0.0, 15.5], [0.0, 110.0, 11.5], [0.0, 0.0, 1.0]]
FLAT = [v for row in K for v in row]
CAMERA = Camera(torch.tensor(K), (24, 32))
POSE = [[1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.9], [0.0, 0.0, 0.0, 1.0]]
ROS = f"""image_width: 32
image_height: 24
camera_name: head
camera_matrix:
  rows: 3
  cols: 3
  data: {FLAT}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0.0]}}
"""
OPENCV = f"""%YAML:1.0
---
image_width: 32
image_height: 24
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: {FLAT}
"""


def _json(name: str, content: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(json.dumps(content, indent=1))


def _text(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def _picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def _pictures(folder: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        _picture(folder / name)
    _picture(folder / "grey.tif", "L")
    _picture(folder / "palette.png", "P")


def _bop(folder: Path) -> None:
    mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    mask[:, 5:15, 8:20] = True
    instances = Instances(torch.ones(1).long(), torch.tensor([POSE]), masks=mask, visibility=torch.ones(1))
    frame = Frame(torch.rand(3, 24, 32), CAMERA, depth=torch.full((24, 32), 0.9), instances=instances)
    writing.append_frames(folder / "000000", [frame, frame], [mask, mask])


def _models(folder: Path) -> None:
    writing.write_models(folder, {1: box(obj_id=1), 2: box((0.1, 0.1, 0.2), obj_id=2)})
    symmetry = [1.0, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
    infos = json.loads((folder / "models_info.json").read_text())
    infos["1"]["symmetries_discrete"] = [symmetry]
    infos["2"]["symmetries_continuous"] = [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]
    (folder / "models_info.json").write_text(json.dumps(infos))


PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 4
property list uchar int vertex_indices
end_header
0 0 0 255 0 0
100 0 0 0 255 0
0 100 0 0 0 255
0 0 100 9 9 9
3 0 2 1
3 0 1 3
3 1 2 3
3 0 3 2
"""
OBJ = """mtllib a.mtl
usemtl wood
v 0 0 0
v 100 0 0
v 0 100 0
v 0 0 100
vt 0 0
vt 1 0
vt 0 1
f 1/1 3/3 2/2
f 1/1 2/2 4/3
f 2/1 3/2 4/3
f 1/1 4/2 3/3
"""
OFF = "OFF\n4 4 6\n0 0 0\n100 0 0\n0 100 0\n0 0 100\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
STL = "solid a\n" + "".join(
    "facet normal 0 0 0\nouter loop\n" + "".join(f"vertex {p}\n" for p in f) + "endloop\nendfacet\n"
    for f in (
        ("0 0 0", "0 100 0", "100 0 0"), ("0 0 0", "100 0 0", "0 0 100"),
        ("100 0 0", "0 100 0", "0 0 100"), ("0 0 0", "0 0 100", "0 100 0"),
    )
) + "endsolid a\n"  # fmt: skip


def _meshes(folder: Path) -> None:
    import trimesh

    for name, text in (("a.ply", PLY), ("a.obj", OBJ), ("a.off", OFF), ("ascii.stl", STL)):
        (folder / name).write_text(text)
    (folder / "a.mtl").write_text("newmtl wood\nKd 0.5 0.4 0.3\nmap_Kd wood.png\n")
    _picture(folder / "wood.png", size=(8, 8))
    solid = trimesh.creation.box((0.1, 0.2, 0.3))
    solid.export(folder / "a.glb")
    for name in ("binary.stl", "binary.ply"):
        solid.copy().apply_scale(1000).export(folder / name)


def _load_meshes(folder: Path) -> Any:
    return [
        loading.load_mesh(path, "mm") for path in sorted(folder.iterdir()) if path.suffix[1:] in ("ply", "obj", "off", "stl")
    ]


def _kitti(folder: Path) -> None:
    for name, text in (("calib", test_kitti.CALIB), ("label_2", f"{test_kitti.CAR}\n{test_kitti.NOTHING}\n")):
        (folder / name).mkdir()
        (folder / name / "000000.txt").write_text(text)
    _picture(folder / "image_2" / "000000.png", size=(64, 32))
    (folder / "results").mkdir()
    (folder / "results" / "000000.txt").write_text(f"{test_kitti.CAR} 0.9\n")


def _infos(folder: Path) -> None:
    eye = torch.eye(4).tolist()
    image = {"img_path": "a.jpg", "cam2ego": eye, "lidar2cam": eye, "sample_data_token": "d", "timestamp": 0.0, "cam2img": K}
    image |= {"height": 24, "width": 32}
    box3d = {"bbox_3d": [1.0, 2, 10, 4, 1.5, 2, 0.3], "bbox_label_3d": 0, "bbox_3d_isvalid": True, "velocity": [0.0, 0],
             "attr_label": -1, "num_lidar_pts": 3, "num_radar_pts": 0, "instance_id": "i", "bbox_label": 0}  # fmt: skip
    info = {"token": "s", "timestamp": 0.0, "ego2global": eye, "images": {"CAM_FRONT": image}, "instances": [box3d]}
    info["cam_instances"] = {"CAM_FRONT": [{**box3d, "bbox": [1.0, 1, 9, 9], "velocity": [0.0, 0]}]}
    (folder / "infos.json").write_text(json.dumps({"metainfo": {"categories": {"car": 0}}, "data_list": [info]}))
    _picture(folder / "a.jpg")


def _read_tables(folder: Path) -> Any:
    tables = nuscenes.read_tables(folder)
    return nuscenes.frames(tables, ["s0", "s1"], ("CAM_FRONT",)), nuscenes.truth(tables, ["s0", "s1"])


def _pix3d(folder: Path) -> None:
    entry = {
        "img": "img/bed/0001.png", "mask": "mask/bed/0001.png", "category": "bed", "img_size": [32, 24], "img_source": "ikea",
        "model_source": "ikea", "model": "model/bed/A/model.obj", "focal_length": 35.0, "rot_mat": [r[:3] for r in POSE[:3]],
        "trans_mat": [0.0, 0.0, 2.0], "cam_position": [0.0, 0.0, -2.0], "inplane_rotation": 0.0, "truncated": False,
        "occluded": False, "slightly_occluded": True, "bbox": [5, 5, 20, 20],
    }  # fmt: skip
    (folder / "pix3d.json").write_text(json.dumps([entry, {**entry, "img": "img/bed/0002.png", "mask": "mask/bed/0002.png"}]))
    for name in ("0001", "0002"):
        _picture(folder / "img/bed" / f"{name}.png")
        _picture(folder / "mask/bed" / f"{name}.png", "L")
    (folder / "model/bed/A").mkdir(parents=True)
    (folder / "model/bed/A/model.obj").write_text(OBJ.replace("mtllib a.mtl\nusemtl wood\n", "").replace("100", "0.5"))
    turn = [-1.0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    kinds = {
        "bed/A/model": {"symmetries_discrete": [turn], "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}
    }
    (folder / "symmetries.json").write_text(json.dumps(kinds))


def _read_pix3d(folder: Path) -> Any:
    found = pix3d.read(folder)
    return found, [pix3d.read_picture(r) for r in found], [pix3d.read_model(r) for r in found[:1]]


def _nocs(folder: Path) -> None:
    values = np.full((24, 32, 3), 255, np.uint8)
    values[5:15, 8:20, 0] = 1
    Image.fromarray(values).save(folder / "0000_mask.png")
    Image.fromarray(np.where(values == 255, 0, 90).astype(np.uint8)).save(folder / "0000_coord.png")
    Image.fromarray(np.full((24, 32), 900, np.uint16)).save(folder / "0000_depth.png")
    _picture(folder / "0000_color.png")
    (folder / "0000_meta.txt").write_text("1 6 mug_norm\n")


def _nocs_results(folder: Path) -> None:
    fields = {"gt_class_ids": np.array([6]), "gt_RTs": np.array([POSE]), "gt_scales": np.full((1, 3), 0.1)}
    fields |= {"pred_class_ids": np.array([6]), "pred_RTs": np.array([POSE]), "pred_scales": np.full((1, 3), 0.1)}
    with open(folder / "results_a.pkl", "wb") as file:
        pickle.dump(fields | {"pred_scores": np.array([0.9]), "gt_handle_visibility": np.array([1])}, file, protocol=2)


def _nocs_detections(folder: Path) -> None:
    masks = np.zeros((6, 8, 1), bool)
    masks[2:4, 3:6] = True
    fields = {"pred_class_ids": np.array([6]), "pred_scores": np.array([0.9]), "pred_masks": masks}
    (folder / "results_a.pkl").write_bytes(pickle.dumps(fields, protocol=2))


ANNOTATIONS = """resized_crop_source,model_source,truncated,occluded,slightly_occluded,image_path,cat_id,example_id,model_name,\
azimuth,elevation,inplane_rotation
ikea,ikea,False,False,True,resized_crop/bed/1.png,bed,X,model,90,-30,0.5
ikea,ikea,False,True,True,resized_crop/bed/2.png,bed,X,model,10,-3,-0.5
"""
PREDICTIONS = {
    "bins": "centred",
    "images": [
        {"image": f"img/bed/{k}.png", "category": "bed", "azimuth_deg": 10.0 * k, "elevation_deg": 5.0, "inplane_deg": 1.0,
         "bins": [1, 2, 3], "probabilities": [[0.125] * 8] * 3} for k in range(2)
    ],
}  # fmt: skip
DETECTION = {"scene_id": 1, "image_id": 2, "category_id": 3, "score": 0.5, "bbox": [1.0, 2.0, 10.0, 12.0], "time": 0.1}
RLE = {"counts": [100, 50, 618], "size": [24, 32]}


def _read_detections(folder: Path) -> Any:
    found = results.read_detections(folder / "d.json")
    return found, [results.detections_of(rows, masks=True) for rows in found.values()]


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
    "categories": [{"id": 1, "name": "box"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 10.0, 12.0], "area": 120, "iscrowd": 0,
         "segmentation": RLE}
    ],
}  # fmt: skip
TARGETS = [{"im_id": i, "inst_count": 1, "obj_id": 2, "scene_id": 3} for i in range(3)]
RESULT = f"{results.HEADER}\n" + "".join(f"1,{i},2,0.{i}5,1 0 0 0 1 0 0 0 1,10.5 20 900,0.25\n" for i in range(3))


@dataclass(frozen=True)
class Config:
    width: int = 4
    names: tuple[str, ...] = ("a",)


class Network(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.line = config, nn.Linear(2, config.width)


def _weights(folder: Path) -> None:
    weights.save(folder / "w.safetensors", Network(Config()).state_dict(), method="toy", config=Config(), labels=(1, 2))


def _read_weights(folder: Path) -> Any:
    file = folder / "w.safetensors"
    read = weights.read(file)
    return read.state, read.config, read.labels, dict(weights.load_network(file, "toy", Config, Network).state_dict())


CALIBRATION = calibration.Calibration(None, None, 1.5, {}, {}, 1)
OBJECT = box(obj_id=1)


READERS = {
    "camera.json": Reader("io.cameras.read_camera", _json("c.json", {"cam_K": FLAT, "width": 32, "height": 24,
                          "dist_coeffs": [0.0, 0.0, 0.0, 0.0]}), lambda f: cameras.read_camera(f / "c.json")),
    "camera.bop": Reader("datasets.bop.scenes.read_camera", _json("camera.json", {"fx": 100.0, "fy": 110.0, "cx": 15.5,
                         "cy": 11.5, "depth_scale": 1.0, "width": 32, "height": 24}),
                         lambda f: scenes.read_camera(f / "camera.json")),
    "camera.ros": Reader("io.cameras.read_camera", _text("c.yaml", ROS), lambda f: cameras.read_camera(f / "c.yaml")),
    "camera.opencv": Reader("io.cameras.read_camera", _text("c.yml", OPENCV), lambda f: cameras.read_camera(f / "c.yml")),
    "camera.text": Reader("io.cameras.read_camera", _text("cam_K.txt", "\n".join(" ".join(map(str, r)) for r in K)),
                          lambda f: cameras.read_camera(f / "cam_K.txt", size=(24, 32))),
    "camera.scene": Reader("io.cameras.read_camera", _json("scene_camera.json", {"3": {"cam_K": FLAT,
                           "depth_scale": 1.0}}),
                           lambda f: cameras.read_camera(f / "scene_camera.json", im_id=3, size=(24, 32))),
    "json": Reader("io.records.read_json", _json("a.json", TARGETS), lambda f: records.read_json(f / "a.json"), unknown=True,
                   kinds=False),
    "pictures": Reader("io.images.read_image", _pictures, lambda f: [images.read_image(p) for p in sorted(f.iterdir())]),
    "fast": Reader("datasets.bop.pictures.read_mask io.limits.imread", _pictures,
                   lambda f: (limits.imread(f / "a.png", cv2.IMREAD_COLOR), pictures.read_mask(f / "palette.png")),
                   ("a.png", "palette.png"), kinds=False),
    "list": Reader("datasets.bop.pictures.read_list", _text("l.txt", "1/2\n000003/000004\n"),
                   lambda f: pictures.read_list(f / "l.txt")),
    "masks": Reader("category.pipeline.read_masks", lambda f: _picture(f / "m.png", "L"), lambda f: read_masks(f / "m.png")),
    "boxes.coco": Reader("io.boxes.read_boxes", _json("b.json", COCO),
                         lambda f: boxes.read_boxes([str(f / "b.json")], (1,))("a.png"), kinds=False),
    "boxes.bop": Reader("io.boxes.read_boxes", _json("b.json", [DETECTION]),
                        lambda f: boxes.read_boxes([str(f / "b.json")], (3,))("000002.png"), kinds=False),
    "boxes.megapose": Reader("io.boxes.read_boxes", _json("b.json", [{"label": "mug", "bbox_modal": [1.0, 2, 30, 40]}]),
                             lambda f: boxes.read_boxes([str(f / "b.json")], (3,), {3: "mug"})("a.png")),
    "meshes": Reader("mesh.loading.load_mesh", _meshes, _load_meshes, ("*.ply", "*.obj", "*.off", "*.stl")),
    "looks": Reader("mesh.loading.load_mesh", _meshes, lambda f: loading.load_mesh(f / "a.obj", "mm"), ("*.mtl", "*.png"),
                    kinds=False),
    "gltf": Reader("mesh.loading.load_mesh", _meshes, lambda f: loading.load_mesh(f / "a.glb"),
                   ("*.glb",)),
    "models_info": Reader("datasets.bop.models.read_models_info", _models, models.read_models_info, ("*.json",)),
    "models": Reader("datasets.bop.models.read_models datasets.bop.models.read_names", _models, models.read_models,
                     ("*.json", "*.ply")),
    "points": Reader("datasets.bop.models.read_model_points datasets.bop.models.read_ply_vertices", _models,
                     models.read_model_points, ("*.ply",)),
    "scene": Reader("datasets.bop.scenes.open_scene datasets.bop.scenes.read_instances", _bop,
                    lambda f: [scenes.read_instances(scenes.open_scene(f / "000000"), i) for i in (0, 1)],
                    ("*/*.json", "*/mask*/*.png")),
    "frame": Reader("datasets.bop.scenes.read_frame datasets.bop.scenes.read_depth", _bop,
                    lambda f: scenes.read_frame(f / "000000", 1), ("*/*.json", "*/rgb/000001.png", "*/depth/000001.png")),
    "targets": Reader("datasets.bop.scenes.read_targets", _json("t.json", TARGETS),
                      lambda f: scenes.read_targets(f / "t.json")),
    "results": Reader("datasets.bop.results.read_results", _text("m_d-test.csv", RESULT),
                      lambda f: results.read_results(f / "m_d-test.csv")),
    "counts": Reader("datasets.bop.results.read_counts",
                     _json(results.counts_file("m_d-test.csv").name, {"rows": [[1, 2, 3, 4, 4]]}),
                     lambda f: results.read_counts(f / "m_d-test.csv")),
    "detections": Reader("datasets.bop.results.read_detections", _json("d.json", [{**DETECTION, "segmentation": RLE}]),
                         _read_detections, called="scene 1, image 2"),
    "kitti.calibration": Reader("datasets.kitti.read_calibration", _text("k.txt", test_kitti.CALIB),
                                lambda f: kitti.read_calibration(f / "k.txt")),
    "kitti.labels": Reader("datasets.kitti.read_labels", _text("l.txt", f"{test_kitti.CAR}\n{test_kitti.NOTHING}\n"),
                           lambda f: kitti.read_labels(f / "l.txt")),
    "kitti.frame": Reader("datasets.kitti.read_frame", _kitti, lambda f: kitti.read_frame(f, "000000"),
                          ("calib/*", "label_2/*", "image_2/*"), True),
    "kitti.results": Reader("evaluation.kitti.read", _kitti, lambda f: kitti_evaluation.read(f / "results"), ("results/*",)),
    "nuscenes.tables": Reader("datasets.nuscenes.read_tables road.samples.nuscenes_tables",
                              lambda f: test_nuscenes.written(f, test_nuscenes.tables()), _read_tables, ("*/*.json",), True,
                              called="are all tables of one version"),
    "nuscenes.results": Reader("datasets.nuscenes.read_results", _json("r.json", {"meta": {"use_camera": True},
                               "results": {"s0": [test_nuscenes.box()], "s1": []}}),
                               lambda f: nuscenes.read_results(f / "r.json"), unknown=True),
    "infos": Reader("datasets.nuscenes.read_infos datasets.nuscenes.infos_truth road.samples.read_frames", _infos,
                    lambda f: (nuscenes.read_infos(f / "infos.json"), nuscenes.infos_truth(f / "infos.json")),
                    ("infos.json",), True),
    "lidar": Reader("datasets.nuscenes.read_lidar", lambda f: np.ones((4, 5), np.float32).tofile(f / "a.pcd.bin"),
                    lambda f: nuscenes.read_lidar(f / "a.pcd.bin"), unknown=True, kinds=False),
    "names": Reader("road.samples.read_names", _text("n.txt", "000001\n000002\n"), lambda f: road.read_names(f / "n.txt")),
    "pix3d": Reader("datasets.pix3d.read datasets.pix3d.read_picture datasets.pix3d.read_model", _pix3d, _read_pix3d,
                    ("pix3d.json", "img/bed/0001.png", "mask/bed/0001.png", "model/bed/A/*")),
    "pix3d.symmetries": Reader("datasets.pix3d.read_symmetries", _pix3d, pix3d.read_symmetries, ("symmetries.json",)),
    "annotations": Reader("datasets.pix3d.read_annotations", _text("bed_annotation.txt", ANNOTATIONS),
                          lambda f: pix3d.read_annotations(f / "bed_annotation.txt")),
    "predictions": Reader("evaluation.viewpoint.read_predictions", _json("p.json", PREDICTIONS),
                          lambda f: viewpoint.read_predictions(f / "p.json")),
    "nocs": Reader("datasets.nocs.read", _nocs, lambda f: nocs.read(f / "0000", CAMERA)),
    "nocs.results": Reader("datasets.nocs.read_results datasets.nocs.results_folder", _nocs_results, nocs.results_folder,
                           unknown=True),
    "nocs.detections": Reader("datasets.nocs.read_detections", _nocs_detections,
                              lambda f: nocs.read_detections(f / "results_a.pkl", (6, 8))),
    "weights": Reader("weights.read weights.load_network", _weights, _read_weights),
    "calibration": Reader("objects.calibration.read", lambda f: calibration.write(f, CALIBRATION),
                          lambda f: calibration.read(f, {})),
    "start": Reader("tracking.commands.read_start", _json("s.json", {"poses": [{"label": 1, "cam_from_obj": POSE}]}),
                    lambda f: read_start(f / "s.json", [OBJECT])),
}  # fmt: skip
