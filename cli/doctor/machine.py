"""Checks of this machine and of the provider it is set to ask."""

import platform
import shutil
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from cli.doctor.check import Check, verdict
from config.settings import Settings

LEAST_FREE_BYTES = 500_000_000
_PROVIDER_SECONDS = 5


def python() -> Check:
    """Tell which Python runs."""
    return Check("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages() -> Check:
    """Hold what is installed against what this release asks for."""
    wrong = []
    wanted = [Requirement(line) for line in requires("gristmill") or () if "extra ==" not in line]
    for requirement in wanted:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                wrong.append(f"{requirement.name} is {installed}, wanted {requirement.specifier}")
    found = "; ".join(wrong) or f"all {len(wanted)} as required"
    return verdict("packages", found, well=not wrong, mend="run `make setup`")


def disk(data_dir: Path) -> Check:
    """Hold the free space of the data folder's disk against the least that servers need."""
    folder = data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    mend = "free some space, or set GRISTMILL_DATA_DIR to another disk"
    return verdict("disk", f"{free / 1e9:.1f} GB free for {data_dir}", well=free >= LEAST_FREE_BYTES, mend=mend)


def provider(settings: Settings) -> Check:
    """Tell who answers, and ask a configured server for its list of models."""
    if not settings.openai_api_key and not settings.openai_base_url:
        offline = "offline evaluator (rule-based, not an AI judgement)"
        return Check("provider", "ok", offline, "set OPENAI_API_KEY or OPENAI_BASE_URL to ask a language model")
    base = (settings.openai_base_url or "https://api.openai.com/v1").rstrip("/")
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "not-needed"
    headers = {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{base}/models", headers=headers)  # noqa: S310 - http(s) by the setting's rule
    try:
        with urllib.request.urlopen(request, timeout=_PROVIDER_SECONDS):  # noqa: S310 - likewise
            return Check("provider", "ok", f"{base} answers")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in {401, 403}:
                return Check("provider", "failed", f"{base} refuses the key ({error.code})", "mend OPENAI_API_KEY")
            return Check("provider", "ok", f"{base} answers, without a list of models ({error.code})")
    except (OSError, ValueError) as error:
        found = f"{base} does not answer: {getattr(error, 'reason', error)}"
        return Check("provider", "failed", found, "start it, or mend OPENAI_BASE_URL")
