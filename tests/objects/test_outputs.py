import json

import pytest
import torch

from monopose.io.boxes import read_boxes
from monopose.io.poses import frame_record, save_poses
from monopose.objects import viz
from monopose.types import Camera, Frame, PoseEstimates


def _frame():
    K = torch.tensor([[100.0, 0.0, 31.5], [0.0, 100.0, 23.5], [0.0, 0.0, 1.0]])
    return Frame(torch.zeros(3, 48, 64), Camera(K, (48, 64)), path="photo.png")


def _poses():
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = torch.tensor([0.1, -0.2, 0.5])
    return PoseEstimates(
        torch.tensor([5]),
        pose,
        torch.tensor([0.5]),
        torch.eye(6)[None],
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        {5: "can"},
        {"detector": 0.1},
    )


def test_json_says_everything(tmp_path):
    path = save_poses(tmp_path, [frame_record("photo", _frame(), _poses())])
    content = json.loads(path.read_text())
    assert "metres" in content["units"]
    (image,) = content["images"]
    assert image["image"] == "photo.png"
    assert image["size"] == [48, 64]
    assert image["seconds"] == {"detector": 0.1}
    (pose,) = image["poses"]
    assert (pose["label"], pose["name"], pose["score"], pose["box"]) == (5, "can", 0.5, [1, 2, 3, 4])
    torch.testing.assert_close(torch.tensor(pose["cam_from_obj"]), _poses().cam_from_obj[0])
    assert torch.equal(torch.tensor(pose["covariance"]), torch.eye(6))
    assert pose["quat_xyzw"] == [0, 0, 0, 1]
    assert pose["translation"] == pytest.approx([0.1, -0.2, 0.5])
    assert (image["calibrated"], image["dropped"]) == (False, [])


def test_csv_is_a_bop_file(tmp_path):
    from monopose.datasets.bop.results import read_results

    path = viz.save_results(tmp_path, [_poses(), _poses()])
    rows = read_results(path)
    assert path.name == "monopose_images-test.csv"
    assert rows.im_id.tolist() == [0, 1]
    assert rows.obj_id.tolist() == [5, 5]


def test_overlay(tmp_path):
    from PIL import Image

    path = viz.save_overlay(tmp_path / "photo_overlay.png", _frame(), _poses(), {})
    with Image.open(path) as picture:
        assert picture.size == (64, 48)
        assert picture.convert("L").getextrema()[1] > 50


def test_boxes_by_hand():
    found = read_boxes(["10,20,30.5,40"], [5])("any.png")
    assert found.labels.tolist() == [5]
    assert found.boxes.tolist() == [[10, 20, 30.5, 40]]
    assert found.scores.tolist() == [1]
    found = read_boxes(["5:10,20,30,40", "8:1,2,3,4"], [5, 8])("any.png")
    assert found.labels.tolist() == [5, 8]
    with pytest.raises(ValueError, match=r"needs an object id, as in 5:1,2,3,4; the model knows 5, 8"):
        read_boxes(["1,2,3,4"], [5, 8])
    with pytest.raises(ValueError, match=r"boxes are given for object 9, but the model knows only 5"):
        read_boxes(["9:1,2,3,4"], [5])
    with pytest.raises(ValueError, match=r"cannot read the box '1,2,3'; expected \[ID:\]x0,y0,x1,y1"):
        read_boxes(["1,2,3"], [5])
    with pytest.raises(ValueError, match="has no area"):
        read_boxes(["3,2,1,4"], [5])


def test_boxes_from_files(tmp_path):
    path = tmp_path / "boxes.json"
    rows = [
        {"image_id": 3, "category_id": 5, "bbox": [10, 20, 30, 40], "score": 0.5},
        {"image_id": 4, "category_id": 5, "bbox": [0, 0, 1, 1]},
    ]
    path.write_text(json.dumps([{"scene_id": 2, **row} for row in rows]))
    found = read_boxes([str(path)], [5])("rgb/000003.png")
    assert found.boxes.tolist() == [[10, 20, 40, 60]]
    assert found.scores.tolist() == [0.5]
    with pytest.warns(UserWarning, match=r"boxes\.json has boxes for the pictures 3, 4, none for photo"):
        assert len(read_boxes([str(path)], [5])("photo.png")) == 0

    path.write_text(json.dumps({"images": [{"id": 3, "file_name": "rgb/photo.png"}], "annotations": rows[:1]}))
    assert read_boxes([str(path)], [5])("photo.png").boxes.tolist() == [[10, 20, 40, 60]]
    with pytest.warns(UserWarning, match="has boxes for the pictures photo, none for other"):
        assert len(read_boxes([str(path)], [5])("other.png")) == 0

    twice = [{"id": 3, "file_name": "a/photo.png"}, {"id": 4, "file_name": "b/photo.jpg"}, {"id": 5, "file_name": "b/x.jpg"}]
    path.write_text(json.dumps({"images": twice, "annotations": [*rows, {**rows[0], "image_id": 5}]}))
    assert len(read_boxes([str(path)], [5])("x.png")) == 1  # which they do not concern
    for content in ({"images": twice, "annotations": rows}, [{**r, "image_id": t["file_name"]} for r, t in zip(rows, twice)]):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"boxes for a/photo\.png and b/photo\.jpg, which are both matched by 'photo'"):
            read_boxes([str(path)], [5])("photo.png")

    path.write_text(json.dumps([{"label": "can", "bbox_modal": [1, 2, 3, 4]}]))
    assert read_boxes([str(path)], [5], {5: "can"})("photo.png").boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"boxes\.json, entry 0: no object is called 'can', known: numbers alone"):
        read_boxes([str(path)], [5])
    path.write_text(json.dumps([{"scene_id": k, **rows[0]} for k in (1, 2)]))
    with pytest.raises(ValueError, match=r"holds boxes of the scenes 1, 2, whose image numbers repeat.*--bop DIR"):
        read_boxes([str(path)], [5])
    path.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_boxes([str(path)], [5])
    path.write_text("3")
    with pytest.raises(ValueError, match="holds no list of boxes"):
        read_boxes([str(path)], [5])
    path.write_text(json.dumps([{"image_id": 3, "category_id": 5}]))
    with pytest.raises(ValueError, match="entry 0: key 'bbox' is missing"):
        read_boxes([str(path)], [5])
    with pytest.raises(FileNotFoundError, match=r"no file of boxes at .*boxs\.json; did you mean boxes\.json"):
        read_boxes([str(tmp_path / "boxs.json")], [5])


def write_rows(tmp_path, *rows):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 3, "category_id": 5, "bbox": [10, 20, 30, 40], **row} for row in rows]))
    return [str(path)]


def test_boxes_of_other_objects_are_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="boxes of object 9 are left out; the model knows only 5"):
        found = read_boxes(write_rows(tmp_path, {}, {"category_id": 9}), [5])("000003.png")
    assert found.labels.tolist() == [5]
    with pytest.raises(ValueError, match="given for object 9, but the model knows only 5"):
        read_boxes(write_rows(tmp_path, {"category_id": 9}), [5])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"score": 55}, "score of a box must lie between 0 and 1, got 55 .*divide percent by 100"),
        ({"score": "0.9"}, r"boxes\.json, entry 0: 'score' must be numbers, got '0\.9'"),
        ({"bbox": [0, 0, float("inf"), 50]}, "'bbox' holds NaN or infinity"),
        ({"bbox": [0, 0, 0, 50]}, "has no area"),
        ({"bbox": "here"}, "'bbox' must be numbers"),
        ({"category_id": 1.5}, "category_id must be a whole number"),
        ({"category_id": None}, "category_id must be a whole number"),
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, r"entry 0: the box .* looks divided by the size of the picture"),
    ],
)
def test_odd_entries_are_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_boxes(write_rows(tmp_path, row), [5])


def test_boxes_belong_to_the_picture_that_their_file_names(tmp_path):
    assert len(read_boxes(write_rows(tmp_path, {"image_id": "3"}), [5])("000003.png")) == 1
    path = write_rows(tmp_path, {"image_id": None, "file_name": "x/a.png"})
    assert len(read_boxes(path, [5])("a.png")) == 1
    with pytest.warns(UserWarning, match="none for b"):
        assert len(read_boxes(path, [5])("b.png")) == 0
    coco = {
        "images": [{"id": 3, "file_name": "C:\\data\\a.png"}],
        "annotations": [{"image_id": 3, "category_id": 5, "bbox": [1, 2, 3, 4]}],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(coco))
    assert len(read_boxes([str(file)], [5])("a.png")) == 1
    file.write_text(json.dumps(coco | {"annotations": [{**coco["annotations"][0], "image_id": 4}]}))
    with pytest.raises(ValueError, match=r"coco\.json, entry 0: image_id 4 is not the id of any of the file's 'images'"):
        read_boxes([str(file)], [5])
    file.write_text(json.dumps(coco | {"images": coco["images"] * 2}))
    with pytest.raises(ValueError, match=r"coco\.json, images entry 1: the id 3 is there twice"):
        read_boxes([str(file)], [5])


def test_a_picture_among_the_boxes_is_named():
    with pytest.raises(ValueError, match=r"photo\.jpg is a picture, not a box; put the SOURCE before --boxes"):
        read_boxes(["5:1,2,3,4", "photo.jpg"], [5])
    for far in ("inf", "1e300"):  # float32 ends before
        with pytest.raises(ValueError, match="has no area"):
            read_boxes([f"0,0,{far},50"], [5])
