"""The key of stored secrets that ``gristmill up`` makes beside its own servers."""

import stat

from cli.secret_keys import find_keys
from config.settings import load
from local.secret_keys import FILE, VARIABLE, make_secret_keys, read_secret_keys
from local.system import Ports, build_roles
from workers.operations.keyring import Keyring, new_key

URLS = {"database_url": "postgresql://a", "redis_url": "redis://b"}


def test_a_key_is_made_once_and_is_its_owners(tmp_path):
    """Secrets that were stored with it can be read after the next start."""
    first = make_secret_keys(tmp_path)

    assert make_secret_keys(tmp_path) == first == read_secret_keys(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert Keyring([first]).decrypt(Keyring([first]).encrypt("x")) == "x"


def test_every_role_gets_it(tmp_path):
    """As the setting that it is elsewhere."""
    roles = build_roles(URLS, workers=1, ports=Ports(gateway=1, flower=2), more={VARIABLE: "k"})

    assert {role.env[VARIABLE] for role in roles} == {"k"}


def test_a_command_finds_the_key_of_the_data_folder(tmp_path, monkeypatch):
    """A setting counts first; with another database the folder's key counts for nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert find_keys(load(data_dir=tmp_path)) == []
    made, other = make_secret_keys(tmp_path), new_key()

    assert find_keys(load(data_dir=tmp_path)) == [made]
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    assert find_keys(load(data_dir=tmp_path)) == []
    monkeypatch.setenv(VARIABLE, other)
    assert find_keys(load(data_dir=tmp_path)) == [other]
