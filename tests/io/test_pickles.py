"""Hostile pickles are read as data or refused; none is run. What numpy and Python write comes back."""

import os
import pickle
import struct

import numpy as np
import pytest

from monopose.io.pickles import read_pickle


def _read(tmp_path, data, **more):
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    return read_pickle(path, "numbers", **more)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_arrays_and_containers_come_back(tmp_path, protocol):
    rng = np.random.default_rng(0)
    plain = {"list": [1, 2.5, "x", None, True, b"yz", b""], "tuple": (1, 2**70, -5), 7: {"a": ()}}
    arrays = {
        "poses": rng.normal(size=(3, 4, 4)), "ids": np.arange(300, dtype=np.int32), "none": np.zeros((0, 3)),
        "columns": np.asfortranarray(rng.normal(size=(2, 3))), "big": np.arange(3, dtype=">f8"),
        "flags": np.array([True, False]), "bytes": np.arange(256, dtype=np.uint8), "single": np.array(7.0),
    }  # fmt: skip
    content = {**plain, **arrays, "scalar": np.float32(3.5), "again": arrays["poses"]}
    found = _read(tmp_path, pickle.dumps(content, protocol))
    assert {key: found[key] for key in plain} == plain
    assert found["scalar"] == 3.5
    for key in [*arrays, "again"]:
        assert np.array_equal(found[key], content[key])
        assert found[key].dtype == content[key].dtype.newbyteorder("=")


def test_arrays_of_python_2(tmp_path):
    data = struct.pack("<2d", 1.5, -2.0)
    written = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + data + b"tb."
    )  # fmt: skip
    assert _read(tmp_path, written).tolist() == [1.5, -2.0]


class _Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class _ForgedType:
    """A type of plain floats whose flags say that its elements are Python objects: 8 bytes of the file become a pointer."""

    def __reduce__(self):
        return np.dtype, ("f8",), (3, "<", None, None, None, -1, -1, 0x3F)


class _ForgedArray:
    def __init__(self, shape, data, kind="f8"):
        self.state = (1, shape, np.dtype(kind), False, data)

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


def _doubled(levels):
    values = ["ha"]
    for _ in range(levels):
        values = [values] * 10
    return values


def _deep(levels):
    values = []
    for _ in range(levels):
        values = [values]
    return values


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_Calls(os.system, "touch ran"), r"it wants to call \w+\.system"),
        (_Calls(eval, "1"), r"it wants to call \w+\.eval"),
        (_Calls(np.dtype, "O"), "it wants to call numpy.dtype"),
        (_Calls(np.dtype, "V100000000"), "it wants to call numpy.dtype"),
        (_Calls(np.frombuffer, b"12345678", "f8"), "it wants to call numpy"),
        (_Calls(np.load, "a.npy", None, True), "it wants to call numpy"),
        (_ForgedType(), "type of elements that is no plain number"),
        (np.array([{}, 1], object), "it wants to call numpy.dtype"),
        (np.zeros(2, [("a", "f8")]), "it wants to call numpy.dtype"),
        (_ForgedArray((10**9,), b"12345678"), r"needs 8000000000 bytes, got 8"),
        (_ForgedArray((-1,), b"12345678"), "shape of an array in it is none"),
        (_ForgedArray((2.0,), b"12345678"), "shape of an array in it is none"),
        (np.float64, "holds a function or a type"),
        (_doubled(12), "holds more than 10,000 values"),
        (_deep(50), "nested more than 30 deep"),
        ({(1, 2): 3}, "a key of a dict is a tuple"),
        ({1, 2}, "is none that lists|wants to call"),
    ],
)
def test_anything_else_is_refused(tmp_path, monkeypatch, content, message, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"a\.pkl cannot be read as numbers: .*({message})"):
        _read(tmp_path, pickle.dumps(content, protocol), most=10_000)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_counts_larger_than_the_file_cost_nothing(tmp_path):
    for claim in (
        b"\x8e" + struct.pack("<Q", 2**62),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x96" + struct.pack("<Q", 2**64 - 1),
    ):
        with pytest.raises(ValueError, match=r"a\.pkl cannot be read as numbers"):
            _read(tmp_path, b"\x80\x05" + claim + b"12345678.")
    with pytest.raises(ValueError, match="more than 1,000,000 instructions"):
        _read(tmp_path, b"]" * 1_000_001)
    same = np.zeros(10_000)
    many = pickle.dumps([_ForgedArray((len(shared),), shared, "u1") for shared in [same.tobytes()] for _ in range(50)], 4)
    with pytest.raises(ValueError, match="many arrays of the same bytes"):
        _read(tmp_path, many)


def test_broken_pickles_give_one_kind_of_error(tmp_path):
    whole = pickle.dumps({"a": np.arange(4.0), "b": [1, "x"]}, 2)
    rng = np.random.default_rng(0)
    broken = [whole[:n] for n in range(len(whole))]
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        broken.append(bytes(changed))
    said = []
    for data in broken:
        try:
            _read(tmp_path, data)
        except ValueError as error:  # any other error ends the test
            said.append(str(error))
    assert len(said) > len(whole)
    assert all("a.pkl cannot be read as numbers" in text for text in said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_ForgedArray((1,), b"12345678", object), "the elements of an array of objects in it are bytes"),
        (_Calls(np.float64(1).__reduce__()[0], np.dtype(object), b"12345678"), "the elements of an array of objects in it are"),
        (_Calls(os.system, "touch ran"), r"it wants to call \w+\.system"),
    ],
)
def test_where_objects_are_expected_pointers_are_still_none(tmp_path, content, message):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=rf"a\.pkl cannot be read as numbers: {message}"):
        read_pickle(path, "numbers", ("some.Class",))


def test_many_empty_rows_of_objects_cost_nothing(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(_ForgedArray((10**9, 0), [], object), 2))
    assert read_pickle(path, "numbers", ("some.Class",)) == []
