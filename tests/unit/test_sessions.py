"""Codes that work once, and the sessions they become."""

from zbrain_nb.model.access import Principal
from zbrain_nb.server.sessions import CODE_SECS, MAX_CODES, MAX_SESSIONS, SESSION_SECS, Sessions

ANN = Principal(owner="ann", roles=None, home="default", token_id="ann's")
BEN = Principal(owner="ben", roles={}, home="default", token_id="ben's")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def begin(sessions: Sessions, principal: Principal) -> str:
    session = sessions.begin(sessions.offer(principal))
    assert session is not None
    return session


def test_code_begins_one_session_and_no_other() -> None:
    sessions = Sessions()
    code = sessions.offer(ANN)
    session = sessions.begin(code)
    assert session is not None
    assert sessions.find(session) is ANN
    assert sessions.begin(code) is None
    assert sessions.begin("") is None
    assert sessions.find(code) is None
    assert sessions.find("") is None


def test_session_is_of_who_asked_for_the_code() -> None:
    sessions = Sessions()
    codes = [sessions.offer(each) for each in (ANN, BEN)]
    assert [sessions.find(sessions.begin(code) or "") for code in codes] == [ANN, BEN]


def test_codes_and_sessions_end_with_their_time() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    late, session = sessions.offer(ANN), begin(sessions, ANN)
    clock.now = CODE_SECS + 1
    assert sessions.begin(late) is None
    assert sessions.find(session) is ANN
    clock.now = SESSION_SECS + 1
    assert sessions.find(session) is None


def test_codes_and_sessions_are_bounded_and_the_oldest_goes() -> None:
    sessions = Sessions()
    codes = [sessions.offer(ANN) for _ in range(MAX_CODES + 1)]
    assert sessions.begin(codes[0]) is None
    held = [begin(sessions, ANN) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(held[0]) is None
    assert all(sessions.find(each) is ANN for each in held[1:])


def test_codes_and_sessions_of_one_push_out_none_of_another() -> None:
    sessions = Sessions()
    code, session = sessions.offer(ANN), begin(sessions, ANN)
    for _ in range(MAX_SESSIONS + 1):
        begin(sessions, BEN)
    for _ in range(MAX_CODES + 1):
        sessions.offer(BEN)
    assert sessions.find(session) is ANN
    assert sessions.begin(code) is not None


def test_codes_and_sessions_of_who_is_out_end_and_no_others() -> None:
    sessions = Sessions()
    codes, held = [sessions.offer(each) for each in (ANN, BEN)], [begin(sessions, each) for each in (ANN, BEN)]
    sessions.end(lambda principal: principal.token_id == "ben's")
    assert [sessions.find(session) for session in held] == [ANN, None]
    assert [sessions.begin(code) is None for code in codes] == [False, True]
