"""Text of a cell: order, wholeness, partial lines, forked processes."""

from __future__ import annotations

import os


def test_prints_and_displays_of_both_streams_arrive_in_exact_order(run):
    ran = run(
        "import sys\n"
        "for i in range(50):\n"
        "    print('out', i)\n"
        "    print('err', i, file=sys.stderr)\n"
        "    display(i)\n"
        "    print('no newline', i, end='')\n"
        "    display(-i - 1)\n"
        "    print('half', i, end='')\n"
        "    print('err again', i, file=sys.stderr)\n"
        "    print()\n"
    )
    expected = [
        text
        for i in range(50)
        for text in (f"out {i}", f"err {i}", str(i), f"no newline {i}", str(-i - 1), f"half {i}", f"err again {i}")
    ]
    assert ran.order() == expected
    assert ran.exit_code == 0


def test_partial_text_arrives_while_the_cell_waits(run, tmp_path):
    """The cell ends only after the test has seen its partial line, and the test only then lets it end."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def see_it(pid):
        events = tmp_path / "run0" / "events"
        deadline = os.times().elapsed + 20
        while not (events.exists() and b"half a line" in events.read_bytes()):
            assert os.times().elapsed < deadline, "partial text was not sent"
        gate.write_text("go")

    ran = run(f"print('half a line', end='')\nopen({str(gate)!r}).read()\nprint(', whole')", while_running=see_it)
    assert ran.stdout == "half a line, whole\n"


def test_carriage_return_sends_at_once(run):
    ran = run("import sys\nfor i in range(3):\n    sys.stdout.write(f'\\r{i}')\nsys.stdout.write('\\n')")
    assert [p for k, p in ran.frames if k == 1] == ["\r", "0\r", "1\r", "2\n"]


def test_long_text_keeps_its_characters_whole(run):
    ran = run("print('ü' * 30000 + 'x'); print('end')")
    assert ran.stdout == "ü" * 30000 + "x\nend\n"


def test_lone_surrogates_do_not_break_the_stream(run):
    ran = run("print('a\\udc80b')\ndisplay({'text/plain': 'c\\udc80d'}, raw=True)\nprint('end')")
    assert ran.stdout == "a\\udc80b\nend\n"
    assert ran.exit_code == 0


def test_threads_write_whole_lines(run):
    ran = run(
        "import threading\n"
        "def work(name):\n"
        "    for i in range(200):\n"
        "        print(f'{name}' * 50)\n"
        "threads = [threading.Thread(target=work, args=(c,)) for c in 'abcd']\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
    )
    lines = [line for line in ran.stdout.split("\n") if line]
    assert sum(len(line) for line in lines) == 4 * 200 * 50
    assert all(len(p.rstrip("\n")) % 50 == 0 for k, p in ran.frames if k == 1)


def test_bytes_of_the_buffer_join_the_text(run):
    ran = run(
        "import sys\nprint('a', end='')\n"
        "sys.stdout.buffer.write(b'b\\xc3')\nsys.stdout.buffer.write(b'\\xa4c')\nprint()"
    )
    assert ran.stdout.startswith("abäc")


def test_stream_looks_like_a_notebooks(run):
    ran = run("import sys\nprint(sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty(), sys.stdout.encoding)")
    assert ran.stdout == "1 2 False UTF-8\n"


def test_output_of_subprocess_and_c_goes_to_the_raw_descriptors(run):
    ran = run(
        "import subprocess, os, ctypes\n"
        "subprocess.run(['echo', 'from a child'])\n"
        "os.write(2, b'raw error\\n')\n"
        "ctypes.CDLL(None).puts(b'from C')\n"
    )
    assert ran.raw_stdout == "from a child\nfrom C\n"
    assert ran.raw_stderr == "raw error\n"


def test_forked_workers_neither_tear_frames_nor_repeat_pending_text(run):
    ran = run(
        "import multiprocessing as mp\n"
        "def work(i):\n"
        "    for _ in range(300):\n"
        "        print('child', i)\n"
        "    display('dropped')\n"
        "print('pending', end='')\n"
        "children = [mp.get_context('fork').Process(target=work, args=(i,)) for i in range(3)]\n"
        "[c.start() for c in children]\n"
        "for _ in range(300):\n"
        "    print('parent')\n"
        "[c.join() for c in children]\n"
        "print([c.exitcode for c in children])\n"
    )
    assert ran.stdout == "pendingparent\n" + "parent\n" * 299 + "[0, 0, 0]\n"
    assert sorted(ran.raw_stdout.splitlines()) == sorted(f"child {i}" for i in range(3) for _ in range(300))
    assert ran.outputs == []


def test_interrupt_in_the_middle_of_output_leaves_frames_whole(run, tmp_path):
    """Alarms raise all over a cell that writes text and long events; reading the frames fails if one is torn."""
    ran = run(
        "import signal\n"
        "class Tick(Exception): pass\n"
        "armed, ticks, rounds = False, 0, 0\n"
        "def tick(*_):\n"
        "    global armed, ticks\n"
        "    if armed:\n"
        "        armed = False\n"
        "        ticks += 1\n"
        "        raise Tick\n"
        "signal.signal(signal.SIGALRM, tick)\n"
        "while ticks < 60:\n"
        "    rounds += 1\n"
        "    try:\n"
        "        armed = True\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0001 * (1 + rounds * 37 % 80))\n"
        "        print('text ' * 20)\n"
        "        display({'text/plain': 'long ' * 60000}, raw=True)\n"
        "        armed = False\n"
        "    except Tick:\n"
        "        pass\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print('end')\n"
    )
    assert ran.stdout.endswith("end\n")
    assert ran.exit_code == 0
