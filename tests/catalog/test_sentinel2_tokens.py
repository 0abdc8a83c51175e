from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.sentinel2.settings import Account, read_account, read_s3_keys
from catalog.sentinel2.tokens import TokenSource, one_time_code
from stratacube.errors import SourceError, UsageError
from tests.catalog.cdse_server import PASSWORD, TOTP, USER, CdseServer, serve


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


def source(cdse: CdseServer, password: str = PASSWORD, totp: str | None = None) -> TokenSource:
    return TokenSource(lambda: Account(USER, password, totp), f"{cdse.url}/token", pause=0.01, timeout=2)


def kinds(cdse: CdseServer) -> list[str]:
    return [fields["grant_type"] for fields in cdse.logins]


def test_one_login_for_many_threads(cdse: CdseServer) -> None:
    cdse.token_delay = 0.1
    tokens, got = source(cdse), []
    threads = [threading.Thread(target=lambda: got.append(tokens.token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["access-1"] * 8
    assert kinds(cdse) == ["password"]


def test_token_is_renewed_before_its_end(cdse: CdseServer) -> None:
    cdse.life = 1
    tokens = source(cdse)
    assert tokens.token() == tokens.token() == "access-1"
    time.sleep(0.6)  # half of its life: the margin of a short-lived token
    assert tokens.token() == "access-2"
    assert kinds(cdse) == ["password", "refresh_token"]


def test_refused_token_of_many_threads_is_renewed_once(cdse: CdseServer) -> None:
    cdse.token_delay = 0.05
    tokens, got = source(cdse), []
    old = tokens.token()
    threads = [threading.Thread(target=lambda: got.append(tokens.token(refused=old))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["access-2"] * 8
    assert kinds(cdse) == ["password", "refresh_token"]


def test_ended_session_logs_in_again(cdse: CdseServer) -> None:
    tokens = source(cdse)
    old = tokens.token()
    cdse.refresh_tokens.clear()
    assert tokens.token(refused=old) == "access-3"
    assert kinds(cdse) == ["password", "refresh_token", "password"]


def test_second_factor(cdse: CdseServer) -> None:
    cdse.second_factor = True
    with pytest.raises(UsageError, match="refuses the login") as refused:
        source(cdse).token()
    assert "somebody" not in str(refused.value)
    tokens = source(cdse, totp=TOTP)
    old = tokens.token()
    assert tokens.token(refused=old)  # by refresh, without a code
    cdse.refresh_tokens.clear()
    with pytest.raises(UsageError, match="the one-time code in CDSE_TOTP works only once"):
        tokens.token(refused=tokens.token())


def test_codes_from_a_secret_are_those_of_the_standard() -> None:
    # RFC 6238, appendix B (its eight digits, of which ours are the last six).
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert one_time_code(secret, 59) == "287082"
    assert one_time_code(secret.lower(), 1111111109) == "081804"
    assert one_time_code(secret[:16] + " " + secret[16:], 20000000000) == "353130"
    with pytest.raises(UsageError, match="neither a code of six digits nor a secret"):
        one_time_code("not base32!")


def test_wrong_password_is_said_without_it_and_asked_once(cdse: CdseServer) -> None:
    tokens = source(cdse, "pass-with-&-in-it")
    for _ in range(3):
        with pytest.raises(UsageError) as caught:
            tokens.token()
        text = "".join(traceback.format_exception(caught.value))
        assert "pass-with-&-in-it" not in text
        assert "check CDSE_USERNAME and CDSE_PASSWORD" in str(caught.value)
    assert len(cdse.logins) == 1


def test_identity_server_that_fails_is_asked_again(cdse: CdseServer) -> None:
    cdse.fail(f"{cdse.url}/token", "503", "429:0.1")
    assert source(cdse).token() == "access-1"
    cdse.fail(f"{cdse.url}/token", *["500"] * 4)
    with pytest.raises(SourceError, match=r"gives no token \(500\)"):
        source(cdse).token()


def test_identity_server_that_is_gone() -> None:
    tokens = TokenSource(lambda: Account(USER, PASSWORD), "http://127.0.0.1:1/token", pause=0.01, tries=2)
    with pytest.raises(SourceError) as caught:
        tokens.token()
    error: BaseException | None = caught.value
    while error is not None:  # the fault itself holds the request, and that the password
        assert not hasattr(error, "request")
        error = error.__cause__ or error.__context__


def test_answer_without_a_token(cdse: CdseServer) -> None:
    cdse.token_fault = lambda fields: (200, {}, b"[]")
    with pytest.raises(SourceError, match="answered without a token"):
        source(cdse).token()


def test_password_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret word\n")
    environment = {"CDSE_USERNAME": USER, "CDSE_PASSWORD_FILE": str(file)}
    for mode in (0o640, 0o604, 0o620, 0o644):
        file.chmod(mode)
        with pytest.raises(UsageError, match=f"can be used by others \\(mode {mode:o}\\); make it yours: chmod 600"):
            read_account(environment)
    file.chmod(0o600)
    assert read_account(environment) == Account(USER, "secret word")
    assert read_account({**environment, "CDSE_TOTP": TOTP}).totp == TOTP
    file.write_text("")
    with pytest.raises(UsageError, match="has no password in its first line"):
        read_account(environment)
    with pytest.raises(UsageError, match="cannot be read"):
        read_account({**environment, "CDSE_PASSWORD_FILE": str(tmp_path / "none")})


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="CDSE_USERNAME is not set"):
        read_account({"CDSE_PASSWORD": "x"})
    with pytest.raises(UsageError, match="CDSE_PASSWORD_FILE"):
        read_account({"CDSE_USERNAME": "x"})
    with pytest.raises(UsageError, match="CDSE_S3_ACCESS_KEY"):
        read_s3_keys({"AWS_ACCESS_KEY_ID": "half"})
    keys = read_s3_keys({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert (keys.access_key, keys.secret_key) == ("a", "b")
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    assert read_account() == Account(USER, PASSWORD)
    assert PASSWORD not in repr(read_account())
