"""Exports of rows that an older release accepted and today's rules refuse."""

import pytest

from tests.integration.cli.test_operations_cli import corpus, exported  # noqa: F401 - a fixture


@pytest.fixture
def database_url(fresh_database_url):
    """A database of the test's own, because it drops rules."""
    return fresh_database_url


def test_no_odd_row_ends_an_export(gristmill, corpus, psql):  # noqa: F811 - the fixture
    """Numbers and times that Python cannot read, vectors without a direction, formulas in any column."""
    # Rows of an older release, from before the rules that refuse these.
    psql.execute("ALTER TABLE operations.data_records DROP CONSTRAINT ck_data_records_sane_times")
    psql.execute("ALTER TABLE operations.data_records ALTER metadata TYPE jsonb")
    psql.execute(
        'UPDATE operations.data_records SET metadata = %s, alignment = %s, "createdAt" = %s WHERE content = %s',
        [f'{{"n": {"9" * 5_000}}}', "[" * 3_000 + "]" * 3_000, "infinity", "=1+1"],
    )
    psql.execute("UPDATE operations.data_records SET embedding = '{NaN,1}', \"embeddingModel\" = '@m'")
    psql.execute("UPDATE operations.data_records SET \"createdByName\" = '=HYPERLINK(1)', \"createdAt\" = '-infinity' "
                 "WHERE content = 'too long'")  # fmt: skip

    rows = exported(gristmill, "--like", corpus["too long"])

    assert set(rows) == {"write an apology", "'=1+1", "too long"}
    assert "9" * 5_000 in rows["'=1+1"]["metadata"]
    assert [rows[name]["created_at"] for name in ("'=1+1", "too long")] == ["infinity", "'-infinity"]
    assert rows["too long"]["created_by_name"] == "'=HYPERLINK(1)"
    assert {row["similarity"] for row in rows.values()} == {""}
    assert {row["embedding_model"] for row in rows.values()} == {"'@m"}
