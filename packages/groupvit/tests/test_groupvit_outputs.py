"""Where pictures are written."""

from pathlib import Path

import pytest
from PIL import Image

from groupvit.errors import GroupViTError, UsageError
from groupvit.segmenting.outputs import Job, plan, save_picture


def test_one_photograph_has_the_names_it_is_given(tmp_path: Path) -> None:
    photo, out, labels = Path("a/dog.jpg"), tmp_path / "new" / "x.jpg", tmp_path / "ids" / "y.png"
    jobs = plan([photo], out, labels=labels)
    assert jobs == [Job(photo, out, labels, None)]
    assert not list(tmp_path.iterdir())  # folders come with what is written
    save_picture(Image.new("RGB", (3, 2)), out)
    assert [path.name for path in out.parent.iterdir()] == ["x.jpg"]


def test_several_are_named_after_the_photographs(tmp_path: Path) -> None:
    photos = [Path("a/dog.jpg"), Path("a/cat.jpg"), Path("b/dog.png")]
    jobs = plan(photos, tmp_path, groups=tmp_path / "groups", folders=True)
    names = ["dog.jpg.png", "cat.png", "dog.png.png"]
    assert [job.overlay for job in jobs] == [tmp_path / name for name in names]
    assert [job.groups for job in jobs] == [tmp_path / "groups" / name for name in names]
    assert [job.labels for job in jobs] == [None] * 3
    with pytest.raises(UsageError, match=r"dog\.jpg\.png: would be written twice"):
        plan([Path("a/dog.jpg"), Path("b/dog.jpg")], tmp_path, folders=True)


def test_a_folder_is_not_named_like_a_picture(tmp_path: Path) -> None:
    photo = [Path("a/dog.jpg")]
    with pytest.raises(UsageError, match=r"--out needs the name of a folder .*, got /.*o\.png"):
        plan(photo, tmp_path / "o.png", folders=True)
    with pytest.raises(UsageError, match=r"--labels needs the name of a folder .*, got /.*o\.PNG"):
        plan(photo, tmp_path, labels=tmp_path / "o.PNG", folders=True)
    (tmp_path / "o.png").mkdir()  # whoever has such a folder means it
    assert plan(photo, tmp_path / "o.png", folders=True)[0].overlay.parent.name == "o.png"


def test_a_photograph_is_not_written_over(tmp_path: Path) -> None:
    photos = [tmp_path / "dog.png", tmp_path / "cat.jpg"]
    for photo in photos:
        photo.touch()
    for link in (tmp_path, tmp_path / "link"):
        if not link.exists():
            link.symlink_to(tmp_path)
        with pytest.raises(UsageError, match=r"dog\.png: is read, and would be written over"):
            plan(photos, link, overwrite=True, folders=True)
    assert len(plan(photos[1:], tmp_path, folders=True)) == 1


def test_what_cannot_be_written_is_said_before_work_starts(tmp_path: Path) -> None:
    photo, there = [Path("dog.jpg")], tmp_path / "there.png"
    there.write_text("mine")
    with pytest.raises(UsageError, match="exists; choose another name"):
        plan(photo, there)
    assert plan(photo, there, overwrite=True)[0].overlay == there
    assert there.read_text() == "mine"
    for name in ("a", "a.xyz", "a.psd", "a.xbm"):  # unknown, unknown, only read, two colours
        with pytest.raises(UsageError, match=r"--out needs the name of a picture such as out\.png"):
            plan(photo, tmp_path / name)
    for name in ("a.jpg", "a.gif"):  # no exact values
        with pytest.raises(UsageError, match="--labels needs"):
            plan(photo, tmp_path / "new.png", labels=tmp_path / name)
    with pytest.raises(GroupViTError, match="cannot be written") as caught:
        plan(photo, there / "below" / "new.png")
    assert caught.value.exit_code == 1


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    save_picture(Image.new("RGB", (3, 2)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.size == (3, 2)
    with pytest.raises(GroupViTError, match=r"b\.jpg: cannot be written"):
        save_picture(Image.new("RGBA", (3, 2)), tmp_path / "b.jpg")
    (tmp_path / "c.png").mkdir()
    with pytest.raises(GroupViTError, match=r"c\.png: cannot be written"):
        save_picture(Image.new("RGB", (3, 2)), tmp_path / "c.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]
