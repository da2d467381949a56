"""The Jobs API of a cluster's head: its address, Ray's token, and a client whose every error is one message."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesearch.errors import InputError, Problem, TunesearchError

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for the address of a head's Jobs API."""

_TIMEOUT = 10
"""Seconds to connect, and to hear the first answer; Ray's client would wait for ever."""


def api_address(address: str | None) -> str:
    """Where a cluster's Jobs API is: the argument, else ``$RAY_API_SERVER_ADDRESS``.

    Raises:
        InputError: neither is given, or it is no such address.
    """
    where = "--address" if address else f"${ADDRESS}"
    address = address or os.environ.get(ADDRESS)
    rule = "must be the address of the head's dashboard, such as http://HEAD:8265"
    if not address:
        raise InputError(Problem("--address", rule, hint=f"or set ${ADDRESS}"))
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        fits = False
    if not fits:
        raise InputError(Problem(where, rule, value=repr(_without_password(address))))
    if parts.username or parts.password:
        raise InputError(Problem(where, "must have no password in it", hint="Ray's token is found in its own places"))
    return address.rstrip("/")


def exposure(address: str) -> str:
    """What is risky about sending the token to this address; empty where nothing is."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return ""
    if parts.scheme == "https" or host == "localhost" or _token() is None:
        return ""
    port = parts.port or 80
    return (
        f"the token goes to {host} unencrypted, and who has it can run anything there; "
        f"better: ssh -N -L {port}:127.0.0.1:{port} {host}, and --address http://127.0.0.1:{port}"
    )


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    source: str


def _token() -> _Token | None:
    """The token, looked for where Ray looks for it; a file that others can read is closed to them.

    Raises:
        InputError: there is a token that cannot be read or is none.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    value, source = os.environ.get("RAY_AUTH_TOKEN", "").strip(), "$RAY_AUTH_TOKEN"
    if not value:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        file = Path(named or "~/.ray/auth_token").expanduser()
        if not named and not file.is_file():
            return None
        source = str(file)
        try:
            value = file.read_text("ascii").strip()
            if file.stat().st_mode & 0o077:
                with contextlib.suppress(OSError):  # somebody else's
                    file.chmod(0o600)
        except OSError as error:
            raise InputError(Problem(source, f"Ray's token cannot be read: {error.strerror}")) from None
        except UnicodeDecodeError:
            value = ""
    if not re.fullmatch(r"[!-~]+", value):  # it stands in a header; the value itself is not told
        raise InputError(Problem(source, "must hold Ray's token: one word"))
    return _Token(value, source)


@contextlib.contextmanager
def head_client(address: str) -> Iterator[Any]:
    """A client of Ray's Jobs API; every way in which talking to it goes wrong becomes one message.

    Raises:
        InputError: the cluster cannot be reached, is none, or refuses the token; a part of Ray is not installed.
        TunesearchError: the cluster could not do what it was asked.
    """
    if any(importlib.util.find_spec(package) is None for package in ("aiohttp", "requests")):
        raise InputError("a part of Ray that talks to clusters is missing: pip install 'tunesearch[cluster]'")
    address = api_address(address)
    token = _token()
    connected = False
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray's classes are untyped
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            patience = 12 * _TIMEOUT if connected else _TIMEOUT
            return super()._do_request(*arguments, **{"timeout": (_TIMEOUT, patience), **options})

    # Ours and not RAY_AUTH_MODE, which Ray reads once in a process.
    headers = {"Authorization": f"Bearer {token.value}"} if token else None
    for chatty in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
        logging.getLogger(f"ray.{chatty}").setLevel(logging.ERROR)
    try:
        with _only(address):
            client = Client(address, headers=headers)
        connected = True
        yield client
    except AuthenticationError:
        if token is None and os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
            rule = f"wants Ray's token, and $RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}"
        elif token is None:
            rule = "wants Ray's token, and none is in $RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        else:
            rule = f"refuses the token of {token.source}"
        raise InputError(Problem(address, rule, hint="`ray get-auth-token` on the head prints it")) from None
    except TunesearchError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, ClientError) as error:  # requests' own are OSError, too
        if not connected:
            rule = "must be the address of a Ray head that answers, such as http://HEAD:8265"
            raise InputError(Problem("--address", rule, value=f"{address} ({_reason(error)})")) from None
        raise TunesearchError(f"{address}: {_reason(error)}; a search goes on as long as its head does") from error


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray's client prefers the variable to the address that it is given."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS]
        else:
            os.environ[ADDRESS] = before


def _reason(error: Exception) -> str:
    """The heart of an error: of a server's traceback the last line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return one_line(lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}")[:300]


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", address)


def one_line(text: str | None) -> str:
    """A text without its line ends, cut where it is long."""
    return " ".join((text or "").split())[:500]
