"""What the controller's operator may set."""

from pathlib import Path

import pytest

from fireline_controller import config
from fireline_controller.model import ConfigError


def test_defaults_hold_without_a_file(tmp_path: Path) -> None:
    """A state folder without a fireline.toml has every default."""
    assert config.load(tmp_path / "fireline.toml", {}) == config.Settings()


def test_environment_wins_over_file_and_says_so(tmp_path: Path) -> None:
    """The environment overrides the file, and `origins` names where each value came from."""
    file = tmp_path / "fireline.toml"
    file.write_text("[fanout]\nconcurrency = 5\nconfirm_above = 7\n")

    origins = {o.key: o for o in config.origins(file, {"FIRELINE_FANOUT_CONCURRENCY": "9"})}

    assert (origins["fanout.concurrency"].value, origins["fanout.concurrency"].source) == (
        9,
        "FIRELINE_FANOUT_CONCURRENCY",
    )
    assert (origins["fanout.confirm_above"].value, origins["fanout.confirm_above"].source) == (7, str(file))
    assert origins["fanout.idle_s"].source == "default"


def test_unknown_key_is_refused_with_the_nearest_right_one(tmp_path: Path) -> None:
    """A misspelt key is named, and so is the one that was probably meant."""
    file = tmp_path / "fireline.toml"
    file.write_text("[fanout]\nconcurency = 5\n")

    with pytest.raises(
        ConfigError, match=r"unknown key fanout\.concurency; the nearest right one is fanout\.concurrency"
    ):
        config.load(file, {})


def test_wrong_value_is_refused_with_what_was_found(tmp_path: Path) -> None:
    """A value out of range is named with its key."""
    file = tmp_path / "fireline.toml"
    file.write_text("[fanout]\nhost_deadline_s = -1\n")

    with pytest.raises(ConfigError, match=r"fanout\.host_deadline_s: .*greater than 0, found -1"):
        config.load(file, {})


def test_a_wrong_value_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    """The file is not to blame for it, and what is wrong in the file is not the environment's."""
    file = tmp_path / "fireline.toml"
    environment = {"FIRELINE_FANOUT_CONCURRENCY": "abc"}

    with pytest.raises(ConfigError, match=r"^FIRELINE_FANOUT_CONCURRENCY \(fanout\.concurrency\): .*, found 'abc'$"):
        config.load(file, environment)
    file.write_text("[fanout]\nidle_s = 0\n")
    with pytest.raises(ConfigError, match=r"fireline\.toml: fanout\.idle_s: .*greater than 0, found 0$"):
        config.load(file, {"FIRELINE_FANOUT_CONCURRENCY": "9"})
    file.write_text("fanout = 3\n")
    with pytest.raises(ConfigError, match=r"fireline\.toml: fanout: .*, found 3$"):
        config.load(file, environment)


def test_a_list_in_the_environment_is_separated_by_commas(tmp_path: Path) -> None:
    """As in the file; an empty variable is an empty list."""
    file = tmp_path / "fireline.toml"
    file.write_text('[evidence]\ncritical_services = ["name:web*"]\n')
    name = "FIRELINE_EVIDENCE_CRITICAL_SERVICES"

    assert config.load(file, {name: "compose:postgres, name:gitea*"}).evidence.critical_services == (
        "compose:postgres",
        "name:gitea*",
    )
    assert config.load(file, {name: ""}).evidence.critical_services == ()


def test_broken_file_is_named(tmp_path: Path) -> None:
    """A file that is no TOML is refused with its path and the line."""
    file = tmp_path / "fireline.toml"
    file.write_text("[fanout\n")

    with pytest.raises(ConfigError, match=r"fireline\.toml: no TOML: .*line 1"):
        config.load(file, {})
