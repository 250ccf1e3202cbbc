"""Codes that work once, and the sessions they become."""

from zbrain_nb.server.sessions import CODE_SECS, MAX_CODES, MAX_SESSIONS, SESSION_SECS, Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_code_begins_one_session_and_no_other() -> None:
    sessions = Sessions()
    code = sessions.offer()
    session = sessions.begin(code)
    assert session is not None
    assert sessions.holds(session)
    assert sessions.begin(code) is None
    assert sessions.begin("") is None
    assert not sessions.holds(code)
    assert not sessions.holds("")


def test_codes_and_sessions_end_with_their_time() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    late, code = sessions.offer(), sessions.offer()
    session = sessions.begin(code)
    assert session is not None
    clock.now = CODE_SECS + 1
    assert sessions.begin(late) is None
    assert sessions.holds(session)
    clock.now = SESSION_SECS + 1
    assert not sessions.holds(session)


def test_codes_and_sessions_are_bounded_and_the_oldest_goes() -> None:
    sessions = Sessions()
    codes = [sessions.offer() for _ in range(MAX_CODES + 1)]
    assert sessions.begin(codes[0]) is None
    held = [sessions.begin(sessions.offer()) or "" for _ in range(MAX_SESSIONS + 1)]
    assert not sessions.holds(held[0])
    assert all(sessions.holds(each) for each in held[1:])
