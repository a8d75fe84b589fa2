"""The agent's settings and its host's policy."""

from pathlib import Path

import pytest

from fireline_agent.config import Config
from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.policy import Policy


def _written(folder: Path, text: str) -> Path:
    path = folder / "file.toml"
    path.write_text(text)
    return path


def test_a_file_overrides_the_defaults(tmp_path: Path) -> None:
    """What the file says counts; what it leaves out has its default."""
    config = Config.read(_written(tmp_path, 'listen = "[::1]:0"\nstate = "/srv/fireline"\ncapture_slots = 5\n'))

    assert (config.listen, config.capture_slots, config.spool) == ("[::1]:0", 5, Path("/srv/fireline/spool"))
    assert config.transfer_slots == Config().transfer_slots


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spool_limit = 5", "unknown key 'spool_limit'; did you mean 'spool_limit_bytes'?"),
        ("zzzzzz = 5", "unknown key 'zzzzzz'; known keys: "),
        ('capture_slots = "2"', "capture_slots: wanted a whole number, found '2'"),
        ("capture_slots = true", "capture_slots: wanted a whole number, found True"),
        ("capture_slots = 0", "capture_slots: wanted at least 1, found 0"),
        ("listen = 7700", "listen: wanted a text, found 7700"),
        ('listen = "7700"', "listen: wanted ADDRESS:PORT, found '7700'"),
        ('listen = "::1:7700"', "an IPv6 address stands in brackets"),
        ('listen = "x:99999"', "listen: wanted ADDRESS:PORT, found 'x:99999'"),
        ('state = "here"', "here: wanted an absolute path"),
        ('log_level = "loud"', "log_level: wanted debug, info, warning or error, found 'loud'"),
        ("collector_io_weight = 2000", "collector_io_weight: wanted 1 to 1000, found 2000"),
        ("listen = ", "no TOML: "),
    ],
)
def test_a_mistake_in_the_settings_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Every mistake stops the agent with the key, what was wanted and what was found."""
    with pytest.raises(ConfigError) as error:
        Config.read(_written(tmp_path, text))

    assert message in str(error.value)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    """A file that can't be read is an error with its path."""
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file or directory"):
        Config.read(tmp_path / "absent.toml")


def test_no_policy_file_means_the_defaults(tmp_path: Path) -> None:
    """Without a file every service, collector and path is allowed."""
    policy = Policy.read(tmp_path / "absent.toml")

    assert policy.denial("processes", {"copy": ["/etc/shadow"]}) == ""
    policy.require_service("Capture")


def test_a_policy_denies_what_it_does_not_list(tmp_path: Path) -> None:
    """Services, collectors by pattern, and paths wherever they stand in the parameters."""
    policy = Policy.read(
        _written(tmp_path, 'services = ["Host"]\ncollectors = ["docker_*", "dns"]\npaths = ["/srv/app", "/etc"]')
    )

    assert policy.denial("processes", {}) == "this host's policy does not allow the collector processes"
    assert policy.denial("docker_engine", {"critical": ["name:web*"], "deep": {"p": ["/etc/hosts"]}}) == ""
    with pytest.raises(RefusedError, match="this host's policy does not allow the service Capture"):
        policy.require_service("Capture")


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (Policy(), "read reversible disruptive"),
        (Policy(actions=("risk:read", "disk.*")), "read reversible disruptive destructive"),
        (Policy(actions=("*",), deny_actions=("risk:destructive",)), "read reversible disruptive"),
        (Policy(actions=("*",), deny_actions=("disk.clean_?ogs",)), ""),
        (Policy(actions=()), ""),
    ],
)
def test_actions_are_allowed_by_name_or_risk(policy: Policy, allowed: str) -> None:
    """What destroys only where the file says so; a denial wins."""
    risks = ("read", "reversible", "disruptive", "destructive")

    assert " ".join(risk for risk in risks if policy.allows_action("disk.clean_logs", risk)) == allowed


@pytest.mark.parametrize("path", ["/root", "/etcetera", "/etc/../root/x", "//root", "/srv/app/../other"])
def test_a_path_outside_the_allowed_folders_is_denied(path: str) -> None:
    """Also when it is written so that it looks allowed."""
    policy = Policy(paths=("/srv/app", "/etc"))

    assert policy.denial("dns", {"files": [path]}) == f"this host's policy does not allow dns to read {path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('colectors = ["*"]', "unknown key 'colectors'; did you mean 'collectors'?"),
        ('collectors = "*"', "collectors: wanted a list of texts, found '*'"),
        ('services = ["Host", "Root"]', "services: unknown service 'Root'"),
        ('services = ["Capture"]', "services: Host can't be left out"),
        ('writable = ["srv"]', "writable: wanted absolute paths without '..' or a final '/', found 'srv'"),
        ('actions = ["risk:harmless"]', "actions: unknown risk 'risk:harmless'"),
        ('paths = ["/etc/"]', "paths: wanted absolute paths without '..' or a final '/', found '/etc/'"),
    ],
)
def test_a_mistake_in_the_policy_is_named(tmp_path: Path, text: str, message: str) -> None:
    """A policy that can't be understood stops the agent: it never runs with looser rules than were meant."""
    with pytest.raises(ConfigError) as error:
        Policy.read(_written(tmp_path, text))

    assert message in str(error.value)
