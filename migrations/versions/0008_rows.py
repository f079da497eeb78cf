"""Bound what a document may be: its size, how deep it is nested, how large its numbers are.

Why: Postgres holds documents that no reader of JSON can have (numbers of 5,000 digits, 5,000 levels); one of them in a
job is a job that cannot be performed, and one of a hundred megabytes is a worker without memory.
Previous release: still runs on it; what it writes keeps within these bounds, or is refused.

The rules are those of domains, and not CHECKs of the tables. A table's CHECK is judged again with every update of the
row, whatever is updated: each mark, claim and settle would walk the whole document, and a row from before the rule
could never be marked, claimed, failed or rescued any more, nor could the batch that it is updated in. A domain's rule
is judged where a value is written. NOT VALID for the same rows: they stay as they are, and whoever reads them tells
why they cannot be read.

A payload's size is bounded to a mebibyte at the doors that know one (``workers.runtime.bounds``). As ``jsonb`` a
mebibyte of small numbers takes seven times that, which is what these bounds leave room for.

Revision ID: 0008
Revises: 0007
Created: 2026-11-30
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DEEP = """jsonb_path_exists(VALUE, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')"""
LARGE_NUMBER = """jsonb_path_exists(VALUE, 'strict $.** ? (@ > 1e308 || @ < -1e308)')"""

# Of a value as it is stored, compressed perhaps, ``pg_column_size`` tells how little room it takes on the disk. The
# concatenation unpacks it first: of an object it returns the same value and makes no copy.
SIZE = "pg_column_size(VALUE || '{}'::jsonb)"

# By domain: what it is of, and its rules.
DOMAINS = {
    # What a job is asked to do, or is done about.
    "payload": (
        "jsonb",
        {
            "nested_at_most_64_deep": f"NOT {DEEP}",
            "numbers_within_1e308": f"NOT {LARGE_NUMBER}",
            "at_most_8_mib": f"{SIZE} <= 8388608",
        },
    ),
    # What came out of a file or an answer.
    "document": (
        "jsonb",
        {"nested_at_most_64_deep": f"NOT {DEEP}", "at_most_32_mib": f"{SIZE} <= 33554432"},
    ),
    # What a session says of a change, as far as history keeps it.
    "context": (
        "jsonb",
        {"nested_at_most_64_deep": f"NOT {DEEP}", "numbers_within_1e308": f"NOT {LARGE_NUMBER}"},
    ),
    "payload_text": ("text", {"at_most_1_mib": "octet_length(VALUE) <= 1048576"}),
}
COLUMNS = {
    "scoring.scoring_jobs.prompt": "payload_text",
    "scoring.profiles.attributes": "payload",
    "assessments.assessment_states.request_data": "payload",
    "assessments.assessment_states.result_data": "document",
    "operations.ingest_jobs.mapping": "payload",
    "operations.data_records.metadata": "document",
    "runtime.schedules.payload": "payload",
}


def upgrade() -> None:
    for domain, (base, _) in DOMAINS.items():
        op.execute(f"CREATE DOMAIN runtime.{domain} AS {base}")
    for column, domain in COLUMNS.items():
        _retype(column, f"runtime.{domain}")
    for domain, (_, rules) in DOMAINS.items():
        for name, rule in rules.items():
            op.execute(f"ALTER DOMAIN runtime.{domain} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID")


def downgrade() -> None:
    for column, domain in COLUMNS.items():
        _retype(column, DOMAINS[domain][0])
    for domain in DOMAINS:
        op.execute(f"DROP DOMAIN runtime.{domain}")


def _retype(column: str, type_: str) -> None:
    """Give a column another name for its type: nothing is rewritten. Triggers that name the column are made anew."""
    table, _, name = column.rpartition(".")
    op.execute(f"""
        DO $$
        DECLARE
          v_trigger record;
          v_triggers text[] := '{{}}';
        BEGIN
          FOR v_trigger IN
            SELECT DISTINCT t.tgname, pg_get_triggerdef(t.oid) AS definition
              FROM pg_trigger AS t
              JOIN pg_depend AS d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.tgrelid
              JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE t.tgrelid = '{table}'::regclass AND a.attname = '{name}' AND NOT t.tgisinternal
          LOOP
            v_triggers := v_triggers || v_trigger.definition;
            EXECUTE format('DROP TRIGGER %I ON {table}', v_trigger.tgname);
          END LOOP;
          ALTER TABLE {table} ALTER COLUMN {name} TYPE {type_};
          FOR i IN 1 .. cardinality(v_triggers) LOOP
            EXECUTE v_triggers[i];
          END LOOP;
        END $$""")
