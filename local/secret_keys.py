"""The key that encrypts stored secrets on this machine: ``gristmill up`` makes it together with its own servers.

With servers of others, every machine needs the same keys: then they are a setting (``GRISTMILL_SECRET_KEYS``).
"""

from pathlib import Path

from local.data_dir import write_private

FILE = "secret_keys"
VARIABLE = "GRISTMILL_SECRET_KEYS"


def read_secret_keys(data_dir: Path) -> str:
    """Return the keys that the data folder holds, separated by commas; "" if it holds none."""
    try:
        return (data_dir / FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def make_secret_keys(data_dir: Path) -> str:
    """Return the keys of the data folder, after making one if it holds none. Only its owner may read the file."""
    from workers.operations.keyring import new_key

    if not read_secret_keys(data_dir):
        write_private(data_dir / FILE, new_key() + "\n")
    return read_secret_keys(data_dir)
