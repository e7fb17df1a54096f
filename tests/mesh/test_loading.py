"""Mesh files in, metres out: closed forms for boxes and balls, round trips of every format, messages for bad files."""

import math
import warnings

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from monopose.mesh.loading import albedo, diameter, load_mesh, read_raw, simplified, surface_samples

BOX = (0.1, 0.06, 0.04)  # metres


def save(mesh, path, scale=1.0):
    mesh = mesh.copy()
    mesh.apply_scale(scale)
    mesh.export(path)
    return path


def box():
    return trimesh.creation.box(BOX)


def colored_box():
    mesh = box()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, 2:] > 0, [[255, 0, 0, 255]], [[0, 0, 255, 255]]).astype(np.uint8)
    return mesh


def textured_quad():
    """A square, 10 cm, with a picture: left half red, right half green, the lowest row blue."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 0] = 255
    picture[:, 4:, 1] = 255
    picture[7] = (0, 0, 255)
    vertices = np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0.1, 0]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    visual = trimesh.visual.TextureVisuals(uv=uv, image=Image.fromarray(picture))
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off", "glb"])
@pytest.mark.parametrize("unit, scale", [("m", 1.0), ("cm", 100.0), ("mm", 1000.0), ("inch", 1 / 0.0254)])
def test_every_format_and_unit_gives_the_same_metres(tmp_path, suffix, unit, scale):
    model = load_mesh(save(box(), tmp_path / f"part.{suffix}", scale), unit)
    torch.testing.assert_close(model.bounds[1] - model.bounds[0], torch.tensor(BOX), atol=1e-6, rtol=0)
    assert model.diameter == pytest.approx(math.dist((0, 0, 0), BOX), rel=1e-6)
    assert model.name == "part"
    assert model.faces.dtype == torch.int64
    assert model.vertices.dtype == torch.float32


def test_glb_is_in_metres_without_being_told(tmp_path):
    assert load_mesh(save(box(), tmp_path / "part.glb")).diameter == pytest.approx(math.dist((0, 0, 0), BOX), rel=1e-6)


def test_a_placed_and_mirrored_part_of_a_scene_keeps_its_outside(tmp_path):
    scene = trimesh.Scene()
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = (1, 2, 3)
    scene.add_geometry(box(), transform=mirror)
    scene.export(tmp_path / "placed.glb")
    model = load_mesh(tmp_path / "placed.glb")
    torch.testing.assert_close(model.bounds.mean(0), torch.tensor([1.0, 2, 3]), atol=1e-5, rtol=0)
    samples = surface_samples(model, 100, torch.Generator().manual_seed(0))
    assert ((samples.points - torch.tensor([1.0, 2, 3])) * samples.normals).sum(-1).min() > 0


def test_sharp_edges_split_normals_and_flat_ones_join_them(tmp_path):
    model = load_mesh(save(box(), tmp_path / "box.stl"), "m")
    assert len(model.vertices) == 24  # three normals at each of eight corners
    a, b, c = (model.vertices[model.faces[:, k]] for k in range(3))
    flat = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    torch.testing.assert_close(model.normals[model.faces], flat[:, None].expand(-1, 3, -1), atol=1e-5, rtol=0)

    ball = load_mesh(save(trimesh.creation.icosphere(3, 0.05), tmp_path / "ball.stl"), "m")
    assert len(ball.vertices) == 642  # merged again: STL repeats every corner
    radial = torch.nn.functional.normalize(ball.vertices, dim=-1)
    assert (ball.normals * radial).sum(-1).min() > 0.999


def test_normals_of_the_file_are_kept(tmp_path):
    mesh = trimesh.creation.icosphere(2, 0.05)
    bent = np.tile([[0.0, 0.6, 0.8]], (len(mesh.vertices), 1))
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=bent, process=False)
    mesh.export(tmp_path / "bent.ply", vertex_normal=True)
    torch.testing.assert_close(load_mesh(tmp_path / "bent.ply", "m").normals, torch.tensor(bent).float(), atol=1e-5, rtol=0)


def test_vertex_colors_survive(tmp_path):
    for suffix in ("ply", "glb"):
        model = load_mesh(save(colored_box(), tmp_path / f"c.{suffix}"), "m")
        top = model.vertices[:, 2] > 0
        torch.testing.assert_close(model.colors[top], torch.tensor([[1.0, 0, 0]]).expand(int(top.sum()), 3))
        torch.testing.assert_close(model.colors[~top], torch.tensor([[0.0, 0, 1]]).expand(int((~top).sum()), 3))
        assert model.texture is None


def test_face_colors_become_vertex_colors(tmp_path):
    mesh = box()
    mesh.visual.face_colors = np.where(mesh.face_normals[:, 2:] > 0.5, [[255, 0, 0, 255]], [[0, 0, 0, 255]]).astype(np.uint8)
    mesh.export(tmp_path / "f.ply")
    model = load_mesh(tmp_path / "f.ply", "m")
    red = model.colors[:, 0] > 0.5
    torch.testing.assert_close(model.normals[red], torch.tensor([[0.0, 0, 1]]).expand(int(red.sum()), 3), atol=1e-5, rtol=0)
    assert int(red.sum()) == 4


@pytest.mark.parametrize("suffix", ["obj", "glb", "ply"])
def test_texture_and_coordinates_point_at_the_same_pixels(tmp_path, suffix):
    path = tmp_path / f"quad.{suffix}"
    if suffix == "ply":  # the way BOP names a texture
        textured_quad().visual.material.image.save(tmp_path / "quad.png")
        rows = ["0 0 0 0 0", "0.1 0 0 1 0", "0.1 0.1 0 1 1", "0 0.1 0 0 1", "3 0 1 2", "3 0 2 3"]
        header = ["ply", "format ascii 1.0", "comment TextureFile quad.png", "element vertex 4"]
        header += [f"property float {n}" for n in ("x", "y", "z", "texture_u", "texture_v")]
        header += ["element face 2", "property list uchar int vertex_indices", "end_header"]
        path.write_text("\n".join(header + rows) + "\n")
    else:
        textured_quad().export(path)
    model = load_mesh(path, "m")
    assert tuple(model.texture.shape) == (3, 8, 8)
    assert model.colors is None
    samples = surface_samples(model, 2000, torch.Generator().manual_seed(0))
    color, x, y = albedo(model, samples), samples.points[:, 0], samples.points[:, 1]
    low = y < 0.1 / 8
    want = torch.stack([(x < 0.05) & ~low, (x >= 0.05) & ~low, low], -1).float()
    clear = ((x - 0.05).abs() > 1e-4) & ((y - 0.1 / 8).abs() > 1e-4)
    torch.testing.assert_close(color[clear], want[clear])


def test_a_missing_texture_is_told_and_survived(tmp_path):
    path = tmp_path / "quad.ply"
    path.write_text(
        "ply\nformat ascii 1.0\ncomment TextureFile gone.png\nelement vertex 3\nproperty float x\nproperty float y\n"
        "property float z\nproperty float texture_u\nproperty float texture_v\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n"
    )
    with pytest.warns(UserWarning, match=r"quad\.ply names the texture 'gone\.png', which is not beside it"):
        model = load_mesh(path, "m")
    assert model.texture is None
    assert model.colors is None


def test_several_materials_become_vertex_colors(tmp_path):
    scene = trimesh.Scene()
    for k, color in enumerate(([255, 0, 0, 255], [0, 255, 0, 255])):
        part = box()
        part.apply_translation((0, 0, 0.2 * k))
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=color)
        part.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(part)
    scene.export(tmp_path / "two.glb")
    model = load_mesh(tmp_path / "two.glb")
    upper = model.vertices[:, 2] > 0.1
    torch.testing.assert_close(model.colors[upper], torch.tensor([[0.0, 1, 0]]).expand(int(upper.sum()), 3))
    torch.testing.assert_close(model.colors[~upper], torch.tensor([[1.0, 0, 0]]).expand(int((~upper).sum()), 3))


def test_faces_without_area_are_dropped(tmp_path):
    mesh = box()
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [2, 3, 2]]])
    trimesh.Trimesh(mesh.vertices, faces, process=False).export(tmp_path / "flat.ply")
    assert len(load_mesh(tmp_path / "flat.ply", "m").faces) == 12


# ------------------------------------------------------------------------------------------------------------ bad files


def test_a_missing_file_names_its_neighbours(tmp_path):
    save(box(), tmp_path / "gear.ply")
    with pytest.raises(FileNotFoundError, match=r"no mesh file .*geer\.ply \(mesh files there: gear\.ply\)"):
        load_mesh(tmp_path / "geer.ply", "mm")


def test_an_unknown_format_lists_the_known(tmp_path):
    (tmp_path / "part.xyz").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"part\.xyz is not a known mesh format; known: \.ply, \.obj"):
        load_mesh(tmp_path / "part.xyz", "mm")


@pytest.mark.parametrize(
    ("name", "way"), [("part.STEP", "FreeCAD .*STL"), ("part.3mf", "MeshLab .*STL"), ("part.dae", "Blender .*glb")]
)
def test_formats_that_people_have_say_how_to_convert_them(name, way, tmp_path):
    (tmp_path / name).write_text("something")
    with pytest.raises(ValueError, match=rf"{name} .*{way}.*; known: \.ply, \.obj"):
        load_mesh(tmp_path / name, "mm")


@pytest.mark.parametrize("suffix", ["ply", "stl", "glb", "off"])
def test_a_broken_file_says_so(tmp_path, suffix):
    whole = save(trimesh.creation.icosphere(2, 0.05), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} is cut short"):
        load_mesh(path, "m")


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "empty.obj").write_text("")
    with pytest.raises(ValueError, match=r"empty\.obj (could not be read|has no faces)"):
        load_mesh(tmp_path / "empty.obj", "m")


def test_a_point_cloud_is_refused_with_advice(tmp_path):
    trimesh.PointCloud(np.random.default_rng(0).random((50, 3))).export(tmp_path / "cloud.ply")
    with pytest.raises(ValueError, match=r"cloud\.ply has no faces \(50 points: a point cloud\?\); a surface is needed"):
        load_mesh(tmp_path / "cloud.ply", "m")


def test_nan_vertices_are_counted(tmp_path):
    mesh = box()
    vertices = mesh.vertices.copy()
    vertices[3, 1] = np.nan
    vertices[5, 0] = np.inf
    trimesh.Trimesh(vertices, mesh.faces, process=False, validate=False).export(tmp_path / "nan.ply")
    with pytest.raises(ValueError, match=r"nan\.ply has 2 vertices with NaN or infinite coordinates \(first: number 3\)"):
        load_mesh(tmp_path / "nan.ply", "m")


@pytest.mark.slow
def test_two_million_faces_are_refused_with_advice(tmp_path):
    n = 1001
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    vertices = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1) * 1e-4
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)[None]).ravel()
    low, high = [corner, corner + 1, corner + n], [corner + 1, corner + n + 1, corner + n]
    faces = np.concatenate([np.stack(low, 1), np.stack(high, 1)])
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "fine.stl")
    with pytest.raises(ValueError, match=r"fine\.stl asks for 2e\+06 faces.*MONOPOSE_MAX_FACES.*decimate it"):
        load_mesh(tmp_path / "fine.stl", "m")


def test_units_are_asked_for_with_the_size_in_each(tmp_path):
    save(box(), tmp_path / "gear.ply", 1000)
    with pytest.raises(
        ValueError, match=r"PLY does not say its unit.* 100 m if in m, 1 m if in cm, 100 mm if in mm, 2.54 m if in"
    ):
        load_mesh(tmp_path / "gear.ply")
    with pytest.raises(ValueError, match=r"--unit mm; in Python load_mesh\('gear\.ply', unit=\"mm\"\)"):
        load_mesh(tmp_path / "gear.ply")
    with pytest.raises(ValueError, match=r"unknown unit 'millimeter'; known: m, cm, mm, inch"):
        load_mesh(tmp_path / "gear.ply", "millimeter")


def test_an_object_of_124_m_or_of_a_tenth_of_a_millimetre_is_an_error_with_the_fix(tmp_path):
    save(box(), tmp_path / "gear.ply", 1240)
    want = (
        r"object 'gear' is 124 m long; is the file in millimetres\? "
        r"Use load_mesh\('gear\.ply', unit=\"mm\"\) \(--unit mm\)"
    )
    with pytest.raises(ValueError, match=want):
        load_mesh(tmp_path / "gear.ply", "m")
    save(box(), tmp_path / "gear.glb", 1240)  # GLB files often disobey their specification
    with pytest.raises(ValueError, match=r"object 'gear' is 124 m long; is the file in millimetres"):
        load_mesh(tmp_path / "gear.glb")
    save(box(), tmp_path / "nut.obj", 1)
    with pytest.raises(ValueError, match=r"object 'nut' is 0\.1 mm long; is the file in metres\? Use .*unit=\"m\""):
        load_mesh(tmp_path / "nut.obj", "mm")


# ------------------------------------------------------------------------------------------------------------- measures


def test_diameter_equals_the_largest_of_all_distances():
    points = np.random.default_rng(1).normal(size=(300, 3))
    want = np.linalg.norm(points[:, None] - points[None], axis=-1).max()
    assert diameter(points) == pytest.approx(want, rel=1e-12)
    assert diameter(torch.from_numpy(points)) == pytest.approx(want, rel=1e-12)
    flat = points * [1, 1, 0]
    assert diameter(flat) == pytest.approx(np.linalg.norm(flat[:, None] - flat[None], axis=-1).max(), rel=1e-9)
    assert diameter(points[:2]) == pytest.approx(np.linalg.norm(points[0] - points[1]), rel=1e-12)


def test_diameter_of_a_fine_ball():
    ball = trimesh.creation.icosphere(5, 0.05)  # 10242 corners, all on the hull
    assert diameter(ball.vertices) == pytest.approx(0.1, rel=1e-4)


def test_samples_are_spread_by_area(tmp_path):
    model = load_mesh(save(box(), tmp_path / "box.ply"), "m")
    n = 60_000
    samples = surface_samples(model, n, torch.Generator().manual_seed(3))
    a, b, c = BOX
    total = 2 * (a * b + b * c + a * c)
    for axis, area in ((0, 2 * b * c), (1, 2 * a * c), (2, 2 * a * b)):
        share = (samples.normals[:, axis].abs() > 0.5).double().mean().item()
        p = area / total
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)
    top = samples.points[samples.normals[:, 2] > 0.5]
    torch.testing.assert_close(top[:, 2], torch.full((len(top),), c / 2))
    for axis in (0, 1):  # uniform on the top: variance (side)^2 / 12
        assert top[:, axis].var().item() == pytest.approx(BOX[axis] ** 2 / 12, rel=0.03)
        assert abs(top[:, axis].mean().item()) < 4 * BOX[axis] / math.sqrt(12 * len(top))


def test_samples_repeat_with_the_seed_and_lie_on_their_faces(tmp_path):
    model = load_mesh(save(trimesh.creation.icosphere(2, 0.05), tmp_path / "ball.ply"), "m")
    one, two = (surface_samples(model, 500, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one.points, two.points)
    assert not torch.equal(one.points, surface_samples(model, 500, torch.Generator().manual_seed(8)).points)
    rebuilt = (one.bary[..., None] * model.vertices[model.faces[one.faces]]).sum(1)
    torch.testing.assert_close(rebuilt, one.points, atol=1e-7, rtol=0)
    assert one.bary.min() >= 0
    torch.testing.assert_close(one.bary.sum(-1), torch.ones(500))


def test_simplified_keeps_shape_and_colors(tmp_path):
    mesh = trimesh.creation.icosphere(4, 0.05)
    colors = np.where(mesh.vertices[:, 2:] > 0, [[255, 0, 0, 255]], [[0, 0, 255, 255]]).astype(np.uint8)
    mesh.visual.vertex_colors = colors
    model = load_mesh(save(mesh, tmp_path / "ball.ply"), "m", obj_id=4)
    coarse = simplified(model, 500)
    assert 300 <= len(coarse.faces) <= 600
    assert (coarse.obj_id, coarse.diameter) == (4, model.diameter)
    assert (coarse.vertices.norm(dim=-1) - 0.05).abs().max() < 0.002
    clear = coarse.vertices[:, 2].abs() > 0.006
    want = coarse.vertices[:, 2] > 0
    assert ((coarse.colors[:, 0] > 0.5) == want)[clear].all()
    assert simplified(coarse, 1000) is coarse


# ------------------------------------------------------------------------------------------------------------ real files


@pytest.mark.slow
def test_lmo_models_have_the_published_diameters(shared_data):
    import json

    folder = shared_data / "lmo" / "models"
    info = json.loads((folder / "models_info.json").read_text())
    for obj_id, entry in info.items():
        model = load_mesh(folder / f"obj_{int(obj_id):06d}.ply", "mm")
        assert model.diameter * 1000 == pytest.approx(entry["diameter"], rel=1e-4)
        assert model.colors is not None


@pytest.mark.slow
def test_real_textured_files(shared_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ketchup = load_mesh(shared_data / "meshes" / "hope_ketchup" / "textured.obj", "cm")
        banana = load_mesh(shared_data / "meshes" / "ycb_Banana" / "textured_simple_reoriented.obj", "m")
        bottle = load_mesh(shared_data / "hope_bbq" / "models" / "obj_000002.ply", "mm")
    for model, longest in ((ketchup, 0.1486), (banana, 0.1958), (bottle, 0.1483)):
        assert float((model.bounds[1] - model.bounds[0]).max()) == pytest.approx(longest, abs=1e-3)
        assert model.texture is not None
        assert max(model.texture.shape) <= 2048
    # a banana is yellow, seen through its texture coordinates
    red, green, blue = albedo(banana, surface_samples(banana, 5000, torch.Generator().manual_seed(0))).median(0).values.tolist()
    assert red > green > blue + 0.2
    raw = read_raw(shared_data / "meshes" / "ycb_Banana" / "textured_simple_reoriented.obj")
    assert raw.notes == ()
