"""Certificates and tokens: who gets an answer, over both protocols, and what is said where they cannot be used."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import requests
from certificates import Authority, Pair
from serving_models import serving

import zoo
from zoo.errors import ServingError, UsageError
from zoo.serving import Client, security
from zoo.serving.repository import ModelSource
from zoo.serving.security import Tls, Tokens
from zoo.serving.server import ServerProcess, start
from zoo.serving.status import Code

MODEL = "relu_mlp.digits"
IMAGES = numpy.zeros((2, 8, 8, 1), "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("server")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    zoo.export_model(MODEL, folder, formats=["saved_model", "litert"])
    return folder


def tokens_file(folder: Path, text: str) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(exported: Path, folder: Path, authority: Authority, pair: Pair) -> Iterator[ServerProcess]:
    """A server with everything: certificates of its own and of its clients, and a token."""
    flags = [f"--tls_certificate={pair.certificate}", f"--tls_key={pair.key}", f"--tls_client_ca={authority.path}"]
    with start(exported, 0, *flags, f"--token_file={tokens_file(folder, 'secret')}") as process:
        yield process


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_who_has_both_is_answered(server: ServerProcess, protocol: str, authority: Authority) -> None:
    url = server.url if protocol == "rest" else server.grpc
    assert url.startswith("https://" if protocol == "rest" else "grpcs://")
    mine = authority.sign(f"client-{protocol}")
    with Client(url, token="secret", certificate_authority=authority.path, certificate=(mine.certificate, mine.key)) as client:
        assert client.predict(MODEL, image=IMAGES)["probabilities"].shape == (2, 10)
        assert client.status(MODEL)[1]["state"] == "AVAILABLE"
    with (
        Client(url, token="other", certificate_authority=authority.path, certificate=(mine.certificate, mine.key)) as client,
        pytest.raises(ServingError, match="needs a token") as error,
    ):
        client.predict(MODEL, image=IMAGES)
    assert error.value.code == Code.UNAUTHENTICATED
    with Client(url, certificate_authority=authority.path, certificate=(mine.certificate, mine.key)) as client, pytest.raises(ServingError):
        client.status(MODEL)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_who_has_no_certificate_or_anothers_is_not(server: ServerProcess, protocol: str, authority: Authority, tmp_path: Path) -> None:
    url = server.url if protocol == "rest" else server.grpc
    stranger = Authority(tmp_path, "stranger")
    theirs = stranger.sign("client")
    for certificate in (None, (theirs.certificate, theirs.key)):
        with (
            Client(url, token="secret", certificate_authority=authority.path, certificate=certificate, retries=0, timeout=5) as client,
            pytest.raises(ServingError),
        ):
            client.predict(MODEL, image=IMAGES)
    with Client(url, token="secret", certificate_authority=stranger.path, retries=0, timeout=5) as client, pytest.raises(ServingError):
        client.predict(MODEL, image=IMAGES)


def test_health_needs_no_token_and_all_else_does(folder: Path) -> None:
    path = Path(__file__).parent.parent / "saved_models" / MODEL
    with serving([ModelSource(MODEL, path)], playground=True, tokens=Tokens(tokens_file(folder, "# comment\n\n first \nsecond\n"))) as running:
        assert [requests.get(f"{running.url}/{name}", timeout=30).status_code for name in ("healthz", "readyz")] == [200, 200]
        for name in ("", "models", "openapi.json", "v1/models/x", f"v1/models/{MODEL}", "nothing"):
            refused = requests.get(f"{running.url}/{name}", timeout=30)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "needs a token" in refused.json()["error"]
        assert requests.get(f"{running.url}/openapi.json", headers={"Authorization": "Bearer first"}, timeout=30).json()["security"] == [
            {"token": []}
        ]
        body = {"instances": IMAGES.tolist()}
        url = f"{running.url}/v1/models/{MODEL}:predict"
        for authorization, status in (
            ("Bearer second", 200),
            ("bearer first", 200),
            ("Bearer third", 401),
            ("Basic first", 401),
            ("first", 401),
            ("", 401),
        ):
            assert requests.post(url, json=body, headers={"Authorization": authorization}, timeout=30).status_code == status, authorization


def test_tokens_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(security, "LOOK_SECONDS", 0.0)
    path = tokens_file(tmp_path, "first")
    tokens = Tokens(path)
    assert tokens.permits("Bearer first")
    path.write_text("second and longer")
    assert [tokens.permits("Bearer first"), tokens.permits("Bearer second and longer")] == [False, True]
    path.write_text("# nothing\n")
    assert tokens.permits("Bearer second and longer")
    assert "holds no token any more" in caplog.text
    path.unlink()
    assert tokens.permits("Bearer second and longer")
    assert "cannot be read again" in caplog.text


def test_files_of_tokens_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ServingError, match=r"cannot be read from .*: No such file"):
        Tokens(tmp_path / "none")
    with pytest.raises(ServingError, match=r"holds no token\. It takes one per line"):
        Tokens(tokens_file(tmp_path, "# only this\n"))
    path = tokens_file(tmp_path, "secret")
    path.chmod(0o644)
    Tokens(path)
    assert f"chmod 600 {path}" in caplog.text


def test_certificates_that_cannot_be_used(tmp_path: Path, authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    other = authority.sign("other")
    with pytest.raises(ServingError, match=r"There is no file .*none.* with the server's key"):
        Tls(pair.certificate, tmp_path / "none")
    with pytest.raises(ServingError, match="the key does not belong to the certificate"):
        Tls(pair.certificate, other.key)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    with pytest.raises(ServingError, match="TLS cannot be set up from"):
        Tls(nonsense, pair.key)
    with pytest.raises(ServingError, match="TLS cannot be set up from"):
        Tls(pair.certificate, pair.key, nonsense)
    assert abs(Tls(pair.certificate, pair.key).expires - time.time() - 86_400) < 3600
    with caplog.at_level(logging.WARNING):
        old = authority.sign("old", days=-3)
        Tls(old.certificate, old.key)
    assert "expired on" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tls_certificate=server.pem"], "--tls_key is missing"),
        (["--tls_key=server.key"], "--tls_certificate is missing"),
        (["--tls_client_ca=authority.pem"], "--tls_certificate is missing"),
        (["--tls_certificate=server.pem", "--tls_key=server.key", "--ssl_config_file=config"], "both name the certificate of gRPC"),
        (["--token_file=nowhere"], "The tokens cannot be read from nowhere"),
        (["--access_log=/nowhere/log"], "The access log /nowhere/log cannot be written"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str, exported: Path, folder: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ServingError, match=message):
        start(exported, 0, *flags)


def test_a_client_says_what_is_wrong_with_its_files(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pem cannot be read"):
        Client("https://localhost:1", certificate_authority=tmp_path / "nowhere.pem")
    with pytest.raises(UsageError, match=r"nowhere\.pem cannot be read"):
        Client("grpcs://localhost:1", certificate=(tmp_path / "nowhere.pem", pair.key))
    with pytest.raises(UsageError, match="The certificates cannot be used"):
        Client("https://localhost:1", certificate=(pair.certificate, pair.certificate))
    with pytest.raises(UsageError, match="https:// or grpcs://"):
        Client("ftp://localhost:1")
