"""Credentials for the Copernicus Data Space, read from the environment: the one place where that is done.

``CDSE_USERNAME`` and ``CDSE_PASSWORD`` (or ``CDSE_PASSWORD_FILE``) are the account. ``CDSE_TOTP`` is needed where the
account asks for a second factor: the six digits of the moment, or better the secret (base32) from which they are made,
because each six digits work once. ``CDSE_S3_ACCESS_KEY`` and ``CDSE_S3_SECRET_KEY``, else ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``, are a key pair made at https://eodata-s3keysmanager.dataspace.copernicus.eu.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stratacube.errors import UsageError

__all__ = ["Account", "S3Keys", "account_folder", "read_account", "read_s3_keys", "some_set"]

_KEY_PAIRS = (("CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY"), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


@dataclass(frozen=True)
class Account:
    """Who logs in; secrets are not shown."""

    username: str
    password: str = field(repr=False)
    totp: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class S3Keys:
    """A key pair; the secret is not shown."""

    access_key: str
    secret_key: str = field(repr=False)


def read_account(environment: Mapping[str, str] | None = None) -> Account:
    """Read the account.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Raises
    ------
    UsageError
        If user name or password is missing, or the password file cannot be read or can be read by others.
    """
    values = os.environ if environment is None else environment
    username, password, file = (values.get(f"CDSE_{n}") for n in ("USERNAME", "PASSWORD", "PASSWORD_FILE"))
    if not username or not (password or file):
        missing = "CDSE_USERNAME" if not username else "CDSE_PASSWORD_FILE (or CDSE_PASSWORD)"
        raise UsageError(
            f"downloading from the Copernicus Data Space needs an account and {missing} is not set; "
            "set it, or take `access=s3` with a key pair, or `access=local`"
        )
    return Account(username, password or _password(Path(str(file))), values.get("CDSE_TOTP") or None)


def _password(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(
                f"password file {path} can be used by others (mode {stat.S_IMODE(mode):03o}); "
                f"make it yours: chmod 600 {path}"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise UsageError(f"password file {path} cannot be read ({error.strerror}); check CDSE_PASSWORD_FILE") from error
    lines = text.splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"password file {path} has no password in its first line; write it there")
    return lines[0]


def read_s3_keys(environment: Mapping[str, str] | None = None) -> S3Keys:
    """Read the S3 key pair.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Raises
    ------
    UsageError
        If there is none.
    """
    values = os.environ if environment is None else environment
    for access, secret in _KEY_PAIRS:
        if values.get(access) and values.get(secret):
            return S3Keys(values[access], values[secret])
    raise UsageError(
        "`access=s3` needs a key pair and CDSE_S3_ACCESS_KEY and CDSE_S3_SECRET_KEY are not set; "
        "make one at https://eodata-s3keysmanager.dataspace.copernicus.eu, or take `access=https`"
    )


def some_set(*names: str, environment: Mapping[str, str] | None = None) -> bool:
    """Whether one of some variables is set: who sets one wants what it is for.

    Parameters
    ----------
    *names
        The variables.
    environment
        Instead of the process's own.
    """
    values = os.environ if environment is None else environment
    return any(values.get(name) for name in names)


def account_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Folder by which all who use an account share its limits, on whatever node.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Returns
    -------
    Path or None
        Beside the password's file, where it is in one; else in ``XDG_STATE_HOME``, or ``.local/state`` of the user's
        home, which nodes of a cluster share. None if there is no account.
    """
    values = os.environ if environment is None else environment
    names = ("CDSE_USERNAME", *(access for access, _ in _KEY_PAIRS))
    who = next((values[name] for name in names if values.get(name)), None)
    if who is None:
        return None
    file = values.get("CDSE_PASSWORD_FILE")
    state = Path(values.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    home = Path(file).absolute().parent if file else state / "stratacube"
    return home / f".cdse-{hashlib.sha256(who.encode()).hexdigest()[:12]}"
