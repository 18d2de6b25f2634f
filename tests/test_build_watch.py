"""Does a person see what is built and how far it is, and does the one who stops it get it stopped?"""

import gc
import io
import threading
import weakref

import pytest
from rich.console import Console

from vjepa2.export.build_watch import BuildWatch, Worker, is_building, show_build


def a_terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(watch: BuildWatch) -> list[tuple[str, float, float | None]]:
    """What each row shows, how much of it is done, and of how much."""
    return [(task.description, task.completed, task.total) for task in watch._progress.tasks]


def test_every_phase_has_a_row_that_grows_and_goes() -> None:
    console = a_terminal()
    with show_build(console, "vitl: fp16, level 3") as watch:
        watch.start("Building", None, 10)
        watch.start("Tactics", "Building", 4)
        assert watch.step("Tactics", 1)
        assert rows(watch) == [("vitl: fp16, level 3", 0, None), ("  Building", 0, 10), ("    Tactics", 2, 4)]
        watch.finish("Tactics")
        assert [row[0] for row in rows(watch)] == ["vitl: fp16, level 3", "  Building"]
    assert "vitl: fp16, level 3" in text_of(console)
    assert "0:00:0" in text_of(console)  # elapsed


def test_a_phase_says_how_long_it_will_take() -> None:
    now_s = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=200, get_time=lambda: now_s[0])
    with show_build(console, "vitl: fp16, level 3") as watch:
        watch.start("Building", None, 10)
        for step in range(2):
            now_s[0] += 10
            watch.step("Building", step)
        watch._progress.refresh()
    assert "0:01:20" in text_of(console), "eight steps of ten seconds are left"


def test_where_no_phase_is_told_there_is_the_time() -> None:
    console = a_terminal()
    with show_build(console, "vitl: fp16, level 3"):
        pass
    assert "vitl: fp16, level 3" in text_of(console)
    assert "0:00:00" in text_of(console)


def test_phases_that_were_never_told_are_no_error() -> None:
    """What TensorRT calls from its own threads must not raise."""
    with show_build(a_terminal(), "x") as watch:
        assert watch.step("unknown", 3)
        watch.finish("unknown")
        watch.start("known", "unknown", 2)
        assert rows(watch)[1][0] == "  known"


def test_brackets_in_a_name_are_no_markup() -> None:
    console = a_terminal()
    with show_build(console, "[bold]vitl[/bold]: fp16") as watch:
        watch.start("{ForeignNode[blocks.0/Add...[/norm]]}", None, 2)
        watch._progress.refresh()
    assert "[bold]vitl[/bold]: fp16" in text_of(console)
    assert "{ForeignNode[blocks.0/Add...[/norm]]}" in text_of(console)


def test_after_stop_every_step_says_so() -> None:
    with show_build(a_terminal(), "x") as watch:
        watch.stop()
        assert not watch.step("any", 0)


def test_a_call_gives_its_result_or_its_error() -> None:
    assert Worker(lambda: 7).join(lambda: None, can_stop=True) == 7
    with pytest.raises(ZeroDivisionError):
        Worker(lambda: 1 // 0).join(lambda: None, can_stop=True)
    assert not is_building()


class Weights:
    """What a build holds gigabytes of."""


def test_a_call_that_failed_holds_nothing_once_its_error_was_read() -> None:
    held: list[weakref.ref[Weights]] = []

    def fail() -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        raise ValueError("no plan")

    def attempt() -> str:
        worker = Worker(fail)
        try:
            worker.join(lambda: None, can_stop=True)
        except ValueError as error:
            return str(error)
        return ""

    gc.collect()
    gc.disable()
    try:
        assert attempt() == "no plan"
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("can_stop", [True, False])
def test_ctrl_c_waits_for_the_end_only_where_there_will_be_one(can_stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work() -> None:
        stopped.wait(10)
        ended.wait(10 if not can_stop else 0.2)

    worker = Worker(work)
    join = threading.Thread.join
    asked: list[float | None] = []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if not asked:
            asked.append(timeout)
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.join(stopped.set, can_stop=can_stop)
    assert stopped.is_set()
    assert is_building() != can_stop
    ended.set()
    monkeypatch.undo()
    for thread in threading.enumerate():
        if thread.name == "vjepa2 build":
            thread.join(10)
    assert not is_building()
