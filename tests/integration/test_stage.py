"""Stages: skipped when done, begun again in the same folder when killed."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conceptarchive import UsageError, folder_lock
from integration.errors import DamagedError, RecipeError
from integration.stage import Stage, describe, run_stages, with_inputs, write_text


class Work:
    """Three stages that count their runs: number -> double -> text."""

    def __init__(self, out: Path, number: int = 2) -> None:
        self.out, self.ran = out, list[str]()
        self.number = Stage(name="number", settings={"n": number}, run=self._number)
        self.double = Stage(name="double", settings={}, inputs=(self.number,), run=self._double)
        self.text = Stage(name="text", settings={}, inputs=(self.double,), run=self._text)
        self.stages = [self.number, self.double, self.text]

    def _number(self, folder: Path) -> None:
        self.ran.append("number")
        write_text(folder / "value", str(self.number.settings["n"]))

    def _double(self, folder: Path) -> None:
        self.ran.append("double")
        value = int((self.number.folder(self.out) / "value").read_text())
        write_text(folder / "value", str(2 * value))

    def _text(self, folder: Path) -> None:
        self.ran.append("text")
        value = (self.double.folder(self.out) / "value").read_text()
        write_text(folder / "text", f"it is {value}")

    def run(self, **options: Any) -> str:
        stream = io.StringIO()
        run_stages(self.stages, self.out, stream=stream, **options)
        return stream.getvalue()

    @property
    def result(self) -> str:
        return (self.text.folder(self.out) / "text").read_text()


def stage(**changes: Any) -> Stage:
    values: dict[str, Any] = {"name": "a", "settings": {"x": 1}, "run": lambda _: None}
    return Stage(**{**values, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_fingerprint_hangs_on_everything_that_the_result_does() -> None:
    first = stage(inputs=(stage(name="b"),))
    others = [
        stage(inputs=(stage(name="b"),), name="c"),
        stage(inputs=(stage(name="b"),), settings={"x": 2}),
        stage(inputs=(stage(name="b"),), version=2),
        stage(inputs=(stage(name="b", settings={"x": 2}),)),
        stage(inputs=(stage(name="b", version=2),)),
        stage(inputs=()),
    ]
    prints = {first.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 7


def test_fingerprint_does_not_hang_on_order_cost_or_code() -> None:
    first = stage(settings={"x": 1, "y": [2]})
    second = stage(settings={"y": [2], "x": 1}, cost=9, run=print)
    assert first.fingerprint == second.fingerprint


def test_a_fingerprint_stays_what_it_was() -> None:
    # changed only with a stated reason: finished runs would be done again
    assert stage().fingerprint[:10] == "c7da3394c0"


def test_stages_run_in_order_and_are_skipped_when_done(tmp_path: Path) -> None:
    work = Work(tmp_path)
    said = work.run()
    assert work.ran == ["number", "double", "text"]
    assert work.result == "it is 4"
    assert "[1/3] number: running" in said
    again = work.run()
    assert work.ran == ["number", "double", "text"]
    assert again.count("up to date") == 3
    assert "running" not in again


def test_other_settings_run_beside_the_older_result(tmp_path: Path) -> None:
    Work(tmp_path).run()
    other = Work(tmp_path, number=5)
    other.run()
    assert other.ran == ["number", "double", "text"]
    assert (other.result, Work(tmp_path).result) == ("it is 10", "it is 4")


def test_a_changed_later_stage_leaves_the_earlier_ones_alone(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    work.text = replace(work.text, version=2)
    work.stages[2] = work.text
    work.run()
    assert work.ran == ["number", "double", "text", "text"]


def test_a_killed_stage_goes_on_in_its_folder_to_the_same_result(tmp_path: Path) -> None:
    whole = Work(tmp_path / "whole")
    whole.run()
    work = Work(tmp_path / "killed")

    def killed(folder: Path) -> None:
        write_text(folder / "half", "state")
        raise KeyboardInterrupt

    work.stages[1] = replace(work.double, run=killed)
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert work.double.seconds(work.out) is None
    seen: list[str] = []

    def go_on(folder: Path) -> None:
        seen.append((folder / "half").read_text())
        work._double(folder)

    work.stages[1] = replace(work.double, run=go_on)
    work.run()
    assert seen == ["state"]
    assert work.ran == ["number", "double", "text"]  # what was done is not done again
    assert work.result == whole.result


def test_a_stage_that_breaks_says_how_to_go_on(tmp_path: Path) -> None:
    work, stream = Work(tmp_path), io.StringIO()

    def broken(_: Path) -> None:
        raise ValueError("no")

    work.stages[1] = replace(work.double, run=broken)
    with pytest.raises(ValueError, match=r"^no$"):
        run_stages(work.stages, tmp_path, stream=stream)
    last = stream.getvalue().splitlines()[-1]
    told = "not done; the same command goes on, with --from double it begins anew"
    assert last == f"[2/3] double: {told}"


def test_from_forgets_a_stage_and_all_after_it(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    stale = work.double.folder(tmp_path) / "stale"
    stale.touch()
    work.run(again_from="double")
    assert work.ran == ["number", "double", "text", "double", "text"]
    assert not stale.exists()


def test_an_unknown_stage_is_an_error_and_forgets_nothing(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    before = tree(tmp_path)
    with pytest.raises(RecipeError, match="'tripel'; there are number, double, text"):
        work.run(again_from="tripel")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("how", ["other bytes", "longer", "empty", "gone"])
def test_damage_is_found_before_anything_is_read_or_forgotten(tmp_path: Path, how: str) -> None:
    work = Work(tmp_path)
    work.run()
    value = work.number.folder(tmp_path) / "value"
    if how == "gone":
        value.unlink()
    else:
        value.write_text({"other bytes": "3", "longer": "22", "empty": ""}[how])
    before = tree(tmp_path)
    line = rf"number-{work.number.fingerprint[:10]}/value: is .*; run again with --from number$"
    with pytest.raises(DamagedError, match=line):
        work.run(again_from="text")
    with pytest.raises(DamagedError, match=line):
        work.run()
    assert tree(tmp_path) == before
    assert work.ran == ["number", "double", "text"]
    work.run(again_from="number")
    assert work.result == "it is 4"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"name": "number"}', "\xff\xfe"])
def test_a_damaged_note_is_one_line_with_the_way_out(tmp_path: Path, content: str) -> None:
    work = Work(tmp_path)
    work.run()
    note = work.number.folder(tmp_path) / "stage.json"
    note.write_bytes(content.encode("latin-1"))
    with pytest.raises(DamagedError, match=r"stage.json: is damaged .*; run again with --from num"):
        work.run()
    work.run(again_from="number")
    assert work.result == "it is 4"


def test_a_stage_whose_note_is_gone_runs_again_alone(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    (work.number.folder(tmp_path) / "stage.json").unlink()
    work.run()
    assert work.ran == ["number", "double", "text", "number"]


def test_notes_of_before_there_were_checksums_are_trusted(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    path = work.number.folder(tmp_path) / "stage.json"
    note = json.loads(path.read_text())
    assert [*note.pop("files")] == ["value"]
    path.write_text(json.dumps(note))
    assert "running" not in work.run()


def test_a_second_process_in_the_folder_gets_one_line(tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    with (
        folder_lock(work.out),
        pytest.raises(UsageError, match=r"another process .* works in .*out; wait for it or use"),
    ):
        work.run()
    assert work.ran == []
    work.run()
    assert work.result == "it is 4"
    assert not (work.out / ".lock").exists()


def test_what_reads_the_stages_holds_the_folder(tmp_path: Path) -> None:
    work, read = Work(tmp_path / "out"), list[str]()

    def then() -> None:
        with pytest.raises(UsageError, match="another process"), folder_lock(work.out):
            pytest.fail("somebody else may write here")
        read.append(work.result)

    work.run(then=then)
    assert read == ["it is 4"]


def test_describing_changes_nothing(tmp_path: Path) -> None:
    work = Work(tmp_path / "out")
    lines = describe(work.stages, work.out)
    assert [line.split()[:3] for line in lines] == [
        ["to", "run", name] for name in ("number", "double", "text")
    ]
    assert not work.out.exists()
    work.run()
    before = tree(work.out)
    assert all("up to date" in line for line in describe(work.stages, work.out))
    assert tree(work.out) == before
    assert str(work.text.folder(work.out)) in describe(work.stages, work.out)[2]


def test_describing_shows_what_from_would_forget(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    before = tree(tmp_path)
    lines = describe(work.stages, tmp_path, "double")
    assert ["up to date" in line for line in lines] == [True, False, False]
    assert tree(tmp_path) == before
    with pytest.raises(RecipeError, match="no stage is called 'duoble'; did you mean double"):
        describe(work.stages, tmp_path, "duoble")


def test_time_before_a_kill_counts_and_long_work_shows_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integration.stage._BEAT_S", 0.01)
    monkeypatch.setattr("integration.stage._BEATS_A_LINE", 1)
    work, stream, kills = Work(tmp_path), io.StringIO(), [True, False]
    folder = work.double.folder(tmp_path)
    worked = folder.with_name(f".{folder.name}.seconds")

    def slow(into: Path) -> None:
        while not worked.exists() or stream.getvalue().count("running for") < 3:
            time.sleep(0.01)
        if kills.pop(0):
            raise KeyboardInterrupt
        work.double.run(into)

    stages = [work.number, replace(work.double, run=slow), work.text]
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, tmp_path, stream=stream)
    assert 0 <= float(worked.read_text()) < 60
    worked.write_text("1000")  # as if it had been as long
    run_stages(stages, tmp_path, stream=stream)
    assert "[2/3] double: running for 0 min" in stream.getvalue()
    seconds = work.double.seconds(tmp_path)
    assert seconds is not None and seconds >= 1000
    assert not worked.exists()


def test_a_done_stage_says_how_long_it_took(tmp_path: Path) -> None:
    work = Work(tmp_path)
    assert work.text.seconds(tmp_path) is None
    work.run()
    seconds = work.text.seconds(tmp_path)
    assert seconds is not None
    assert 0 <= seconds < 60
    note = json.loads((work.text.folder(tmp_path) / "stage.json").read_text())
    assert note["fingerprint"] == work.text.fingerprint


def test_with_inputs_lists_everything_once_after_its_inputs(tmp_path: Path) -> None:
    work = Work(tmp_path)
    both = Stage(name="both", settings={}, inputs=(work.text, work.number), run=print)
    names = [one.name for one in with_inputs([both, work.double])]
    assert names == ["number", "double", "text", "both"]


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    write_text(path, "“new”")
    assert path.read_text(encoding="utf-8") == "“new”"
    assert [p.name for p in tmp_path.iterdir()] == ["note.json"]
