"""Outputs of a job as they come, change and are looked at again."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in
from tests.browser.stub import StubServer, utc
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser


def html(text: str, name: str | None = None, kind: str = "display_data") -> dict[str, Any]:
    """Return an output that a frame shows; one with a `name` can be updated."""
    data = {"text/html": text, "text/plain": "a table"}
    return {"output_type": kind, "data": data, "metadata": {}, "transient": {"display_id": name} if name else {}}


def test_frames_on_the_console_show_what_they_held_when_they_come_back_and_when_others_change(
    host: Owner, hand: HandWorker, page: Page
) -> None:
    (job_id,) = hand.submit(code="x", name="two tables")
    hand.start()
    hand.log(job_id, "a line")
    hand.send(job_id, "displayed", outputs=[html("<p>one</p>", "first"), html("<p>two</p>")])
    log_in(page, host)
    page.goto(f"{host.url}zbrain/jobs/{job_id}#outputs")
    one, two = (page.frame_locator(f".zb-panel iframe >> nth={place}").locator("p") for place in range(2))
    expect(two).to_have_text("two")
    page.get_by_role("tab", name="Log").click()
    expect(page.locator(".zb-panel iframe")).to_have_count(0)
    page.get_by_role("tab", name="Outputs").click()
    expect(one).to_have_text("one")
    expect(two).to_have_text("two")
    hand.send(job_id, "displayed", outputs=[html("<p>one again</p>", "first", "update_display_data")])
    expect(one).to_have_text("one again")
    expect(two).to_have_text("two")


def test_frame_loads_once_however_often_its_neighbours_change(page: Page, stub: StubServer) -> None:
    job_id = stub.add()
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.loaded")
    page.evaluate(
        "() => { window.loads = []; addEventListener('message', ({ data }) => data.of && loads.push(data.of)); }"
    )

    def said(text: str) -> str:
        return f"<script>parent.postMessage({{of: '{text}'}}, '*')</script>"

    outputs = [html(said("first"), "first"), html(said("second")), html(said("third"))]
    stub.emit("job_displayed", job_id, {"outputs": outputs})
    page.wait_for_function("loads.length === 3")
    for count in (1, 2):
        update = html(said(f"update {count}"), "first", "update_display_data")
        stub.emit("job_displayed", job_id, {"outputs": [update]})
        page.wait_for_function(f"loads.includes('update {count}')")
    stub.emit("job_displayed", job_id, {"outputs": [html(said("last"))]})
    page.wait_for_function("loads.includes('last')")
    assert sorted(page.evaluate("loads")) == ["first", "last", "second", "third", "update 1", "update 2"]


def test_outputs_that_are_still_the_same_stay_as_they_are_after_a_long_break(page: Page, stub: StubServer) -> None:
    job_id = stub.add()
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.loaded")
    outputs = [text("x" * 300_000), html("<p>a plot</p>"), html("<p>half</p>")]
    stub.emit("job_displayed", job_id, {"outputs": outputs})
    shown = page.locator(".zb-output")
    shown.first.get_by_role("button", name="Show all").press("Enter")
    plot = page.frame_locator(".zb-output iframe >> nth=0").locator("p")
    plot.evaluate("p => { p.textContent = 'zoomed' }")
    stub.outputs[job_id][-1] = html("<p>whole</p>")  # while nobody heard it
    stub.cut()
    page.wait_for_function("views[0].feed.connection === 'reconnecting'")
    page.evaluate("() => { views[0].feed.heardAt -= 120_000; }")
    stub.down = False
    page.evaluate("() => views[0].feed.act('reconnect')")
    expect(page.frame_locator(".zb-output iframe >> nth=1").locator("p")).to_have_text("whole")
    expect(plot).to_have_text("zoomed")
    expect(shown.first).to_have_text("x" * 300_000)
    stub.viewer = "eve"  # who is no owner of the job
    page.evaluate("() => { window.drawn = document.querySelector('.zb-output iframe'); }")
    stub.raw({"seq": 9000, "kind": "reset", "topic": f"jobs/{job_id}", "data": {}})
    page.wait_for_function("views[0].feed.viewer === 'eve' && !drawn.isConnected")
    expect(plot).to_have_text("a plot")


def test_long_text_is_shown_to_its_end_and_a_very_long_one_when_asked_for(page: Page, stub: StubServer) -> None:
    traceback = [f"line {n} of another language\n" for n in range(400)]
    error = {"ename": "E", "evalue": "no", "traceback": [*traceback, "its end"]}
    job_id = stub.add("failed", owner="eve", error=error)
    rows = "".join(f"row {n}\n" for n in range(1000))
    long = f"\x1b[31m{'x' * 300_000}\x1b[0m the very end"
    for text in (rows + "the end", long):
        output = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
        stub.outputs[job_id].append(output)
    page.goto(stub.url())
    shown = page.locator(".zb-output")
    expect(shown.first).to_contain_text("row 999 the end")
    expect(page.get_by_role("group", name="Traceback")).to_contain_text("its end")
    expect(shown.last).to_contain_text("more characters")
    expect(shown.last).not_to_contain_text("the very end")
    shown.last.get_by_role("button", name="Show all").press("Enter")
    expect(shown.last).to_contain_text("the very end")
    expect(shown.last.locator("pre")).to_be_focused()
    expect(shown.last.locator(".zb-a31")).to_have_text("x" * 300_000)


def test_texts_of_a_pane_share_what_they_may_take_of_the_page_and_give_it_back(page: Page, stub: StubServer) -> None:
    job_id = stub.add()
    coloured = "\x1b[31ma\x1b[32mb" * 6_000
    stub.stored(job_id, coloured[:3_900])
    first = {"output_type": "stream", "name": "stdout", "text": f"{coloured} its end"}
    others = [text(coloured) for _ in range(20)]
    stub.outputs[job_id] = [first, *others]
    page.goto(stub.url())
    shown = page.locator(".zb-output")
    expect(shown).to_have_count(21)
    expect(shown.first).to_contain_text("ab" * 6_000 + " its end")  # behind its share without colours
    assert page.locator(".zb-out span").count() < 6_000
    assert page.locator(".zb-lines span").count() < 300
    expect(shown.last).not_to_contain_text("ab" * 6_000)
    shown.last.get_by_role("button", name="Show all").click()
    expect(shown.last).to_contain_text("ab" * 6_000)
    stub.emit("job_displayed", job_id, {"outputs": [CLEAR, text("\x1b[31m" + "x" * 190_000)]})
    expect(shown).to_have_count(1)
    expect(shown).to_have_text("x" * 190_000)
    expect(shown.locator(".zb-a31")).to_have_count(1)


def text(words: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/plain": words}, "metadata": {}}


CLEAR = {"output_type": "clear_output", "wait": True}


def test_clear_that_waits_for_the_next_output_outlives_a_load(host: Owner, hand: HandWorker, page: Page) -> None:
    (job_id,) = hand.submit(code="x", name="epochs")
    hand.start()
    hand.send(job_id, "displayed", outputs=[text("epoch 1"), CLEAR])
    log_in(page, host)
    page.goto(f"{host.url}zbrain/jobs/{job_id}#outputs")
    expect(page.locator(".zb-output")).to_have_text(["epoch 1"])
    hand.send(job_id, "displayed", outputs=[text("epoch 2")])
    expect(page.locator(".zb-output")).to_have_text(["epoch 2"])


def test_clear_that_was_done_meanwhile_spares_what_is_loaded(page: Page, stub: StubServer) -> None:
    job_id = stub.add()
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.loaded")
    stub.emit("job_displayed", job_id, {"outputs": [text("epoch 1"), CLEAR]})
    page.wait_for_function("views[0].feed.clearNext")
    stub.outputs[job_id][:] = [text("epoch 2")]  # while nobody heard it
    stub.raw({"seq": 9000, "kind": "reset", "topic": f"jobs/{job_id}", "data": {}})
    shown = page.locator(".zb-output")
    expect(shown).to_have_text(["epoch 2"])
    stub.emit("job_displayed", job_id, {"outputs": [text("a plot of it")]})
    expect(shown).to_have_text(["epoch 2", "a plot of it"])


def test_error_that_a_job_outlived_is_shown_and_the_one_that_ended_it_is_told_once(
    page: Page, stub: StubServer
) -> None:
    job_id = stub.add()
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.loaded")
    trace = ["Traceback (most recent call last):", "Cell In[1], line 1", "----> 1 first()", "KeyError: 'a'"]
    first = {"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": trace}
    last = {"output_type": "error", "ename": "ValueError", "evalue": "the end", "traceback": "no list"}
    stub.emit("job_displayed", job_id, {"outputs": [first]})
    page.wait_for_function("views[0].feed.outputs.length === 1")
    assert page.evaluate("views[0].feed.displays.length") == 0  # it may be the one that ends the job
    stub.emit("job_displayed", job_id, {"outputs": [text("it goes on"), last]})
    shown = page.locator(".zb-output")
    expect(shown).to_have_count(2)
    expect(shown.first.locator(".zb-exc")).to_have_text("KeyError: 'a'")
    expect(shown.first).to_contain_text("This cell, line 1")
    stub.emit("job_failed", job_id, {"state": "failed", "finished_at": utc(), "error": {**last, "traceback": []}})
    expect(page.locator(".zb-exc")).to_have_text(["ValueError: the end", "KeyError: 'a'"])
    expect(shown).to_have_count(2)
    for state in ("succeeded", "canceled"):
        stub.outputs[stub.add(state)] += [last]
    stub.saved = stub.saved[1:]
    page.goto(stub.url())
    page.wait_for_function("views.every(({ feed }) => feed.loaded)")
    expect(page.locator(".zb-exc")).to_have_text("ValueError: the end")
    expect(shown).to_contain_text("no list")


def test_two_figures_of_the_usual_size_are_seen_whole(page: Page, stub: StubServer) -> None:
    figure = "<svg xmlns='http://www.w3.org/2000/svg' width='560' height='440'><circle r='9'/></svg>"
    data = {"image/svg+xml": figure, "text/plain": "<Figure size 640x480 with 1 Axes>"}
    stub.outputs[stub.add("succeeded")] = [{"output_type": "display_data", "data": data, "metadata": {}}] * 2
    page.goto(stub.url())
    box = page.locator(".zb-out")
    expect(box.locator("img")).to_have_count(2)
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalHeight)")
    assert box.evaluate("box => [box.scrollHeight - box.clientHeight, box.clientHeight > 880]") == [0, True]
