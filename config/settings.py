"""All settings. An entry point reads them once and passes them on as plain arguments.

Sources, the first one wins: a command's own options, the environment, ``.env`` in the working folder, and files under
``/run/secrets`` with the names of the variables. An empty value counts as unset.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import getaddresses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from config.redaction import MASK, redact_text

ENV_PREFIX = "GRISTMILL_"
DOTENV = Path(".env")
SECRETS_DIR = Path("/run/secrets")
_MAX_SHOWN_CHARS = 80

# Every number has a minimum and a maximum. Without them a wrong one (1e300 seconds) would fail later, at its first use.
Seconds = Annotated[float, Field(ge=0.05, le=86_400, allow_inf_nan=False)]


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names the variable, the rule and the value."""


class DatabaseSettings(BaseModel):
    """Connections to Postgres."""

    pool_size: int = Field(10, ge=1, le=500, description="connections that one process keeps, besides the kernel's own")


class LLMSettings(BaseModel):
    """Calls to the language model's provider."""

    model: str | None = Field(None, description="model for jobs that have the table's default model")
    connect_timeout_seconds: Seconds = Field(5.0, description="longest wait for a connection to the provider")
    timeout_seconds: Seconds = Field(90.0, description="longest wait for one answer")
    max_connections: int = Field(
        1_000, ge=1, le=100_000, description="open connections to the provider per worker process"
    )
    patience_hours: float | None = Field(
        None,
        ge=0.001,
        le=720,
        allow_inf_nan=False,
        description="how long a job waits for a provider that is away before it fails; unset: however long. "
        "No attempt is spent",
    )
    idle_runs: int = Field(
        20,
        ge=1,
        le=10_000,
        description="rate-limited runs in a row that get a job no further, after which a person is told; "
        "the job fails once they last as long as idle_hours",
    )
    idle_hours: float = Field(
        6.0,
        ge=0.001,
        le=720,
        allow_inf_nan=False,
        description="how long a job may make no progress although its provider answers, before it fails",
    )
    concurrency: int = Field(
        100, ge=1, le=10_000, description="questions in flight at once per worker process; the others wait"
    )
    batch_gather_seconds: Seconds = Field(
        60.0, description="how long a batch of the batch lane gathers questions before it is sent"
    )
    batch_poll_seconds: Seconds = Field(
        60.0, description="first wait for a provider's batch; later ones are a tenth of its age"
    )
    batch_max_poll_seconds: Seconds = Field(600.0, description="longest wait between two looks at a provider's batch")
    embedding_model: str | None = Field(
        None, description="embedding model; unset: text-embedding-3-small at OpenAI; must be set for other providers"
    )
    embedding_batch: int = Field(64, ge=1, le=2_048, description="most texts in one request for embeddings")
    embedding_batch_tokens: int = Field(
        100_000, ge=1, le=100_000_000, description="most tokens in one request for embeddings, estimated as bytes / 3"
    )
    embedding_concurrency: int = Field(
        8, ge=1, le=1_000, description="requests for embeddings in flight per worker process"
    )


class WorkerSettings(BaseModel):
    """One worker process."""

    slots: int = Field(100, ge=1, le=10_000, description="jobs running at once in one worker process")
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="queues this worker serves, separated by commas; unset: all of them"
    )
    heartbeat_seconds: Seconds = Field(5.0, description="seconds between two heartbeats of a worker process")
    lease_seconds: Seconds = Field(
        30.0,
        validate_default=True,
        description="time without a heartbeat after which a worker's jobs are rescued; more than 3 heartbeats",
    )
    grace_seconds: float = Field(
        20.0, ge=0, le=86_400, allow_inf_nan=False, description="how long running jobs may finish after SIGTERM"
    )

    @field_validator("queues", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("lease_seconds")
    @classmethod
    def _outlives_heartbeats(cls, value: float, info: ValidationInfo) -> float:
        heartbeat = info.data.get("heartbeat_seconds")
        if heartbeat is not None and value <= 3 * heartbeat:
            raise ValueError(f"must exceed three heartbeats ({3 * heartbeat:g} s)")
        return value


class DispatcherSettings(BaseModel):
    """The leading dispatcher."""

    poll_seconds: Seconds = Field(0.2, description="longest sleep between two looks for due jobs")
    batch_size: int = Field(256, ge=1, le=1_000, description="most jobs carried by one Celery message")
    redispatch_seconds: Seconds = Field(5.0, description="age at which an unclaimed dispatch is sent again")


class FlowerSettings(BaseModel):
    """The Flower role."""

    port: int = Field(5555, ge=1, le=65_535, description="port Flower listens on")
    address: str = Field("127.0.0.1", description="address Flower listens on; beyond loopback it requires basic_auth")
    basic_auth: SecretStr | None = Field(None, validate_default=True, description="user:password that Flower asks for")

    @field_validator("basic_auth", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("basic_auth")
    @classmethod
    def _guards_what_others_reach(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        address = info.data.get("address", "")
        if value is None and not _is_loopback(address):
            raise ValueError(f"must be set to user:password, because Flower listens beyond loopback, on {address!r}")
        if value and not all(value.get_secret_value().partition(":")):
            raise ValueError("must be user:password")
        return value


class GatewaySettings(BaseModel):
    """The HTTP gateway."""

    port: int = Field(8000, ge=1, le=65_535, description="port the gateway listens on")
    address: str = Field("127.0.0.1", description="address the gateway listens on")
    requests_per_minute: int = Field(
        60_000, ge=1, le=100_000_000, description="requests per minute and API key, over all gateway processes"
    )
    concurrency: int = Field(32, ge=1, le=1_000, description="requests that run at once in one process")
    queue: int = Field(512, ge=0, le=100_000, description="requests that wait for a running one; more get 503")
    max_connections: int = Field(10_000, ge=1, le=1_000_000, description="open connections of one process")
    grace_seconds: float = Field(
        20.0, ge=1, le=86_400, allow_inf_nan=False, description="how long running requests may finish after SIGTERM"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="proxies that name the client in X-Forwarded-For, as CIDRs separated by commas; unset: that header "
        "is ignored",
    )
    metrics_token: SecretStr | None = Field(
        None, description="token that opens /metrics; unset: only an API key with the scope operate:read"
    )
    issuer: str | None = Field(
        None, description="issuer of the tokens (JWT) that users may send instead of an API key; unset: API keys only"
    )
    audience: str | None = Field(None, description="audience that such a token must name")
    jwks_url: str | None = Field(
        None,
        validate_default=True,
        description="where the issuer publishes its public keys (JWKS); https, or http on this machine",
    )
    actor_key: SecretStr | None = Field(
        None,
        description="key of `gristmill security new-key`, in hex: signs the users of tokens in strict mode; "
        "API keys do not need it",
    )

    @field_validator("issuer", "audience", "jwks_url", "actor_key", "metrics_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, value: str | None, info: ValidationInfo) -> str | None:
        given = [info.data.get("issuer"), info.data.get("audience"), value]
        if any(given) and not all(given):
            raise ValueError("must be set together with GRISTMILL_GATEWAY__ISSUER and GRISTMILL_GATEWAY__AUDIENCE")
        if value and not _is_https_or_local(value):
            raise ValueError("must be an https URL, or an http URL of this machine")
        return value

    @field_validator("actor_key")
    @classmethod
    def _is_hex(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not re.fullmatch(r"(?:[0-9a-fA-F]{2}){32,}", value.get_secret_value()):
            raise ValueError("must be 64 hexadecimal digits or more, as `gristmill security new-key` prints them")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_by_commas(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _check_networks(value)


class OutboundSettings(BaseModel):
    """Calls to addresses that users name, and mail."""

    allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="private networks that agents, callbacks and feeds may be in, as CIDRs separated by commas; "
        "unset: public addresses only",
    )
    timeout_seconds: Seconds = Field(30.0, description="longest time of one call, with its redirects and its answer")
    connect_timeout_seconds: Seconds = Field(5.0, description="longest wait for a connection to such an address")
    max_bytes: int = Field(10_485_760, ge=1, le=1_073_741_824, description="most bytes read of one answer")
    mail_from: str = Field("Gristmill <gristmill@localhost>", description="sender of every mail")

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_by_commas(value)

    @field_validator("allow")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _check_networks(value)

    @field_validator("mail_from")
    @classmethod
    def _is_one_address(cls, value: str) -> str:
        found = getaddresses([value])
        if len(found) != 1 or not re.fullmatch(r"[^@\s]+@[^@\s]+", found[0][1]) or re.search(r"[\r\n]", value):
            raise ValueError("must be one address, such as Gristmill <gristmill@example.com>")
        return value


class Settings(BaseSettings):
    """All settings. Entry points call :func:`load`, which reports a bad value in one line."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file=DOTENV,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        secrets_dir_missing="ok",
    )

    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL 18 with a role that may create schemas; unset: the embedded server",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias="REDIS_URL",
        description="Redis or Valkey with maxmemory-policy noeviction; unset: the embedded server",
    )
    openai_api_key: SecretStr | None = Field(
        None,
        validation_alias="OPENAI_API_KEY",
        description="key of the provider; with neither key nor base URL the offline evaluator answers",
    )
    openai_base_url: str | None = Field(
        None,
        validation_alias="OPENAI_BASE_URL",
        description="any OpenAI-compatible server (OpenRouter, LM Studio, llama.cpp, …)",
    )
    smtp_url: SecretStr | None = Field(
        None,
        validation_alias="SMTP_URL",
        description="mail server, smtp://user:password@host:587 or smtps://…; unset: mail goes into the folder mail/ "
        "of the data folder",
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="keys that encrypt secrets in the database, separated by commas; the first one is in use; "
        "`gristmill settings new-key` makes one",
    )
    data_dir: Path = Field(Path(".gristmill"), description="where the embedded servers and `gristmill up` keep state")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    transitions_retention_days: int = Field(
        400, ge=31, le=36_500, description="age at which a month of the audit trail is dropped; at least 31"
    )
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    llm: LLMSettings = Field(default_factory=LLMSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    dispatcher: DispatcherSettings = Field(default_factory=DispatcherSettings)
    flower: FlowerSettings = Field(default_factory=FlowerSettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)

    @field_validator("database_url", "redis_url", "openai_api_key", "secret_keys", "smtp_url", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None  # a secret file may be empty; empty variables are ignored before

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        _must_start(value, "postgresql://", "postgres://", "postgresql+psycopg://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        _must_start(value, "redis://", "rediss://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, value: SecretStr | None) -> SecretStr | None:
        _must_start(value, "smtp://", "smtps://")
        if value and not _names_host(value.get_secret_value()):
            raise ValueError("must name a host and a port, such as smtp://host:587")
        return value

    @field_validator("openai_base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        _must_start(value, "http://", "https://")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the base class fixes the signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add secret files with nested names (``gristmill_flower__basic_auth``)."""
        return init_settings, env_settings, dotenv_settings, NestedSecretsSettingsSource(file_secret_settings)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as ``gristmill config`` shows it; secrets are masked, ``None`` means unset."""

    variable: str
    value: str | None
    default: str | None
    meaning: str


def load(*, secrets_dir: Path = SECRETS_DIR, **overrides: Any) -> Settings:
    """Return the settings; raise :class:`SettingsError` if one is wrong or unknown.

    ``overrides`` are a command's own options by field name. They win: ``load(worker={"slots": 5})``.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"no setting is named {', '.join(sorted(unknown))}")
    try:
        _refuse_unknown({*os.environ, *dotenv_values(DOTENV), *_secret_names(secrets_dir)})
        return Settings(_secrets_dir=secrets_dir, **overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_describe_error, error.errors(include_url=False)))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings cannot be read from {DOTENV} or {secrets_dir}: {error}") from None


def keys_of(settings: Settings) -> list[str]:
    """Return the keys of ``secret_keys``. The first one is in use."""
    joined = settings.secret_keys.get_secret_value() if settings.secret_keys else ""
    return [key for part in joined.split(",") if (key := part.strip())]


def list_settings(settings: Settings) -> list[SettingRow]:
    """List every setting with its value, default and meaning, in the order of declaration."""
    rows = []
    for path, field in _leaves():
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(SettingRow(_variable(path), _display(value), _display(default), field.description or ""))
    return rows


def _leaves() -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (((name, inner), leaf) for inner, leaf in field.annotation.model_fields.items())
        else:
            yield (name,), field


def _variable(path: tuple[str, ...]) -> str:
    alias = Settings.model_fields[path[0]].validation_alias
    return alias if isinstance(alias, str) else ENV_PREFIX + "__".join(path).upper()


def _display(value: object) -> str | None:
    match value:
        case None | ():
            return None
        case SecretStr():
            secret = value.get_secret_value()
            return redact_text(secret) if "://" in secret else MASK
        case tuple():
            return ",".join(map(str, value))
        case _:
            return redact_text(str(value))


def _refuse_unknown(names: set[str]) -> None:
    known = {_variable(path) for path, _ in _leaves()}
    for name in sorted(name.upper() for name in names):
        if name.startswith(ENV_PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"did you mean {nearest[0]}?" if nearest else "`gristmill config` lists all of them"
            raise SettingsError(f"{name} is not a setting; {hint}")


def _secret_names(secrets_dir: Path) -> list[str]:
    return [entry.name for entry in secrets_dir.iterdir()] if secrets_dir.is_dir() else []


def _describe_error(error: ErrorDetails) -> str:
    """Return one line with the variable, the rule and the value."""
    loc = tuple(str(part) for part in error["loc"])
    path, field = next(
        (path, field) for path, field in _leaves() if path == loc[: len(path)] or _variable(path) == loc[0]
    )
    # The same wording as in workers.runtime.refusals, which this room may not import.
    rule = re.sub(r"^[\w' ]+ should ", "must ", error["msg"].removeprefix("Value error, ")).partition(", unable")[0]
    value = error["input"]
    if value is None:
        return f"{_variable(path)} {rule}"
    if SecretStr in get_args(field.annotation):
        value = _display(SecretStr(str(value)))
    return f"{_variable(path)} {rule}, got {redact_text(repr(value), limit=_MAX_SHOWN_CHARS)}"


def _split_by_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError("must be networks such as 127.0.0.0/8") from None
    return value


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_https_or_local(url: str) -> bool:
    """Tell whether nobody between here and the server of ``url`` can change its answer."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    )


def _names_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _must_start(value: SecretStr | str | None, *schemes: str) -> None:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text and not text.startswith(schemes):
        raise ValueError(f"must start with {' or '.join(schemes)}")
