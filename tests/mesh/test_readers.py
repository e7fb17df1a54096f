"""Mesh files taken at their word: polygons, counts, encodings, textures, materials; the right values, or a clear refusal."""

import base64
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from monopose.datasets.bop.models import read_ply_vertices
from monopose.mesh.loading import load_mesh, look_is_whole, read_raw
from monopose.mesh.polygons import triangulated


def area(raw):
    a, b, c = (raw.vertices[raw.faces[:, k]] for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def notes_of(path, unit="mm"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_mesh(path, unit)
    return model, [str(w.message) for w in caught]


# ------------------------------------------------------------------------------------------------------------- polygons

ELL = [(0, 0), (60, 0), (60, 10), (10, 10), (10, 40), (0, 40)]  # 900 mm2, around it 200 mm


def ell_profile(path):
    """An L profile 15 mm high whose caps are one concave hexagon each: 2 x 900 + 200 x 15 = 4800 mm2."""
    vertices = [(x, y, z) for z in (0, 15) for x, y in ELL]
    faces = [[5, 4, 3, 2, 1, 0], [6, 7, 8, 9, 10, 11], *([i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6] for i in range(6))]
    if path.suffix == ".obj":
        lines = [f"v {x} {y} {z}" for x, y, z in vertices] + ["f " + " ".join(str(i + 1) for i in f) for f in faces]
    else:
        rows = [f"{x} {y} {z}" for x, y, z in vertices] + [f"{len(f)} " + " ".join(map(str, f)) for f in faces]
        if path.suffix == ".off":
            lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *rows]
        else:
            lines = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}", *(f"property float {a}" for a in "xyz")]
            lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", *rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["obj", "ply", "off"])
def test_concave_faces_keep_their_notches(tmp_path, suffix):
    raw = read_raw(ell_profile(tmp_path / f"ell.{suffix}"))
    assert area(raw) == pytest.approx(4800)
    corners = raw.vertices[raw.faces]  # volume by the divergence theorem: every triangle looks outwards
    assert np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6 == pytest.approx(900 * 15)


@pytest.mark.parametrize("corners", [5, 24, 101])
def test_stars_in_any_plane_have_the_area_of_the_shoelace_formula(corners):
    rng = np.random.default_rng(corners)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 2 * corners))
    radius = np.where(np.arange(2 * corners) % 2, 1.0, rng.uniform(0.2, 0.9, 2 * corners))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    want = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    frame = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for order in (1, -1):
        points = (np.stack([x, y], 1) @ frame[:2])[::order]
        triangles, owner = triangulated(points, np.array([len(points)]))
        a, b, c = (points[triangles[:, k]] for k in range(3))
        assert len(triangles) == len(points) - 2
        assert (owner == 0).all()
        assert np.linalg.norm(np.cross(b - a, c - a).sum(0)) / 2 == pytest.approx(want)  # all turned alike
        assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(want)  # none over another


def test_a_hole_that_is_cut_open_stays_a_hole():
    outer, inner = [(0, 0), (4, 0), (4, 4), (0, 4)], [(1, 1), (1, 3), (3, 3), (3, 1)]
    ring = np.array([*outer, outer[0], *inner, inner[0]], float)
    points = np.c_[ring, np.zeros(len(ring))]
    triangles, _ = triangulated(points, np.array([len(points)]))
    a, b, c = (points[triangles[:, k]] for k in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(16 - 4)


# ------------------------------------------------------------------------------------------------------- cut and broken


@pytest.mark.parametrize("suffix", ["ply", "off"])
def test_text_that_ends_early_is_refused_with_its_line(tmp_path, suffix):
    path = ell_profile(tmp_path / f"ell.{suffix}")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(ValueError, match=rf"cut short.*promises.*at line {len(lines) - 3}"):
        read_raw(path)
    path.write_text("\n".join([*lines[:-1], lines[-1][:4]]) + "\n")
    with pytest.raises(ValueError, match=rf"line {len(lines)}"):
        read_raw(path)


def test_an_obj_that_ends_within_a_face_is_refused_with_its_line(tmp_path):
    path = ell_profile(tmp_path / "ell.obj")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], "f 5 6"]))
    with pytest.raises(ValueError, match=rf"ell\.obj, line {len(lines)}: a face needs at least three corners"):
        read_raw(path)
    path.write_text("\n".join([*lines[:-1], "f 5 6 13"]))
    with pytest.raises(ValueError, match=rf"ell\.obj, line {len(lines)}: a face has the corner '13'.* only 12 vertices"):
        read_raw(path)


def test_a_face_is_not_taken_for_a_vertex(tmp_path):
    path = ell_profile(tmp_path / "ell.ply")
    lines = path.read_text().splitlines()
    del lines[12]  # a vertex: now the first face stands where the last vertex is promised
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"line 21: expected the numbers of a 'vertex' \(x y z\), got '6 5 4 3 2 1 0'"):
        read_ply_vertices(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_ply_with_triangles_and_quads(tmp_path, order):
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 4, 0]], order + "f4")
    header = f"ply\nformat binary_{'little' if order == '<' else 'big'}_endian 1.0\nelement vertex 5\n"
    header += "property float x\nproperty float y\nproperty float z\nelement face 2\n"
    header += "property uchar quality\nproperty list uint8 int32 vertex_index\nend_header\n"
    faces = (
        b"\x07\x04" + np.array([0, 1, 2, 3], order + "i4").tobytes() + b"\x09\x03" + np.array([3, 2, 4], order + "i4").tobytes()
    )
    path = tmp_path / "mixed.ply"
    path.write_bytes(header.encode() + vertices.tobytes() + faces)
    raw = read_raw(path)
    assert area(raw) == pytest.approx(4 + 2)
    assert raw.faces.tolist() == [[0, 1, 2], [2, 3, 0], [3, 2, 4]]
    path.write_bytes(header.encode() + vertices.tobytes() + faces[:-5])
    with pytest.raises(ValueError, match="cut short: its header promises 2 faces"):
        read_raw(path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("element vertex 12", "element vertex -1", r"line 3: the number of 'vertex' must be a whole number from 0, got -1"),
        ("property float x", "property quad x", r"line 4: unknown property 'property quad x'; known types: char"),
        ("element face 8", "element face 4000000000", r"asks for 4e\+09 faces of a mesh.*MONOPOSE_MAX_FACES"),
        ("element vertex 12", "element vertex 4000000000", r"cut short: its header promises 4000000000 vertices"),
    ],
)
def test_headers_that_ask_for_the_impossible(tmp_path, old, new, message):
    path = ell_profile(tmp_path / "ell.ply")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_mesh(path, "mm")


@pytest.mark.parametrize(
    ("kind", "row", "face", "message"),
    [
        ("uchar", "0 200 0", "3 0 1 2", None),
        ("uchar", "0 200 0.5", "3 0 1 2", "'blue' of element 'vertex' is declared as uchar, and has the value 0.5"),
        ("uchar", "300 200 0", "3 0 1 2", "'red' of element 'vertex' is declared as uchar, and has the value 300"),  # not 44
        ("char", "0 0 200", "3 0 1 2", "'blue' .* declared as char, and has the value 200"),
        ("uchar", "0 0 -5", "3 0 1 2", "'blue' .* has the value -5"),
        ("uchar", "0 0 0", "3 0 1.5 2", "'vertex_indices' of element 'face' is declared as int, and has the value 1.5"),
    ],
)
def test_numbers_in_text_are_of_the_type_that_the_header_declares(tmp_path, kind, row, face, message):
    header = "".join(f"property {kind} {colour}\n" for colour in ("red", "green", "blue"))
    text = (
        f"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n{header}"
        f"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0 {row}\n1 0 0 {row}\n0 1 0 {row}\n{face}\n"
    )
    path = tmp_path / "a.ply"
    path.write_text(text)
    if message is None:
        np.testing.assert_allclose(read_raw(path).colors, np.tile([0, 200 / 255, 0], (3, 1)))
        path.write_text(
            text.replace("uchar red", "ushort red").replace("uchar green", "ushort green").replace("uchar b", "ushort b")
        )
        np.testing.assert_allclose(read_raw(path).colors, np.tile([0, 200 / 255, 0], (3, 1)))  # not nearly black
        return
    with pytest.raises(ValueError, match=rf"a\.ply.*{message}"):
        read_raw(path)
    if "face" not in message:
        with pytest.raises(ValueError, match=message):
            read_ply_vertices(path)


def test_a_vertex_number_that_is_no_whole_number_is_refused(tmp_path):
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
        "property list uchar float vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1.5 2\n"
    )
    with pytest.raises(ValueError, match=r"a\.ply has a face with vertex number 1\.5, which is no whole number"):
        read_raw(tmp_path / "a.ply")


def test_large_concave_faces_take_no_time_and_endless_ones_are_refused(monkeypatch):
    k = np.arange(300)
    teeth = np.stack([np.stack([k + 0.1, 0 * k], 1), np.stack([k + 0.5, 0 * k + 80], 1), np.stack([k + 0.9, 0 * k], 1)], 1)
    comb = np.concatenate([[[0, 0]], teeth.reshape(-1, 2), [[300, -10], [0, -10]]])
    points = np.pad(comb, ((0, 0), (0, 1)))
    corners = points[triangulated(points, np.array([len(points)]))[0]]
    signed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    assert (signed <= 0).all()  # this comb turns clockwise
    assert -signed.sum() == pytest.approx(300 * 10 - 0.1 * 10 / 2 + 300 * 0.8 * 80 / 2)
    tangle = np.random.default_rng(0).random(
        (600, 3)
    )  # crosses itself everywhere; took 6 s, and eight times that for twice as many
    assert len(triangulated(tangle, np.array([400]))[0]) == 398
    with pytest.raises(ValueError, match="concave faces of up to 6000 corners, which take long"):
        triangulated(np.random.default_rng(0).random((6000, 3)), np.array([6000]))


@pytest.mark.parametrize("end", ["\r", "\n ", "\n\t"])
def test_faces_are_counted_however_their_lines_begin(tmp_path, monkeypatch, end):
    monkeypatch.setenv("MONOPOSE_MAX_FACES", "10")
    path = tmp_path / "a.obj"
    path.write_text(end.join(["v 0 0 0", "v 1 0 0", "v 0 1 0", *["f 1 2 3"] * 11]))
    with pytest.raises(ValueError, match=r"a\.obj asks for 11 faces of a mesh.*MONOPOSE_MAX_FACES"):
        read_raw(path)
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf" + " 1 2 3" * 5 + "\n")
    with pytest.raises(ValueError, match="asks for 13 faces"):
        read_raw(path)
    if end == "\r":
        monkeypatch.delenv("MONOPOSE_MAX_FACES")
        path.write_bytes(b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * 1_000_001)
        monkeypatch.setattr("monopose.mesh.obj._lines", None)  # before any line is read
        with pytest.raises(ValueError, match=r"asks for 1e\+06 faces"):
            read_raw(path)


def test_what_an_obj_holds_beside_triangles_is_said(tmp_path):
    triangle = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    (tmp_path / "a.obj").write_text(triangle + "cstype bspline\ndeg 1 1\nsurf 0 1 0 1 1 2 3 3\nend\n")
    assert any("curved surfaces ('surf') are not read" in note for note in notes_of(tmp_path / "a.obj", "cm")[1])
    (tmp_path / "b.obj").write_text("mtllib b.mtl\nusemtl a\n" + triangle)
    (tmp_path / "b.mtl").write_text("newmtl a\nKd 255 0 0\n")
    with pytest.raises(ValueError, match=r"b\.mtl, line 2: 'Kd' must be from 0 to 1"):
        read_raw(tmp_path / "b.obj")


@pytest.mark.parametrize("suffix", ["obj", "ply", "off"])
def test_limits_are_asked_before_work_is_done(tmp_path, suffix, monkeypatch):
    path = ell_profile(tmp_path / f"ell.{suffix}")
    monkeypatch.setenv("MONOPOSE_MAX_FACES", "7")
    with pytest.raises(ValueError, match=rf"ell\.{suffix} asks for 8 faces.*MONOPOSE_MAX_FACES"):
        load_mesh(path, "mm")
    monkeypatch.delenv("MONOPOSE_MAX_FACES")
    monkeypatch.setenv("MONOPOSE_MAX_MESH_MB", "0.0001")
    with pytest.raises(ValueError, match="MONOPOSE_MAX_MESH_MB"):
        load_mesh(path, "mm")


def test_numbers_that_are_none_are_refused(tmp_path):
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 9 0 x\nvertex 0 9 0\nendloop\nendfacet\n"
    (tmp_path / "a.stl").write_text(f"solid a\n{facet}endsolid a\n")
    with pytest.raises(ValueError, match=r"a\.stl, line 5: a 'vertex' must be three numbers, got '9 0 x'"):
        read_raw(tmp_path / "a.stl")
    path = textured(tmp_path, "newmtl m\nmap_Kd tex.png\n", BAD)
    with pytest.raises(ValueError, match=r"row 2 of 'vt' has NaN or infinite texture coordinates"):
        read_raw(path)
    path = ell_profile(tmp_path / "ell.ply")
    path.write_text(path.read_text().replace("property float z", "property float x"))
    with pytest.raises(ValueError, match=r"element 'vertex' names a property twice \(x, y, x\)"):
        read_raw(path)


# ------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "gbk"])
def test_names_and_comments_in_any_encoding(tmp_path, encoding, monkeypatch):
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)  # which trimesh would ask
    word = "Gehäuse" if encoding == "latin-1" else "模型"
    for suffix, comment in (("obj", "# {}\n"), ("ply", "comment {}\n"), ("off", "# {}\n")):
        path = ell_profile(tmp_path / f"ell.{suffix}")
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        lines.insert(2 if suffix == "ply" else 1, comment.format(word))
        path.write_bytes("".join(lines).encode(encoding))
        assert area(read_raw(path)) == pytest.approx(4800)
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 100 0 0\nvertex 0 100 0\nendloop\nendfacet\n"
    (tmp_path / "a.stl").write_bytes(f"solid {word}\n{facet}endsolid {word}\n".encode(encoding))
    assert area(read_raw(tmp_path / "a.stl")) == pytest.approx(5000)
    (tmp_path / "a.stl").write_bytes(f"solid {word}\n{facet}{facet[:40]}".encode(encoding))
    with pytest.raises(ValueError, match=r"a\.stl is cut short: no 'endsolid' of its last solid, the file ends at line"):
        read_raw(tmp_path / "a.stl")


# ------------------------------------------------------------------------------------------------------- OBJ materials

QUAD = "v 0 0 0\nv 30 0 0\nv 30 20 0\nv 0 20 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"
BAD = "mtllib a.mtl\n" + QUAD.replace("vt 1 0", "vt nan 0") + "usemtl m\n" + FACE


def textured(folder, mtl, obj="mtllib a.mtl\n" + QUAD + "usemtl m\n" + FACE, picture="tex.png", encoding="utf-8"):
    (folder / "models").mkdir()
    where = folder / "models" / picture
    where.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), (200, 100, 50), np.uint8)).save(where)
    (folder / "models" / "a.mtl").write_bytes(mtl.encode(encoding))
    (folder / "models" / "a.obj").write_text(obj)
    return folder / "models" / "a.obj"


@pytest.mark.parametrize(
    "line, picture",
    [
        ("map_Kd tex.png", "tex.png"),
        ("map_Kd -s 1 1 1 tex.png", "tex.png"),
        ("map_Kd -blendu on -mm 0 1 -clamp off my tex.png", "my tex.png"),
        ("map_Kd ../images/tex.png", "../images/tex.png"),
        ("map_Kd textures\\tex.png", "textures/tex.png"),
        ("# für\nmap_Kd tex.png", "tex.png"),
    ],
)
def test_textures_are_found_as_programs_write_them(tmp_path, line, picture):
    (tmp_path / "images").mkdir()
    path = textured(tmp_path, f"newmtl m\nKd 0.2 0.2 0.2\n{line}\n", picture=picture, encoding="latin-1")
    model, notes = notes_of(path)
    assert notes == []
    torch.testing.assert_close(model.texture[:, 0, 0], torch.tensor([200.0, 100, 50]) / 255)
    assert model.colors is None


def test_scale_and_offset_of_a_texture(tmp_path):
    model, _ = notes_of(textured(tmp_path, "newmtl m\nmap_Kd -s 2 3 1 -o 0.5 0 0 tex.png\n"))
    order = model.vertices[:, :2].argmax(0)
    torch.testing.assert_close(model.uv.min(0).values, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(model.uv.max(0).values, torch.tensor([2.5, 3.0]))
    assert len(order) == 2


def test_a_path_of_another_computer_takes_the_file_beside_and_says_so(tmp_path):
    model, notes = notes_of(textured(tmp_path, "newmtl m\nmap_Kd C:\\Users\\x\\tex.png\n"))
    assert model.texture is not None
    assert [n for n in notes if r"names the texture 'C:\Users\x\tex.png', which is not there; tex.png beside it is taken" in n]
    assert look_is_whole(tmp_path / "models" / "a.obj")


@pytest.mark.parametrize(
    "mtl, obj, message",
    [
        ("newmtl m\nKd 1 1 1\nmap_Kd gone.png\n", None, "names the texture 'gone.png', which is not beside it"),
        ("newmtl m\nKd 1 1 1\nmap_Kd ../../secret.png\n", None, "which lies outside of the folders beside it"),
        ("newmtl m\nmap_Kd a.mtl\n", None, r"the texture 'a.mtl' cannot be read \(no picture, or cut short\)"),
        ("newmtl n\nmap_Kd tex.png\n", None, "uses the material 'm', which no material file has"),
        ("newmtl m\nmap_Kd tex.png\n", "mtllib b.mtl\n" + QUAD + "usemtl m\n" + FACE, "names the material file 'b.mtl'"),
        ("newmtl m\nmap_Kd tex.png\n", "mtllib a.mtl\n" + QUAD + "usemtl m\nf 1 2 3 4\n", "have no texture coordinates"),
    ],
)
def test_a_look_that_is_lost_is_named(tmp_path, mtl, obj, message):
    Image.new("RGB", (4, 4)).save(tmp_path.parent / "secret.png")
    path = textured(tmp_path, mtl, *([obj] if obj else []))
    with pytest.warns(UserWarning, match=message):
        model = load_mesh(path, "mm")
    assert model.texture is None
    assert model.colors is None
    with pytest.warns(UserWarning, match="no symmetries are proposed"):
        assert not look_is_whole(path)


def test_an_only_material_that_no_face_uses_is_taken_and_named(tmp_path):
    path = textured(tmp_path, "newmtl m\nmap_Kd tex.png\n", "mtllib a.mtl\n" + QUAD + FACE)
    model, notes = notes_of(path)
    assert model.texture is not None
    assert ["usemtl" in n for n in notes] == [True]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    secret = tmp_path / "other" / "secret.png"
    secret.parent.mkdir()
    Image.new("RGB", (4, 4)).save(secret)
    (tmp_path / "set").mkdir()
    path = textured(tmp_path / "set", "newmtl m\nmap_Kd link.png\n")
    (path.parent / "link.png").symlink_to(secret)
    _, notes = notes_of(path)
    assert "link.png" in notes[0]


def test_obj_corners_counted_backwards_and_materials_side_by_side(tmp_path):
    text = (
        "mtllib a.mtl\nv 0 0 0\nv 9 0 0\nv 0 9 0\nusemtl red\nf -3 -2 -1\nv 0 0 5\nv 9 0 5\nv 0 9 5\nusemtl grey\nf -3 -2 -1\n"
    )
    path = textured(tmp_path, "newmtl red\nKd 1 0 0\nnewmtl grey\nKd 0.4 0.4 0.4\n", text)
    model, notes = notes_of(path)
    assert notes == []
    upper = model.vertices[:, 2] > 0.001
    torch.testing.assert_close(model.colors[upper], torch.full((3, 3), 0.4))
    torch.testing.assert_close(model.colors[~upper], torch.tensor([[1.0, 0, 0]]).expand(3, 3))


# ------------------------------------------------------------------------------------------------------------------ glTF


def gltf(path, positions, material=None, uv=None, colors=None, normalized=False, node=None, picture=(200, 100, 50), extra=None):
    """One triangle as a .gltf with everything inside."""
    blob, views, accessors, attributes = b"", [], [], {}
    for name, values, kind in (("POSITION", positions, "VEC3"), ("TEXCOORD_0", uv, "VEC2"), ("COLOR_0", colors, "VEC4")):
        if values is None:
            continue
        code = {"f4": 5126, "u1": 5121, "i2": 5122, "u2": 5123}[values.dtype.str[1:]]
        width = values.dtype.itemsize * values.shape[1]
        stride = -(-width // 4) * 4  # rows start at multiples of four bytes
        rows = b"".join(row.tobytes().ljust(stride, b"\0") for row in values)
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(rows), "byteStride": stride})
        accessor = {"bufferView": len(views) - 1, "componentType": code, "count": len(values), "type": kind}
        accessors.append(accessor | ({"normalized": True} if values.dtype.kind != "f" and normalized else {}))
        attributes[name] = len(accessors) - 1
        blob += rows
    primitive = {"attributes": attributes} | ({} if material is None else {"material": 0})
    tree = {
        "asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0} | (node or {})],
        "meshes": [{"primitives": [primitive]}], "accessors": accessors, "bufferViews": views,
        "buffers": [{"byteLength": len(blob), "uri": "data:;base64," + base64.b64encode(blob).decode()}],
    }  # fmt: skip
    if material is not None:
        tree["materials"] = [material]
        Image.fromarray(np.full((4, 4, 3), picture, np.uint8)).save(path.parent / "t.png")
        tree |= {"textures": [{"source": 0}], "images": [{"uri": "t.png"}]}
    path.write_text(json.dumps(tree | (extra or {})))
    return path


TRIANGLE = np.array([[0, 0, 0], [0.03, 0, 0], [0, 0.02, 0]], "f4")
UV = np.array([[0, 0], [1, 0], [0, 1]], "f4")


def test_gltf_normalised_integers_are_fractions(tmp_path):
    """KHR_mesh_quantization: a part of 30 mm, its corners as sixteen-bit fractions of a node's scale."""
    corners = (TRIANGLE / 0.03 * 32767).round().astype("i2")
    path = gltf(
        tmp_path / "q.gltf", corners, {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}, (UV * 65535).astype("u2"),
        normalized=True, node={"scale": [0.03, 0.03, 0.03]}, extra={"extensionsRequired": ["KHR_mesh_quantization"]},
    )  # fmt: skip
    model, notes = notes_of(path, None)
    assert notes == []
    torch.testing.assert_close(model.vertices, torch.from_numpy(TRIANGLE), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.uv, torch.tensor([[0.0, 1], [1, 1], [0, 0]]))


def test_gltf_vertex_colours_beside_a_material_are_kept(tmp_path):
    colors = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], "u1")
    path = gltf(tmp_path / "c.gltf", TRIANGLE, {"pbrMetallicRoughness": {"metallicFactor": 0}}, colors=colors, normalized=True)
    torch.testing.assert_close(load_mesh(path).colors, torch.eye(3))


def test_gltf_base_colour_times_texture(tmp_path):
    pbr = {"baseColorFactor": [1, 0.2140411, 0, 1], "baseColorTexture": {"index": 0}}  # linear light: sRGB 1, 0.5, 0
    model = load_mesh(gltf(tmp_path / "f.gltf", TRIANGLE, {"pbrMetallicRoughness": pbr}, UV))
    torch.testing.assert_close(model.texture[:, 0, 0] * 255, torch.tensor([200.0, 50, 0]))


def test_gltf_texture_transform(tmp_path):
    change = {"offset": [0.5, 0.25], "scale": [2, 3], "rotation": np.pi / 2}
    named = {"index": 0, "extensions": {"KHR_texture_transform": change}}
    model = load_mesh(gltf(tmp_path / "t.gltf", TRIANGLE, {"pbrMetallicRoughness": {"baseColorTexture": named}}, UV))
    c, s = 0, 1  # the extension's own matrix product: offset x rotation x scale
    matrix = (
        np.array([[1, 0, 0.5], [0, 1, 0.25], [0, 0, 1]]) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ np.diag([2, 3, 1])
    )
    want = (np.c_[UV, np.ones(3)] @ matrix.T)[:, :2]
    want[:, 1] = 1 - want[:, 1]
    torch.testing.assert_close(model.uv, torch.from_numpy(want).float(), atol=1e-6, rtol=0)


def test_gltf_says_what_it_lacks(tmp_path):
    path = gltf(tmp_path / "a.gltf", TRIANGLE, {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}, UV)
    (tmp_path / "t.png").unlink()
    with pytest.warns(UserWarning, match=r"a\.gltf names the texture 't\.png', which is not beside it"):
        load_mesh(path)
    path = gltf(tmp_path / "d.gltf", TRIANGLE, extra={"extensionsRequired": ["KHR_draco_mesh_compression"]})
    with pytest.raises(ValueError, match="needs the glTF extension KHR_draco_mesh_compression, which is not read"):
        load_mesh(path)
    circle = {"nodes": [{"children": [1]}, {"children": [0], "mesh": 0}]}
    with pytest.raises(ValueError, match="or in a circle"):
        load_mesh(gltf(tmp_path / "e.gltf", TRIANGLE, extra=circle))


PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
property uchar r
property uchar g
property uchar b
element face 1
property list uchar int vertex_indices
end_header
0 0 0 255 0 0
9 0 0 255 0 0
0 9 0 255 0 0
3 0 1 2
"""


def test_a_ply_has_the_rows_that_its_header_counts_and_colours_by_any_name(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text(PLY)
    assert load_mesh(path, "mm").colors[0].tolist() == [1, 0, 0]
    path.write_text(PLY + "3 0 2 1\n")
    with pytest.raises(ValueError, match=r"a\.ply, line 17: 1 rows more than its header counts"):
        load_mesh(path, "mm")


@pytest.mark.parametrize("colour", [" 255 0 0 255", ""])
def test_colours_of_an_off_are_missed_aloud(tmp_path, colour):
    path = tmp_path / "a.off"
    path.write_text(f"COFF\n3 1 0\n0 0 0{colour}\n9 0 0{colour}\n0 9 0{colour}\n3 0 1 2\n")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        load_mesh(path, "mm")
    assert ["colours of an OFF file are not read" in str(w.message) for w in heard] == [True] * bool(colour)


# ---------------------------------------------------------------------------------- counted, connected, and cut files


@pytest.mark.parametrize("nodes", [[{"children": [0, 0]}], [{"mesh": 0}, *({"children": [k] * 10} for k in range(30))]])
def test_nodes_of_a_gltf_that_are_no_tree_are_refused_at_once(tmp_path, nodes):
    path = gltf(tmp_path / "a.gltf", TRIANGLE)
    content = json.loads(path.read_text()) | {"nodes": nodes, "scenes": [{"nodes": [len(nodes) - 1]}], "scene": 0}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.gltf: node \d+ hangs below two others, or in a circle"):
        read_raw(path)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"rotation": [0, 0, 0, 0]}, "a quaternion xyzw of length 1"),
        ({"matrix": [1, 0, 0, 0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}, "'matrix' must be written column by column"),
        ({"extensions": {"EXT_mesh_gpu_instancing": {}}}, "EXT_mesh_gpu_instancing, which is not read"),
    ],
)
def test_placements_of_a_gltf_that_are_none(tmp_path, node, message):
    with pytest.raises(ValueError, match=message):
        read_raw(gltf(tmp_path / "a.gltf", TRIANGLE, node=node))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"scenes": None}, "'scenes' in 'the file' must be a JSON list, got 'None'"),
        ({"meshes": [{"primitives": None}]}, "'primitives' in 'meshes' must be a JSON list"),
        ({"meshes": [{"primitives": [3]}]}, "0 in 'primitives' must be a JSON object, got '3'"),
        ({"meshes": [{"primitives": [{"attributes": []}]}]}, "'attributes' in 'primitives' must be a JSON object"),
        ({"asset": None}, "'asset' must have 'version' 2.0"),
        ({"materials": [{"pbrMetallicRoughness": None}]}, "'pbrMetallicRoughness' in 'materials' must be a JSON object"),
        ({"materials": [{"pbrMetallicRoughness": {"baseColorFactor": [255, 0, 0, 1]}}]}, r"must be from 0 to 1, got \[255"),
        ({"nodes": [{"mesh": 0}] * 20_001, "scenes": [{"nodes": list(range(20_001))}]}, "more than 20,000 nodes"),
    ],
)
def test_the_shape_of_a_gltf_is_checked_before_it_is_used(tmp_path, extra, message):
    with pytest.raises(ValueError, match=rf"a\.gltf.*{message}"):
        read_raw(gltf(tmp_path / "a.gltf", TRIANGLE, {}, extra=extra))


def test_what_of_a_gltf_is_left_out_or_at_rest_is_said(tmp_path):
    nodes = {"nodes": [{"mesh": 0}, {"mesh": 0, "translation": [1, 0, 0]}]}
    model, notes = notes_of(gltf(tmp_path / "a.gltf", TRIANGLE, extra=nodes), None)
    assert len(model.faces) == 1
    assert any("1 node with a mesh belong to no scene" in note for note in notes)
    for node in ({"skin": 0}, {"weights": [0.5]}):
        assert any("moved by bones or weights" in n for n in notes_of(gltf(tmp_path / "a.gltf", TRIANGLE, node=node), None)[1])
    assert notes_of(gltf(tmp_path / "a.gltf", TRIANGLE, node={"weights": [0.0]}), None)[1] == []


def test_an_stl_has_three_corners_in_each_facet(tmp_path):
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 90 0 0\nvertex 0 90 0\nendloop\nendfacet\n"
    text = "solid a\n" + facet * 6 + "endsolid\n"
    lines = text.split("\n")
    del lines[3], lines[10], lines[17]  # three corners of three facets: their number is still a multiple of three
    (tmp_path / "a.stl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.stl, line 7: a facet must have three corners"):
        read_raw(tmp_path / "a.stl")
    whole = "solid a\n" + facet * 2 + "endsolid a\n"
    (tmp_path / "a.stl").write_text(whole * 2)
    assert len(read_raw(tmp_path / "a.stl").faces) == 4
    (tmp_path / "a.stl").write_text(whole + "solid b\n" + facet)
    with pytest.raises(ValueError, match=r"a\.stl is cut short: no 'endsolid' of its last solid, the file ends at line 24"):
        read_raw(tmp_path / "a.stl")


def test_colours_of_a_binary_stl_are_missed_aloud(tmp_path):
    rows = np.zeros(4, [("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
    rows["c"] = 100 * np.eye(4, 3)[[[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]]
    for colours, said in (([0, 0, 0, 0], []), ([0x8001, 0x9000, 0x8000, 0xFFFF], ["colours of an STL"])):
        rows["a"] = colours
        (tmp_path / "a.stl").write_bytes(b" " * 80 + (4).to_bytes(4, "little") + rows.tobytes())
        notes = notes_of(tmp_path / "a.stl")[1]
        assert len(notes) == len(said)
        assert all(part in note for part, note in zip(said, notes))


GRID = "".join(f"v {x} {y} {x * y % 3}\n" for x in range(4) for y in range(4))
CELLS = [f"f {4 * x + y + 1} {4 * x + y + 2} {4 * x + y + 6} {4 * x + y + 5}\n" for x in range(3) for y in range(3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID + "".join(CELLS), None),
        (GRID + "".join(CELLS[:5]), r"5 of 16 vertices belong to no face; if the file was cut short"),
        (GRID + "".join(CELLS)[:-1], "ends within a line, and its surface is open"),
    ],
)
def test_an_obj_that_looks_cut_short_says_so(tmp_path, text, message):
    (tmp_path / "a.obj").write_text(text)
    notes = notes_of(tmp_path / "a.obj")[1]
    assert [bool(message and re.search(message, note)) for note in notes] == ([] if message is None else [True])


@pytest.mark.parametrize("line", ["map_Kd", "map_Ka tex.png", "Kd spectral red.rfl"])
def test_a_look_in_a_form_that_is_not_read_is_named(tmp_path, line):
    path = textured(tmp_path, f"newmtl m\n{line}\n")
    assert [line in note for note in notes_of(path)[1]] == [True]
    with pytest.warns(UserWarning, match="no symmetries are proposed"):
        assert not look_is_whole(path)


def test_many_materials_without_a_file_are_one_warning(tmp_path):
    (tmp_path / "a.obj").write_text(GRID + "".join(f"usemtl m{n}\n{face}" for n, face in enumerate(CELLS)))
    assert [re.search("'m0', 'm1', .* and 4 more", note) is not None for note in notes_of(tmp_path / "a.obj")[1]] == [True]


def test_text_in_utf_16_is_read(tmp_path):
    (tmp_path / "a.obj").write_text(GRID + "".join(CELLS), encoding="utf-16")
    assert len(read_raw(tmp_path / "a.obj").faces) == 18


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("comment TextureFile: tex.png", None), ("obj_info TextureFile tex.png", None),
        ("comment TextureFile x.png\ncomment TextureFile tex.png", "names 2 textures; the last, 'tex.png'"),
    ],
)  # fmt: skip
def test_textures_of_a_ply_in_all_spellings(tmp_path, header, said):
    Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / "tex.png")
    lines = ["ply", "format ascii 1.0", *header.split("\n"), "element vertex 3", *(f"property float {a}" for a in "xyzst")]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    lines += ["0 0 0 0 0", "90 0 0 1 0", "0 90 0 0 1", "3 0 1 2"]
    (tmp_path / "a.ply").write_text("\n".join(lines) + "\n")
    model, notes = notes_of(tmp_path / "a.ply")
    assert model.texture is not None
    assert [said in note for note in notes] == ([] if said is None else [True])


def test_a_binary_ply_with_more_bytes_than_its_header_counts_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    trimesh.creation.box((60, 40, 20)).export(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"element face 12", b"element face 06"))
    with pytest.raises(ValueError, match=r"a\.ply has 75 bytes more than its header counts"):
        read_raw(path)
    path.write_bytes(whole + b"\n")
    assert len(read_raw(path).faces) == 12


def test_an_off_in_modelnets_spelling_is_read_and_further_rows_are_refused(tmp_path):
    text = "OFF3 1 0\n0 0 0\n90 0 0\n0 90 0\n3 0 1 2\n"
    (tmp_path / "a.off").write_text(text)
    assert len(read_raw(tmp_path / "a.off").faces) == 1
    (tmp_path / "a.off").write_text(text + "3 0 2 1\n")
    with pytest.raises(ValueError, match=r"line 6: 1 rows more than its header counts"):
        read_raw(tmp_path / "a.off")
