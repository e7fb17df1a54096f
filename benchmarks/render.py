"""Our renderer against Embree (embreex, Open3D) and OpenGL in software (moderngl on Mesa), in one run.

    python benchmarks/render.py [--rounds 15]

Every renderer gets the same mesh, pose and camera and gives face index, barycentric weights and depth, then object
coordinates as well. One core means that the process is pinned to one core before any library starts. Renderers take
turns within every round, so a busy machine slows all of them alike; the table holds the median and the best round.
Acceleration structures and vertex buffers of the others are built outside the clock, and what they return is not even
unpacked. The last columns say how far their result is from ours: median depth error, share of pixels in one silhouette only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NEAR, FAR = 0.01, 10.0
Output = dict[str, np.ndarray]  # "depth" (B, H, W), 0 = nothing; "face"; "coordinates" if asked for


def blob(faces: int) -> tuple[np.ndarray, np.ndarray]:
    """A bumpy closed surface of about 0.2 m with close to `faces` triangles: (V, 3) float32, (F, 3) int64."""
    rings = round((faces / 4) ** 0.5) + 1
    around = 2 * rings
    theta = np.linspace(0, np.pi, rings + 1)[1:-1]
    phi = np.arange(around) * (2 * np.pi / around)
    t, p = np.meshgrid(theta, phi, indexing="ij")
    r = 0.1 * (1 + 0.25 * np.sin(3 * p) * np.sin(t) ** 3 + 0.1 * np.cos(5 * t))
    grid = np.stack([r * np.sin(t) * np.cos(p), r * np.sin(t) * np.sin(p), r * np.cos(t)], -1).reshape(-1, 3)
    vertices = np.concatenate([grid, [[0, 0, 0.11], [0, 0, -0.11]]]).astype(np.float32)
    i = np.arange(rings - 2)[:, None] * around
    j = np.arange(around)[None]
    a, b = i + j, i + (j + 1) % around
    quads = np.concatenate([np.stack([a, a + around, b], -1), np.stack([b, a + around, b + around], -1)]).reshape(-1, 3)
    top, last, j = len(grid), (rings - 2) * around, np.arange(around)
    caps = [
        np.stack([np.full(around, top), j, (j + 1) % around], -1),
        np.stack([np.full(around, top + 1), last + (j + 1) % around, last + j], -1),
    ]
    return vertices, np.concatenate([quads, *caps]).astype(np.int64)


def random_poses(n: int, distance: float) -> np.ndarray:
    """Random rotations at a fixed distance, (n, 4, 4), float32."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((n, 3, 3)))
    q *= np.linalg.det(q)[:, None, None]
    poses = np.tile(np.eye(4, dtype=np.float32), (n, 1, 1))
    poses[:, :3, :3] = q
    poses[:, 2, 3] = distance
    return poses


def object_rays(K: np.ndarray, size: tuple[int, int], poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions in the object frame, two (B * H * W, 3) float32; directions have z = 1 in the camera."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    directions = (np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(K).T).astype(np.float32)
    R, t = poses[:, :3, :3], poses[:, :3, 3]
    rays = np.concatenate([directions @ r for r in R])
    origins = np.repeat(np.stack([-r.T @ v for r, v in zip(R, t)]), len(directions), 0)
    return origins.astype(np.float32), np.ascontiguousarray(rays, np.float32)


class Ours:
    """monopose: numba kernel, threads over images."""

    name = "monopose"

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: tuple[int, int], batch: int) -> None:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.vertices, self.faces, self.K = torch.from_numpy(vertices), torch.from_numpy(faces), torch.from_numpy(K)
        self.size = size

    def __call__(self, poses: np.ndarray, coordinates: bool) -> Callable[[], Output]:
        import torch

        from monopose.geometry import se3
        from monopose.render import maps, rasterize

        out = rasterize(se3.transform(torch.from_numpy(poses), self.vertices), self.faces, self.K, self.size, NEAR)
        found = {"depth": out.depth, "face": out.face}
        if coordinates:
            found["coordinates"] = maps.coordinates(out, self.faces, self.vertices)
        return lambda: {k: v.numpy() for k, v in found.items()}


class Embreex:
    """Embree through embreex (trimesh's ray caster without its wrapper), one thread."""

    name = "Embree (embreex)"
    needs = "embreex"

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: tuple[int, int], batch: int) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.scene = EmbreeScene()
        TriangleMesh(self.scene, vertices, faces.astype(np.int32))
        self.K, self.size = K, size

    def __call__(self, poses: np.ndarray, coordinates: bool) -> Callable[[], Output]:
        origins, rays = object_rays(self.K, self.size, poses)
        hit = self.scene.run(origins, rays, output=True)
        found = origins + rays * hit["tfar"][:, None] if coordinates else None

        def unpack() -> Output:
            miss = hit["primID"] < 0
            shape = (len(poses), *self.size)
            out: Output = {"depth": np.where(miss, 0, hit["tfar"]).reshape(shape), "face": hit["primID"].reshape(shape)}
            if found is not None:
                out["coordinates"] = np.where(miss[:, None], 0, found).reshape(*shape, 3)
            return out

        return unpack


class Open3D:
    """Embree through Open3D's RaycastingScene, all threads of the process."""

    name = "Embree (Open3D)"
    needs = "open3d"

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: tuple[int, int], batch: int) -> None:
        import open3d

        self.threads = len(os.sched_getaffinity(0))
        self.tensor = open3d.core.Tensor
        self.scene = open3d.t.geometry.RaycastingScene(nthreads=self.threads)
        self.scene.add_triangles(self.tensor(vertices), self.tensor(faces.astype(np.uint32)))
        self.K, self.size = K, size

    def __call__(self, poses: np.ndarray, coordinates: bool) -> Callable[[], Output]:
        origins, rays = object_rays(self.K, self.size, poses)
        hit = self.scene.cast_rays(self.tensor(np.concatenate([origins, rays], -1)), nthreads=self.threads)
        t, face = hit["t_hit"].numpy(), hit["primitive_ids"].numpy()
        with np.errstate(invalid="ignore"):
            found = origins + rays * t[:, None] if coordinates else None

        def unpack() -> Output:
            miss, shape = np.isinf(t), (len(poses), *self.size)
            out: Output = {
                "depth": np.where(miss, 0, t).reshape(shape),
                "face": np.where(miss, -1, face.astype(np.int64)).reshape(shape),
            }
            if found is not None:
                out["coordinates"] = np.where(miss[:, None], 0, found).reshape(*shape, 3)
            return out

        return unpack


VERTEX_SHADER = """
#version 330
uniform mat4 pose;
uniform mat3 K;
uniform vec2 size;
uniform vec2 limits;
in vec3 position;
in vec2 corner;
out vec3 weights_z;
out vec3 place;
void main() {
    vec3 p = (pose * vec4(position, 1.0)).xyz;
    vec3 q = K * p;
    float n = limits.x, f = limits.y;
    gl_Position = vec4((2.0 * q.xy + p.z) / size - p.z, ((f + n) * p.z - 2.0 * f * n) / (f - n), p.z);
    weights_z = vec3(corner, p.z);
    place = position;
}
"""
FRAGMENT_SHADER = """
#version 330
in vec3 weights_z;
in vec3 place;
layout(location = 0) out vec4 fragment;
layout(location = 1) out vec4 coordinates;
void main() {
    fragment = vec4(weights_z, float(gl_PrimitiveID + 1));
    coordinates = vec4(place, 1.0);
}
"""


class OpenGL:
    """OpenGL without a GPU: Mesa's llvmpipe through moderngl and EGL, all threads of the process."""

    name = "OpenGL (moderngl)"
    needs = "moderngl"

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: tuple[int, int], batch: int) -> None:
        import moderngl

        self.context = moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]
        self.name = f"OpenGL ({self.context.info['GL_RENDERER'].split(' ')[0]})"
        self.program = self.context.program(VERTEX_SHADER, FRAGMENT_SHADER)
        self.uniforms: dict[str, Any] = {name: self.program[name] for name in ("K", "size", "limits", "pose")}
        corner = np.tile(np.array([[1, 0], [0, 1], [0, 0]], np.float32), (len(faces), 1))
        buffer = self.context.buffer(np.concatenate([vertices[faces].reshape(-1, 3), corner], 1).astype(np.float32).tobytes())
        self.array = self.context.vertex_array(self.program, [(buffer, "3f 2f", "position", "corner")])
        self.size, self.columns = size, max(int(batch**0.5), 1)
        self.rows = -(-batch // self.columns)
        canvas = (size[1] * self.columns, size[0] * self.rows)
        self.targets = []
        for attachments in (1, 2):
            colors = [self.context.renderbuffer(canvas, 4, dtype="f4") for _ in range(attachments)]
            self.targets.append(self.context.framebuffer(colors, self.context.depth_renderbuffer(canvas)))
        self.uniforms["K"].write(np.ascontiguousarray(K.T, np.float32).tobytes())
        self.uniforms["size"].value = (size[1], size[0])
        self.uniforms["limits"].value = (NEAR, FAR)
        self.context.enable(moderngl.DEPTH_TEST)

    def __call__(self, poses: np.ndarray, coordinates: bool) -> Callable[[], Output]:
        target = self.targets[int(coordinates)]
        target.use()
        target.viewport = (0, 0, *target.size)
        target.clear()
        h, w = self.size
        for i, pose in enumerate(poses):
            target.viewport = ((i % self.columns) * w, (i // self.columns) * h, w, h)
            self.uniforms["pose"].write(np.ascontiguousarray(pose.T).tobytes())
            self.array.render()
        target.viewport = (0, 0, *target.size)
        raw = [target.read(components=4, attachment=k, dtype="f4") for k in range(1 + coordinates)]

        def tiles(data: bytes) -> np.ndarray:
            canvas = np.frombuffer(data, np.float32).reshape(self.rows, h, self.columns, w, 4)
            images: np.ndarray = canvas.transpose(0, 2, 1, 3, 4).reshape(-1, h, w, 4)
            return images[: len(poses)]

        def unpack() -> Output:
            first = tiles(raw[0])
            out: Output = {"depth": first[..., 2], "face": first[..., 3].astype(np.int64) - 1}
            if coordinates:
                out["coordinates"] = tiles(raw[1])[..., :3]
            return out

        return unpack


RENDERERS: list[Any] = [Ours, Embreex, Open3D, OpenGL]
CASES = [  # title, faces, size, batch, with coordinates, all cores
    ("640x480, 5,000 faces", 5_000, (480, 640), 1, False, False),
    ("640x480, 5,000 faces, + coordinates", 5_000, (480, 640), 1, True, False),
    ("640x480, 100,000 faces", 100_000, (480, 640), 1, False, False),
    ("640x480, 100,000 faces, + coordinates", 100_000, (480, 640), 1, True, False),
    ("128x128 crop, 5,000 faces", 5_000, (128, 128), 1, False, False),
    ("64 crops 128x128, 5,000 faces", 5_000, (128, 128), 64, False, True),
]


def agreement(ours: Output, theirs: Output) -> dict[str, float]:
    """How far two results differ: share of pixels in one silhouette only, median depth and coordinate errors in metres."""
    a, b = ours["depth"] > 0, theirs["depth"] > 0
    both = a & b
    out = {"silhouette": float((a != b).mean()), "depth": float(np.median(np.abs(ours["depth"] - theirs["depth"])[both]))}
    out["face"] = float((ours["face"] != theirs["face"])[both].mean())
    if "coordinates" in ours:
        out["coordinates"] = float(np.median(np.abs(ours["coordinates"] - theirs["coordinates"])[both]))
    return out


def measure(title: str, rounds: int) -> dict[str, Any]:
    """One case: milliseconds per renderer, or why it is missing, and its agreement with ours."""
    _, count, size, batch, coordinates, _ = next(case for case in CASES if case[0] == title)
    vertices, faces = blob(count)
    f = 600.0 * size[0] / 480 if batch == 1 and size[0] == 480 else 2.2 * size[0]
    K = np.array([[f, 0, (size[1] - 1) / 2], [0, f, (size[0] - 1) / 2], [0, 0, 1]])
    poses = random_poses(batch, 0.45 if size[0] == 480 else 0.6)
    ready: dict[str, Any] = {}
    result: dict[str, Any] = {
        "faces": len(faces),
        "ms": {},
        "missing": {},
        "agreement": {},
        "cores": len(os.sched_getaffinity(0)),
    }
    for renderer in RENDERERS:
        needs = getattr(renderer, "needs", None)
        if needs and importlib.util.find_spec(needs) is None:
            result["missing"][renderer.name] = "not installed"
            continue
        try:
            made = renderer(vertices, faces, K, size, batch)
            found = made(poses, coordinates)()
        except Exception as error:
            result["missing"][renderer.name] = f"failed: {str(error).splitlines()[0][:80]}"
            continue
        if renderer is Ours:
            reference = found
            result["covered"] = float((found["depth"] > 0).mean())
        else:
            result["agreement"][made.name] = agreement(reference, found)
        ready[made.name] = made
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, renderer in ready.items():
            start = time.perf_counter()
            renderer(poses, coordinates)
            times[name].append((time.perf_counter() - start) * 1e3)
    result["ms"] = {name: float(np.median(t)) for name, t in times.items()}
    result["best"] = {name: float(np.min(t)) for name, t in times.items()}
    return result


def in_child(title: str, rounds: int, all_cores: bool) -> dict[str, Any]:
    """`measure` in a fresh process, pinned before any library makes threads."""
    cores = sorted(os.sched_getaffinity(0))
    mine = cores if all_cores else cores[-1:]
    threads = str(len(mine))
    env = {**os.environ, "OMP_NUM_THREADS": threads, "LP_NUM_THREADS": "0" if len(mine) == 1 else threads}
    command = [sys.executable, __file__, "--case", title, "--rounds", str(rounds)]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, mine)
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main(rounds: int = 15) -> list[dict[str, Any]]:
    """Measure every case and print the table."""
    print(f"renderer, {processor()}, {len(os.sched_getaffinity(0))} cores; ms of {rounds} interleaved rounds")
    results = []
    for title, *_, all_cores in CASES:
        result = in_child(title, rounds, all_cores)
        results.append({"case": title, **result})
        ours = result["ms"][Ours.name]
        print(f"\n{title} ({result['faces']} faces, {result['covered']:.0%} covered, {result['cores']} core(s))")
        print(f"  {'':24s} {'median':>9s} {'best':>9s} {'x ours, both':>15s}    depth and silhouette against ours")
        for name, ms in result["ms"].items():
            best = result["best"][name]
            line = f"  {name:24s} {ms:9.2f} {best:9.2f}"
            if name != Ours.name:
                a = result["agreement"][name]
                line += (
                    f" {ms / ours:8.1f} {best / result['best'][Ours.name]:6.1f}    {a['depth']:.0e} m  {a['silhouette']:.0e}"
                )
            print(line)
        for name, reason in result["missing"].items():
            print(f"  {name:24s} {reason}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of every renderer")
    parser.add_argument("--case", choices=[case[0] for case in CASES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.rounds)))
    else:
        main(arguments.rounds)
