"""Create ``runtime.api_keys``: who may use the gateway, what for, and as whom. Separate the gateway from its callers.

Why: an HTTP door must know who calls it. The database finds the key, so the gateway reads no hash, and in strict mode
the database signs the user of a valid key. The gateway's login had all rights of a service by inheritance; a route
without a check could have used them.
Previous release: still runs. No process of it uses the role ``gristmill_gateway``.

- ``gristmill_gateway`` inherits nothing more. It may become ``gristmill_service`` or ``gristmill_operator`` inside a
  transaction (``SET LOCAL ROLE``), and outside of one it can only find keys and look at the leader and the schema;
- ``gristmill_operator`` still has the rights of ``gristmill_worker``, and nobody becomes the latter through it;
- ``runtime.is_trusted`` asks which rights a role has, no longer which roles it may become;
- ``operations.looks_secret`` knows the keys of the gateway and the secrets of callbacks: no setting keeps them;
- history shows the gateway's own login before the name of a key, so that no other service can claim to be that key.

Memberships of roles belong to the whole server, so a downgrade leaves them.

Revision ID: 0027
Revises: 0026
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0027"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in ("tables", "functions", "rights"):
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    """Undo it, apart from memberships of roles: other databases of the server may need them."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
