from copy import deepcopy

from zbrain_nb.queue.outputs import reduce_outputs


def show(text, display_id=None, kind="display_data"):
    output = {"output_type": kind, "data": {"text/plain": text}, "metadata": {}}
    return {**output, "transient": {"display_id": display_id}} if display_id else output


def texts(outputs):
    return [output["data"]["text/plain"] for output in outputs]


def clear(wait):
    return {"output_type": "clear_output", "wait": wait}


def test_outputs_stay_in_order_with_their_display_ids_and_the_input_is_not_changed():
    messages = [show("a", "1"), show("b"), show("c", "1", "update_display_data")]
    before = deepcopy(messages)
    outputs = reduce_outputs(messages).outputs
    assert texts(outputs) == ["c", "b"]
    assert outputs[0]["transient"] == {"display_id": "1"}  # a view that comes later can still take updates
    assert messages == before


def test_update_changes_every_display_of_its_id_and_none_that_was_cleared():
    assert texts(reduce_outputs([show("a", "1"), show("b", "1"), show("c", "1", "update_display_data")]).outputs) == [
        "c",
        "c",
    ]
    assert reduce_outputs([show("a", "1"), clear(False), show("c", "1", "update_display_data")]).outputs == []
    assert reduce_outputs([show("c", "9", "update_display_data")]).outputs == []


def test_clear_at_once_or_with_the_next_output():
    assert texts(reduce_outputs([show("a"), clear(False), show("b")]).outputs) == ["b"]
    assert texts(reduce_outputs([show("a"), clear(True)]).outputs) == ["a"]
    assert texts(reduce_outputs([show("a"), clear(True), show("b"), show("c")]).outputs) == ["b", "c"]
    assert reduce_outputs([show("a"), clear(True), clear(False)]).outputs == []


def test_clear_that_is_still_to_come_is_told():
    assert reduce_outputs([show("a"), clear(True)]).clear_next
    assert not reduce_outputs([show("a"), clear(True), show("b")]).clear_next
    assert not reduce_outputs([show("a"), clear(True), clear(False)]).clear_next
    assert reduce_outputs([clear(True), show("a", "1", "update_display_data")]).clear_next


def test_streams_of_one_name_are_joined():
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    assert reduce_outputs([stream("stdout", "a"), stream("stdout", ["b", "c"]), stream("stderr", "d")]).outputs == [
        stream("stdout", "abc"),
        stream("stderr", "d"),
    ]
