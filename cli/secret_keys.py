"""The keys of stored secrets that a command uses: those of the settings, else those of the system that runs here."""

from cli.running_system import find_data_dir
from config.settings import Settings, keys_of
from local.secret_keys import read_secret_keys


def find_keys(settings: Settings) -> list[str]:
    """Return the keys, the one in use first. With ``DATABASE_URL`` only those of the settings count."""
    keys = keys_of(settings)
    if keys or settings.database_url is not None:
        return keys
    return [key for part in read_secret_keys(find_data_dir(settings)).split(",") if (key := part.strip())]
