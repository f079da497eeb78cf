"""Names and ids have one rule at every door: length, blanks, emptiness, invisible characters, Unicode form."""

import unicodedata
import uuid

import pytest
from psycopg import errors

from tests.support.command_line import as_json
from workers.analytics.ratings import RatingError, rate
from workers.ingestion.enqueue_file import ingest_file
from workers.operations import projects, record_review, windows
from workers.operations.refusals import OperationsError
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.handler.naming import MAX_NAME_CHARACTERS, file_name, name_problem, nfc

BAD = {
    "empty": "",
    "blank": " ",
    "blank before": " corpus",
    "blank behind": "corpus ",
    "no-break space behind": "corpus\xa0",
    "ideographic space before": "\u3000corpus",
    "line end": "cor\npus",
    "tab": "cor\tpus",
    "delete": "cor\x7fpus",
    "C1": "cor\x85pus",
    "width zero": "cor\u200bpus",
    "width zero alone": "\u200b",
    "joiner alone": "\u200d",
    "byte order mark": "\ufeffcorpus",
    "right to left override": "cor\u202epus",
    "Hangul filler": "\u3164",
    "braille blank": "\u2800",
    "line separator": "a\u2028b",
    "grapheme joiner": "cor\u034fpus",
    "tag": "cor\U000e0020pus",
    "variation of a letter": "cor\ufe0fpus",
    "Khmer vowel inherent": "cor\u17b4pus",
    "too long": "x" * (MAX_NAME_CHARACTERS + 1),
}
GOOD = [
    "corpus",
    "x",
    "Größe 2",
    "名前",
    "a  b",
    "👩\u200d🔬 lab",
    "می\u200cخواهم",
    "I \u2764\ufe0f corpora",
    "5 stars \u2b50\ufe0f",
    "x" * MAX_NAME_CHARACTERS,
    "o'neil; DROP",
    "%s",
]
# They look the same to a person, but have different bytes.
TWO_FORMS = "Cafe\u0301", "Caf\u00e9"


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_bad_name_is_bad_in_python_and_in_sql(psql, name):
    """Two doors with two rules would be none."""
    assert name_problem(name) is not None
    assert psql.execute("SELECT runtime.is_name(%s, %s) AS ok", [name, MAX_NAME_CHARACTERS]).fetchone() == {"ok": False}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_good_in_python_and_in_sql(psql, name):
    """Any language's, blanks within, joiners within."""
    assert name_problem(name) is None
    assert psql.execute("SELECT runtime.is_name(%s, %s) AS ok", [name, MAX_NAME_CHARACTERS]).fetchone() == {"ok": True}


def test_every_character_is_judged_alike_in_python_and_in_sql(psql):
    """At the start and inside: all of Unicode except surrogates and NUL, which SQL cannot store."""
    codes = [code for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
    found = psql.execute(
        "SELECT code FROM unnest(%s::int[]) AS code WHERE NOT runtime.is_name('a' || chr(code) || 'b', 9) "
        "AND ('a' || chr(code) || 'b') IS NFC NORMALIZED",
        [codes],
    ).fetchall()
    edges = psql.execute(
        "SELECT code FROM unnest(%s::int[]) AS code WHERE NOT runtime.is_name(chr(code) || 'b', 9) "
        "AND (chr(code) || 'b') IS NFC NORMALIZED",
        [codes],
    ).fetchall()

    normal = [code for code in codes if nfc(f"a{chr(code)}b") == f"a{chr(code)}b"]
    assert {row["code"] for row in found} == {code for code in normal if name_problem(f"a{chr(code)}b")}
    normal = [code for code in codes if nfc(f"{chr(code)}b") == f"{chr(code)}b"]
    assert {row["code"] for row in edges} == {code for code in normal if name_problem(f"{chr(code)}b")}


# https://www.unicode.org/Public/16.0.0/ucd/DerivedCoreProperties.txt
DEFAULT_IGNORABLE = """
    00AD 034F 061C 115F-1160 17B4-17B5 180B-180D 180E 180F 200B-200F 202A-202E 2060-2064 2065 2066-206F 3164 FE00-FE0F
    FEFF FFA0 FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000 E0001 E0002-E001F E0020-E007F E0080-E00FF E0100-E01EF
    E01F0-E0FFF"""


def test_what_unicode_says_nobody_sees_is_in_no_name():
    """Characters that join letters and signs are allowed between two of them."""
    ranges = [part.split("-") for part in DEFAULT_IGNORABLE.split()]
    codes = [code for ends in ranges for code in range(int(ends[0], 16), int(ends[-1], 16) + 1)]

    assert len(codes) > 4_000
    assert [code for code in codes if name_problem(f"a{chr(code)}b") is None] == [0x200C, 0x200D]
    assert [
        code for code in codes if name_problem(f"{chr(code)}b") is None or name_problem(f"a{chr(code)}") is None
    ] == []


def test_what_python_calls_a_blank_is_at_no_end_of_a_name():
    """A name of blanks only is not allowed either."""
    blanks = [chr(code) for code in range(0x20000) if chr(code).isspace()]

    assert blanks
    assert all(name_problem(f"{blank}a") and name_problem(f"a{blank}") and name_problem(blank) for blank in blanks)


INSERTS = {
    "project": "INSERT INTO operations.projects (name) VALUES (%s)",
    "guidelines": """INSERT INTO operations.projects (name, "guidelinesFileName") VALUES ('p', %s)""",
    "window": """INSERT INTO operations.bonus_windows (name, "startTime", "endTime", "createdBy")
                 VALUES (%s, now(), now() + interval '1 day', gen_random_uuid())""",
    "profile": "INSERT INTO scoring.profiles (name) VALUES (%s)",
    "source": """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
                 INSERT INTO operations.data_records ("projectId", type, source, content)
                 SELECT id, 'TASK', %s, 'c' FROM p""",
    "upload": """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
                 INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256)
                 SELECT id, %s, 0, '' FROM p""",
    "paused_by": "UPDATE runtime.stages SET paused_at = now(), paused_by = %s",
    "scoring key": """WITH p AS (INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id)
                      INSERT INTO scoring.scoring_jobs (profile_id, prompt, idempotency_key)
                      SELECT id, 'J', %s FROM p""",
    "ingest key": """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
                     INSERT INTO operations.ingest_jobs ("projectId", type, idempotency_key)
                     SELECT id, 'TASK', %s FROM p""",
    "analytics key": """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
                        INSERT INTO operations.analytics_jobs ("projectId", idempotency_key) SELECT id, %s FROM p""",
    "assessment key": """INSERT INTO assessments.assessment_states (assessment_id, request_data, idempotency_key)
                         VALUES ('a', '{}', %s)""",
    "assessment": "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES (%s, '{}')",
    "assessment by function": "SELECT assessments.create_assessment(%s, '{}')",
    "schedule": "INSERT INTO runtime.schedules (name, action, cron) VALUES (%s, 'prune', '* * * * *')",
    "key of a new domain": "INSERT INTO proving.plain_jobs (idempotency_key) VALUES (%s)",
}


@pytest.mark.parametrize("door", INSERTS)
@pytest.mark.parametrize("name", ["", " x", "x\u200b", TWO_FORMS[0]])
def test_sql_refuses_a_name_that_breaks_the_rule(psql, door, name):
    """This holds for every role; one line says the rule."""
    with pytest.raises((errors.CheckViolation, errors.InvalidParameterValue)):
        psql.execute(INSERTS[door], [name])


@pytest.mark.parametrize("door", INSERTS)
def test_sql_takes_a_name_that_keeps_the_rule(psql, door):
    """It must be in the normal form."""
    psql.execute(INSERTS[door], [TWO_FORMS[1]])


def test_a_row_that_an_older_release_let_in_goes_on(psql):
    """A job with an older key is claimed, settled and shown: only new names are checked."""
    psql.execute("INSERT INTO operations.projects (name) VALUES ('p')")
    psql.execute("ALTER TABLE operations.projects DISABLE TRIGGER USER")
    try:
        psql.execute("UPDATE operations.projects SET name = ' p '")
    finally:
        psql.execute("ALTER TABLE operations.projects ENABLE TRIGGER USER")

    psql.execute("""UPDATE operations.projects SET "lastTaskAnalysis" = 'well'""")

    with pytest.raises(errors.CheckViolation, match=r"project name must have 1 to 255 characters .* got ' q'"):
        psql.execute("UPDATE operations.projects SET name = ' q'")


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
async def test_every_door_of_ours_refuses_a_bad_name_in_one_line(session, name):
    """Projects, windows, reviews, ratings and keys; each line names its field."""
    record = uuid.uuid4()
    window = {"name": name, "start": "2026-03-02T08:00:00Z", "end": "2026-03-03T08:00:00Z"}

    with pytest.raises(OperationsError, match=r"^project name must have 1 to 255 characters"):
        await projects.get_or_create(session, name)
    with pytest.raises(OperationsError, match="name must have 1 to 255 characters"):
        await windows.create(session, window)
    with pytest.raises(OperationsError, match=r"^reviewer must have 1 to 255 characters"):
        await record_review.review(session, [record], reviewer=name, is_category_correct=None)
    with pytest.raises(RatingError, match=r"^user must have 1 to 255 characters"):
        await rate(session, record, name, realism=4, quality=4)
    with pytest.raises(EnqueueError, match=r"^idempotency_key must have 1 to 255 characters"):
        await enqueue(session, "proving.plain", {}, idempotency_key=name)


async def test_what_looks_the_same_is_the_same_project_and_the_same_key(session):
    """It does not matter if the name was typed on a Mac or elsewhere."""
    decomposed, composed = TWO_FORMS
    first = await projects.get_or_create(session, decomposed)
    job = await enqueue(session, "proving.plain", {}, idempotency_key=decomposed)
    twin = await enqueue(session, "proving.plain", {}, idempotency_key=composed)

    assert first.name == composed
    assert (await projects.find(session, decomposed)).id == (await projects.find(session, composed)).id == first.id
    assert (twin.id, twin.created) == (job.id, False)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("data.csv", "data.csv"),
        ("Re\u0301sume\u0301s.csv", "R\u00e9sum\u00e9s.csv"),
        (" two\nlines\x00.csv ", "two lines .csv"),
        ("\u200b\ufeff", "upload.csv"),
        ("x" * 600 + ".csv", "x" * 496 + ".csv"),
        ("half \udcff.csv", "half  .csv"),
    ],
)
def test_the_name_of_a_file_is_cleaned_and_not_refused(given, kept):
    """Nobody has to rename a file to upload it; the stored name follows the rule."""
    assert file_name(given, longest=500, default="upload.csv") == kept
    assert name_problem(kept, longest=500) is None
    assert unicodedata.is_normalized("NFC", kept)


async def test_a_file_of_any_name_is_ingested(session):
    """Its record and its upload have the cleaned name."""
    project = await projects.get_or_create(session, "p")

    async def content():
        yield b"content\nhello\n"

    job = await ingest_file(
        session, project_id=project.id, type="TASK", stream=content(), file_name="\u202eevil\n name .csv "
    )

    assert job.created


def test_a_bad_name_on_the_command_line_is_wrong_usage(gristmill):
    """Exit code 2, one line."""
    code, output, said = gristmill("projects", "create", "corpus ")

    assert (code, output) == (2, "")
    assert said.startswith("gristmill: project name must have 1 to 255 characters, without control")
    assert said.endswith("got 'corpus '")
    assert as_json(gristmill, "projects", "list") == []
