"""The incident authority: what it signs, what it refuses, and what it says about a folder that is not whole."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from fireline_controller import pki
from fireline_controller.model import ConfigError, PolicyError, StoreError
from fireline_wire import chain, envelope
from fireline_wire.identity import Identity, Role

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """A fresh authority."""
    return pki.create(tmp_path / "pki", operator="alice", now=NOW)


def signing_request(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A signing request by the key, PEM."""
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.PEM)


def p256() -> ec.EllipticCurvePrivateKey:
    """A key."""
    return ec.generate_private_key(ec.SECP256R1())


def test_a_created_authority_loads_again_and_is_closed_to_others(authority: pki.Authority) -> None:
    """Folder 0700, files 0600, and what was written is what is read."""
    again = pki.load(authority.folder)

    assert (again.ca_pem, again.controller, again.operator) == (
        authority.ca_pem,
        authority.controller,
        authority.operator,
    )
    assert again.operator_name == "alice"
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in authority.folder.iterdir()} == {0o600}
    assert [path.name for path in authority.folder.parent.iterdir()] == ["pki"]


def test_an_authority_is_never_replaced(authority: pki.Authority) -> None:
    """A second create changes nothing."""
    before = {path.name: path.read_bytes() for path in authority.folder.iterdir()}

    with pytest.raises(ConfigError, match="there is something already; an authority is never replaced"):
        pki.create(authority.folder, operator="mallory", now=NOW)
    assert {path.name: path.read_bytes() for path in authority.folder.iterdir()} == before
    assert [path.name for path in authority.folder.parent.iterdir()] == ["pki"]


def test_an_operator_needs_a_name(tmp_path: Path) -> None:
    """A bad name is refused before anything is written."""
    with pytest.raises(ConfigError, match="operator: 'Alice!' is not a name"):
        pki.create(tmp_path / "pki", operator="Alice!", now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_whole_is_named_file_by_file(authority: pki.Authority) -> None:
    """One message names all that is missing, broken, open or exchanged."""
    folder = authority.folder
    (folder / "ca.key").unlink()
    (folder / "controller.pem").write_bytes(b"no certificate")
    (folder / "journal.key").write_bytes(b"no key")
    (folder / "operator.key").chmod(0o644)
    (folder / "operator.pem").write_bytes(authority.journal_chain_pem)

    with pytest.raises(StoreError) as caught:
        pki.load(folder)
    message = str(caught.value)
    assert f"{folder}: the authority is not whole: " in message
    assert "ca.key is missing" in message
    assert "controller.pem: no certificate chain in PEM" in message
    assert "journal.key is not a P-256 key" in message
    assert f"operator.key is open to others; chmod 600 {folder}/operator.key" in message
    assert "operator.pem and operator.key do not match" in message
    assert message.endswith(". Restore what is missing or broken from a backup")


def test_keys_that_are_only_open_to_others_need_no_backup(authority: pki.Authority) -> None:
    """The command that mends it is all the advice."""
    (authority.folder / "ca.key").chmod(0o640)

    with pytest.raises(StoreError) as caught:
        pki.load(authority.folder)
    assert str(caught.value).endswith(f"not whole: ca.key is open to others; chmod 600 {authority.folder}/ca.key")


def test_exchanged_roles_and_foreign_authorities_are_named(authority: pki.Authority, tmp_path: Path) -> None:
    """An operator's pair in the controller's place, and a journal's pair of another authority."""
    other = pki.create(tmp_path / "other", operator="bob", now=NOW)
    for suffix in ("key", "pem"):
        (authority.folder / f"controller.{suffix}").write_bytes((authority.folder / f"operator.{suffix}").read_bytes())
        (authority.folder / f"journal.{suffix}").write_bytes((other.folder / f"journal.{suffix}").read_bytes())

    with pytest.raises(StoreError) as caught:
        pki.load(authority.folder)
    assert "controller.pem is for spiffe://fireline/operator/alice, wanted the role controller" in str(caught.value)
    assert "journal.pem: certificate" in str(caught.value)
    assert "is not signed by the authority" in str(caught.value)


def test_a_missing_folder_is_restored_from_a_backup(tmp_path: Path) -> None:
    """The message is what to do: what init did not make is lost."""
    with pytest.raises(StoreError, match=r"the folder is missing\. Restore what is missing or broken from a backup"):
        pki.load(tmp_path / "pki")


def test_a_hosts_certificate_is_for_a_server_of_that_name_only(authority: pki.Authority) -> None:
    """serverAuth and nothing else, the host's DNS name of this generation, the SPIFFE URI, back-dated five minutes."""
    key = p256()
    issued = authority.issue_agent(signing_request(key), host="web-1", generation=3, now=NOW, lifetime=WEEK)

    leaf = chain.certificates(issued.pem.encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert names.get_values_for_type(x509.DNSName) == ["web-1.g3.agent.fireline"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://fireline/agent/web-1"]
    assert (issued.not_before, issued.not_after) == (NOW - timedelta(minutes=5), NOW + WEEK)
    assert issued.key_id == envelope.key_id(key.public_key())
    assert issued.serial == format(leaf.serial_number, "x")
    assert issued.identity == "spiffe://fireline/agent/web-1"


@pytest.mark.parametrize(
    ("request_pem", "why"),
    [
        (b"nonsense", "the signing request is refused: it is no signing request in PEM$"),
        (signing_request(ed25519.Ed25519PrivateKey.generate()), "Ed25519PublicKey, wanted ECDSA P-256"),
        (signing_request(ec.generate_private_key(ec.SECP384R1())), "wanted ECDSA P-256"),
        (b"x" * 20_000, "it has 20000 bytes, at most 16384 are read"),
    ],
)
def test_a_bad_signing_request_is_refused(authority: pki.Authority, request_pem: bytes, why: str) -> None:
    """Malformed, of another curve, of another kind, or too long."""
    with pytest.raises(PolicyError, match=why) as caught:
        authority.issue_agent(request_pem, host="web-1", generation=1, now=NOW, lifetime=WEEK)
    assert caught.value.reason == "invalid_request"


def test_a_request_without_proof_of_its_key_is_refused(authority: pki.Authority) -> None:
    """A request whose signature is by another key than it names."""
    der = bytearray(x509.load_pem_x509_csr(signing_request(p256())).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(PolicyError, match="it is not signed by the key that it is for"):
        authority.issue_agent(forged, host="web-1", generation=1, now=NOW, lifetime=WEEK)


def test_an_operators_certificate_is_for_a_client_only(authority: pki.Authority) -> None:
    """clientAuth and the operator's SPIFFE URI, no DNS name."""
    leaf = chain.certificates(authority.operator.chain_pem)[0]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert chain.identity_of(leaf) == Identity(Role.OPERATOR, authority.operator_name)


def test_a_certificate_is_due_when_a_third_of_its_life_is_left(authority: pki.Authority) -> None:
    """Not before, and then for good."""
    issued = authority.issue_agent(signing_request(p256()), host="web-1", generation=1, now=NOW, lifetime=WEEK)

    assert not pki.is_due(issued, NOW + timedelta(days=4, hours=15))
    assert pki.is_due(issued, NOW + timedelta(days=4, hours=17))
    assert pki.is_due(issued, NOW + timedelta(days=8))


def test_own_certificates_are_renewed_for_the_same_keys(authority: pki.Authority) -> None:
    """Nothing while nothing is due; later a new certificate each, on the disk too, by the same authority."""
    assert pki.renew(authority, NOW + timedelta(days=30)) is authority

    later = NOW + timedelta(days=80)
    renewed = pki.renew(authority, later)

    assert renewed.controller.key_pem == authority.controller.key_pem
    assert renewed.controller.chain_pem != authority.controller.chain_pem
    assert pki.load(authority.folder).controller == renewed.controller
    assert (
        pki.verify_chain(renewed.journal_chain_pem, authority.ca_pem, at=later + timedelta(days=89)).name == "journal"
    )


def test_a_chain_is_verified_against_its_authority_and_its_time(authority: pki.Authority, tmp_path: Path) -> None:
    """The right authority at the right time says who it is; another authority or time is refused by name."""
    other = pki.create(tmp_path / "other", operator="bob", now=NOW)
    issued = authority.issue_agent(signing_request(p256()), host="web-1", generation=1, now=NOW, lifetime=WEEK)
    leaf = issued.pem.encode()

    assert pki.verify_chain(leaf, authority.ca_pem, at=NOW) == Identity(Role.AGENT, "web-1")
    with pytest.raises(chain.ChainError, match="is not signed by the authority"):
        pki.verify_chain(leaf, other.ca_pem, at=NOW)
    with pytest.raises(
        chain.ChainError, match="holds from 2026-05-02 11:55:00 to 2026-05-09 12:00:00 UTC, not at 2026"
    ):
        pki.verify_chain(leaf, authority.ca_pem, at=NOW + timedelta(days=8))
    with pytest.raises(chain.ChainError, match="is not an authority's own"):
        pki.verify_chain(leaf, leaf, at=NOW)
    with pytest.raises(chain.ChainError, match="does not carry one Fireline identity"):
        pki.verify_chain(authority.ca_pem, authority.ca_pem, at=NOW)
