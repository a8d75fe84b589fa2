"""The masking rule: what must be hidden, what must stay readable."""

import pytest

from fireline_agent.hands.secrets import MASK, mask, mask_assignments, mask_text, mask_tree


@pytest.mark.parametrize(
    "key",
    [
        "POSTGRES_PASSWORD",
        "PGPASSWORD",
        "MYSQL_PWD",
        "DBPASS",
        "apiKey",
        "APIKEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITEA__security__INTERNAL_TOKEN",
        "SECRET_KEY_BASE",
        "RABBITMQ_ERLANG_COOKIE",
        "SENTRY_DSN",
        "registry-auth",
        "com.example.api-key",
    ],
)
def test_a_secret_name_masks_any_value(key: str) -> None:
    """A name that says secret hides the whole value."""
    assert mask(key, "hunter2") == MASK


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PATH", "/usr/bin:/bin"),
        ("PWD", "/root"),
        ("KEYBOARD", "de"),
        ("AUTHOR", "someone"),
        ("SSH_AUTH_SOCK", "/run/agent.sock"),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/db"),
        ("SIGNING_PUBLIC_KEY", "MFkw"),
        ("SandboxKey", "/var/run/docker/netns/0123"),
        ("POSTGRES_PASSWORD", ""),
        ("URL", "https://db.example:5432/x"),
    ],
)
def test_what_is_no_secret_stays(key: str, value: str) -> None:
    """Paths, public keys, harmless names and the fact that a password is empty stay readable."""
    assert mask(key, value) == value


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN EC PRIVATE KEY" + "-" * 5 + "\nMHc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AKIA" + "A" * 16,
        "glpat-" + "a" * 20,
    ],
)
def test_a_secret_shape_masks_under_any_name(value: str) -> None:
    """A private key or a token is hidden under a harmless name too."""
    assert mask("COLOR", value) == MASK


def test_a_url_loses_only_its_password() -> None:
    """Where a service connects to is evidence; the password in it is not, also when it holds an @."""
    assert mask("DATABASE_URL", "postgres://app:p@ss@db:5432/app?x=1") == f"postgres://app:{MASK}@db:5432/app?x=1"
    assert mask("DATABASE_URL", "redis://:hunter2@cache/0") == f"redis://:{MASK}@cache/0"


def test_assignments_split_at_the_first_equals_sign() -> None:
    """An environment is masked entry by entry; what is no assignment is kept."""
    environment = ["LANG=C", "TOKEN=a=b", "no assignment", "EMPTY="]

    assert mask_assignments(environment) == ["LANG=C", f"TOKEN={MASK}", "no assignment", "EMPTY="]


def test_a_tree_is_masked_at_every_depth() -> None:
    """Engine answers are masked in labels, options and environments alike, and keep all else."""
    inspected = {
        "Config": {"Env": ["A=1", "DB_PASSWORD=x", 7], "Labels": {"api.token": "t"}},
        "HostConfig": {"LogConfig": {"Config": {"splunk-token": "s", "max-size": "1m"}}, "Privileged": True},
        "Mounts": [{"Source": "/srv"}],
    }

    assert mask_tree(inspected) == {
        "Config": {"Env": ["A=1", f"DB_PASSWORD={MASK}", "7"], "Labels": {"api.token": MASK}},
        "HostConfig": {"LogConfig": {"Config": {"splunk-token": MASK, "max-size": "1m"}}, "Privileged": True},
        "Mounts": [{"Source": "/srv"}],
    }


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("failed: password=hunter2 at db", "failed: password=[masked] at db"),
        ("ERROR: token: hunter2==", "ERROR: token: [masked]"),
        ("error: level=warn:password=hunter2", "error: level=warn:password=[masked]"),
        ("password: hunter2=more", "password: [masked]"),
        ("url: http://u:hunter2@h/x y=1", "url: http://u:[masked]@h/x y=1"),
        ("a: b=c", "a: b=c"),
    ],
)
def test_a_secret_behind_a_harmless_name_is_masked(line: str, shown: str) -> None:
    """`failed:` before `password=` looks like a name with a value itself."""
    assert mask_text(line) == shown
