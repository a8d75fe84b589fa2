"""The agent's key folder: renewal without a restart, and what a crash or a wrong certificate leaves."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fireline_agent import keys
from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.keys import KeyFolder
from fireline_controller import pki

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """A fresh authority."""
    return pki.create(tmp_path / "pki", operator="alice", now=NOW)


def certified(authority: pki.Authority, csr_pem: bytes, *, host: str = "web-1", generation: int = 1) -> bytes:
    """The chain for a signing request."""
    issued = authority.issue_agent(csr_pem, host=host, generation=generation, now=NOW, lifetime=WEEK)
    return authority.chain_of(issued)


def joined(authority: pki.Authority, folder: Path) -> KeyFolder:
    """The folder of a host that has joined."""
    key = keys.new_key()
    chain_pem = certified(authority, keys.signing_request(key))
    return KeyFolder.create(folder, key_pem=keys.key_to_pem(key), chain_pem=chain_pem, ca_pem=authority.ca_pem)


def test_a_joined_host_opens_its_folder_again(authority: pki.Authority, tmp_path: Path) -> None:
    """0700, files 0600, the same credentials, and who the host is."""
    folder = joined(authority, tmp_path / "keys")
    again = KeyFolder.open(tmp_path / "keys")

    assert again.credentials() == folder.credentials()
    assert (str(again.held.identity), again.held.dns) == ("spiffe://fireline/agent/web-1", "web-1.g1.agent.fireline")
    assert again.held.not_after == NOW + WEEK
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_host_that_has_not_joined_says_what_to_do(tmp_path: Path) -> None:
    """The message is the next command."""
    with pytest.raises(ConfigError, match="this host has not joined; run `fireline-agent join --token TOKEN`"):
        KeyFolder.open(tmp_path / "keys")


def test_renewal_changes_the_credentials_once(authority: pki.Authority, tmp_path: Path) -> None:
    """The source gives the same object until the new certificate is in, and another one from then on."""
    folder = joined(authority, tmp_path / "keys")
    before = folder.credentials()
    csr = folder.prepare_renewal()
    assert folder.credentials() is before

    held = folder.install(certified(authority, csr))

    assert folder.credentials() is held.credentials is not before
    assert folder.credentials().key_pem != before.key_pem
    assert KeyFolder.open(tmp_path / "keys").credentials() == folder.credentials()
    assert not (tmp_path / "keys" / keys.PENDING).exists()


def test_a_renewal_that_is_asked_for_twice_has_one_key(authority: pki.Authority, tmp_path: Path) -> None:
    """A certificate for the first request fits after the second."""
    folder = joined(authority, tmp_path / "keys")
    first = folder.prepare_renewal()
    folder.prepare_renewal()

    folder.install(certified(authority, first))


def test_a_crash_between_certificate_and_key_is_mended(authority: pki.Authority, tmp_path: Path) -> None:
    """The new certificate is written, the pending key not yet in its place: opening finishes it."""
    folder = joined(authority, tmp_path / "keys")
    fresh = certified(authority, folder.prepare_renewal())
    (tmp_path / "keys" / keys.CHAIN).write_bytes(fresh)

    assert KeyFolder.open(tmp_path / "keys").credentials().chain_pem == fresh


def test_a_pending_renewal_survives_a_restart(authority: pki.Authority, tmp_path: Path) -> None:
    """The old pair goes on, and the certificate for the pending key still fits."""
    folder = joined(authority, tmp_path / "keys")
    csr = folder.prepare_renewal()
    again = KeyFolder.open(tmp_path / "keys")

    assert again.credentials() == folder.credentials()
    again.install(certified(authority, csr))


@pytest.mark.parametrize(
    ("host", "generation", "why"),
    [
        ("web-2", 1, r"is for spiffe://fireline/agent/web-2 \(web-2.g1.agent.fireline\), this is web-1.g1.agent"),
        ("web-1", 2, r"this is web-1.g1.agent.fireline"),
    ],
)
def test_a_certificate_of_another_name_is_refused(
    authority: pki.Authority, tmp_path: Path, host: str, generation: int, why: str
) -> None:
    """Another host, or another enrolment of this one; the former certificate stays in use."""
    folder = joined(authority, tmp_path / "keys")
    before = folder.credentials()
    csr = folder.prepare_renewal()

    with pytest.raises(RefusedError, match=why):
        folder.install(certified(authority, csr, host=host, generation=generation))
    assert folder.credentials() is before
    assert KeyFolder.open(tmp_path / "keys").credentials() == before


def test_a_certificate_of_another_authority_or_key_or_role_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    """Each with its own words."""
    folder = joined(authority, tmp_path / "keys")
    other = pki.create(tmp_path / "other", operator="bob", now=NOW)
    with pytest.raises(RefusedError, match="no renewal is under way on this host: prepare one first"):
        folder.install(certified(authority, keys.signing_request(keys.new_key())))
    csr = folder.prepare_renewal()

    with pytest.raises(RefusedError, match="is not signed by the authority"):
        folder.install(certified(other, csr))
    with pytest.raises(RefusedError, match="it does not match the key"):
        folder.install(certified(authority, keys.signing_request(keys.new_key())))
    with pytest.raises(RefusedError, match="it is for spiffe://fireline/controller/controller, wanted the role agent"):
        folder.install(authority.controller.chain_pem)
    with pytest.raises(RefusedError, match="no certificate chain in PEM"):
        folder.install(b"nonsense")


def test_an_open_key_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    """A key that others can read is not used."""
    joined(authority, tmp_path / "keys")
    (tmp_path / "keys" / keys.KEY).chmod(0o640)

    with pytest.raises(ConfigError, match="the key is open to others; chmod 600"):
        KeyFolder.open(tmp_path / "keys")


def test_a_deny_list_survives_a_restart(authority: pki.Authority, tmp_path: Path) -> None:
    """None at first, then what was kept; a broken file is named."""
    folder = joined(authority, tmp_path / "keys")
    assert folder.denied() == (0, frozenset())

    folder.keep_denied(4, ["b2", "a1"])
    assert KeyFolder.open(tmp_path / "keys").denied() == (4, frozenset({"a1", "b2"}))

    (tmp_path / "keys" / keys.DENIED).write_bytes(b"{}")
    with pytest.raises(ConfigError, match="no deny-list; remove the file and the controller sends it again"):
        folder.denied()


def test_threads_that_prepare_at_once_get_one_key(authority: pki.Authority, tmp_path: Path) -> None:
    """Two commands at the same time: each gets a request that the one pending key signed."""
    folder = joined(authority, tmp_path / "keys")
    with ThreadPoolExecutor(8) as pool:
        requests = list(pool.map(lambda _: folder.prepare_renewal(), range(8)))

    public = [x509.load_pem_x509_csr(csr).public_key() for csr in requests]
    assert len({key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in public}) == 1
