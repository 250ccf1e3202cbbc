"""`client.sql` on a real host: what is fetched, what is kept, and what is said of a query that does not hold."""

from __future__ import annotations

import datetime as dt
import importlib.util
import re
import time
from pathlib import Path

import pytest

from zbrain_nb import Client, JobSpec
from zbrain_nb.client import history
from zbrain_nb.client.history import History
from zbrain_nb.client.spooling import Spool
from zbrain_nb.model.errors import QueryError, ServerUnreachable
from zbrain_nb.model.history import HistoryQuery


@pytest.fixture
def asked(client: Client) -> list[HistoryQuery]:
    """What the client, which knows nothing yet, asks the server from now on."""
    sent: list[HistoryQuery] = []

    def fetch(wanted: HistoryQuery) -> Spool:
        sent.append(wanted)
        return client.call(client.asynchronous.history, wanted)

    client._history = History(fetch)
    return sent


def test_sql_counts_jobs_as_they_are_now(client: Client, asked: list[HistoryQuery]) -> None:
    query = "select state, count(*) as jobs from jobs where name = 'counted' group by 1"
    assert client.sql(query).empty
    client.submit(["true"], name="counted").wait()
    client.submit(["false"], name="counted").wait()
    waiting = client.submit(JobSpec(cmd=["true"], name="counted", worker="nobody"))
    assert dict(client.sql(query).values.tolist()) == {"succeeded": 1, "failed": 1, "pending": 1}
    waiting.cancel()
    assert dict(client.sql(query).values.tolist()) == {"succeeded": 1, "failed": 1, "canceled": 1}
    assert {query.columns for query in asked} == {("id", "name", "state")}
    assert [query.after is None for query in asked] == [True, False, False]


def test_sql_fetches_again_when_more_columns_are_named(client: Client, asked: list[HistoryQuery]) -> None:
    client.sql("select state from jobs")
    client.sql("select owner from jobs")
    client.sql("select state, owner from jobs")
    assert [query.columns for query in asked] == [("id", "state"), ("id", "state", "owner"), ("id", "state", "owner")]
    assert [query.after is None for query in asked] == [True, True, False]


def test_sql_brings_all_anew_when_what_is_kept_holds_no_more(client: Client, asked: list[HistoryQuery]) -> None:
    job = client.submit(["true"], name="anew").wait()
    query = "select count(*) as n from jobs where id = ?"
    client.sql(query, [job.id])
    assert client._history is not None
    kept = client._history._kept["jobs"]
    kept.mark = type(kept.mark)(kept.mark.upto, "of a host before")
    client._history._data.execute("UPDATE kept.jobs SET id = 'of a host before' WHERE id <> ?", [job.id])
    assert client.sql(query, [job.id])["n"].tolist() == [1]
    assert client.sql(query, ["of a host before"])["n"].tolist() == [0]
    assert client._history._kept["jobs"].mark.epoch != "of a host before"


def test_sql_fetches_the_log_of_one_job_alone(client: Client, asked: list[HistoryQuery]) -> None:
    job, other = client.submit(["echo", "mine"]).wait(), client.submit(["echo", "other"]).wait()
    assert client.sql("select line from logs where job_id = $job", {"job": job.id})["line"].tolist() == ["mine"]
    assert asked[-1].job_id == job.id
    lines = client.sql("select line from logs where job_id in (?, ?) order by log_seq, line", [job.id, other.id])
    assert (lines["line"].tolist(), asked[-1].job_id) == (["mine", "other"], None)
    assert client.sql("select line from logs where job_id = ?", [other.id])["line"].tolist() == ["other"]
    assert (asked[-1].job_id, asked[-1].after is None) == (None, False)


def test_sql_since_leaves_out_what_is_older_however_much_is_kept(client: Client, asked: list[HistoryQuery]) -> None:
    old = client.submit(["true"]).wait()
    young = client.submit(["true"]).wait()
    query = "select id from jobs where id in (?, ?)"
    for _ in range(2):  # with nothing kept, then with all of it
        assert client.sql(query, [old.id, young.id], since=young.job.created_at)["id"].tolist() == [young.id]
        assert len(client.sql(query, [old.id, young.id])) == 2
    assert len(client.sql(query, [old.id, young.id], since=dt.timedelta(hours=1))) == 2
    assert len(client.sql("select 1 from attempts where job_id = ?", [young.id], since=dt.timedelta(hours=1))) == 1


def test_sql_since_takes_a_time_in_utc_or_of_any_zone_or_an_age(client: Client, asked: list[HistoryQuery]) -> None:
    noon = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    for since in (noon, noon.replace(tzinfo=None), noon.astimezone(dt.timezone(dt.timedelta(hours=5)))):
        client.sql("select owner from jobs", since=since)
        assert asked[-1].since == noon
    with pytest.raises(TypeError, match="not '2026'"):
        client.sql("select owner from jobs", since="2026")  # type: ignore[arg-type]


def test_sql_clock_is_in_utc(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job = client.submit(["true"]).wait()
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        client._history = None
        query = "select epoch(now() - created_at) as age, current_date as day from jobs where id = ?"
        ((age, day),) = client.sql(query, [job.id]).values.tolist()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 0 <= age < 3600
    assert day.date() == dt.datetime.now(dt.UTC).date()


def test_sql_describes_tables_without_a_fetch(client: Client, asked: list[HistoryQuery]) -> None:
    assert "created_at" in client.sql("describe jobs")["column_name"].tolist()
    assert set(client.sql("show tables")["name"]) == {"jobs", "attempts", "events", "logs"}
    assert asked == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select foo from jobs", "LINE 1: select foo from jobs\n               ^"),
        ("select * from job", "Table with name job does not exist"),
        ("selec 1", 'syntax error at or near "selec"'),
        ("select 1; select 2", "One query"),
        ("create table t (a int)", "One query"),
        ("select * from jobs where id = ?", "parameter"),
        ("select name::integer from jobs", "Could not convert"),
    ],
)
def test_sql_that_does_not_hold_says_why_and_which_tables_there_are(
    client: Client, asked: list[HistoryQuery], query: str, said: str
) -> None:
    client.submit(["true"], name="a name").wait()
    with pytest.raises(QueryError) as caught:
        client.sql(query)
    assert said in str(caught.value)
    assert "jobs, attempts, events, logs" in caught.value.hint
    assert client.sql("select 1 as one")["one"].tolist() == [1]


def test_sql_reads_no_variables_of_python(client: Client, asked: list[HistoryQuery]) -> None:
    for variable in ("params", "TABLES"):
        with pytest.raises(QueryError, match=f"Table with name {variable} does not exist"):
            client.sql(f"select * from {variable} where 1 = ?", [1])


def test_sql_without_pandas_gives_dicts(
    client: Client, asked: list[HistoryQuery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert history.importlib.util.find_spec("pandas") is None
    assert client.sql("select 1 as one, 'a' as two") == [{"one": 1, "two": "a"}]


def test_sql_answers_the_questions_of_the_readme(client: Client, asked: list[HistoryQuery]) -> None:
    client.submit(["true"], name="asked about").wait()
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    waits, workers, losses = (client.sql(query) for query in block.split(";")[:3])
    assert waits.set_index("name").loc["asked about", "waited"] >= dt.timedelta()
    assert "asked about" in workers["name"].tolist()
    assert losses.empty


def test_sql_begins_anew_when_the_stream_was_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = client.asynchronous.transport
    download, cuts = transport.download, [40, 400]

    async def cut(path: str, **options: bool):
        whole = b"".join([chunk async for chunk in download(path, **options)])
        yield whole[: cuts.pop()] if cuts else whole

    monkeypatch.setattr(transport, "download", cut)
    with client.call(client.asynchronous.history, HistoryQuery(table="jobs")) as file:
        assert len(file.read()) > 400
    cuts[:] = [40] * 3
    with pytest.raises(ServerUnreachable, match="broke off"):
        client.call(client.asynchronous.history, HistoryQuery(table="jobs"))


def test_attempts_of_a_job_that_was_tried_again_tell_what_each_used(client: Client, tmp_path: Path) -> None:
    allocate = 'python3 -c "data = bytearray($MIB << 20)"'
    script = f'if [ -e "$0" ]; then MIB=300; else touch "$0"; MIB=100; fi; {allocate}; [ $MIB = 300 ]'
    job = client.submit(["sh", "-c", script, str(tmp_path / "tried")], max_retries=1).wait()
    told = client.sql("select peak_memory_mb, cpu_secs from attempts where job_id = ? order by attempt", [job.id])
    peaks = told["peak_memory_mb"].tolist()
    assert [mib // 100 for mib in peaks] == [1, 3], peaks
    assert (told["cpu_secs"] > 0).all()
    assert (job.job.peak_memory_mb, job.job.cpu_secs) == (peaks[1], told["cpu_secs"][1])
    last = client.sql("select peak_memory_mb, cpu_secs from jobs where id = ?", [job.id])
    assert last.values.tolist() == told.values.tolist()[1:]
