"""Makes one container anew in the place of another, with other variables or another image; the old one is kept aside.

The old one stops before the new one starts, since both want the same ports and names. What does not come up is taken
away again and the old one put back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.compose.copying import config_of, other_networks
from fireline_agent.remediation.compose.recreate import aside, base_name
from fireline_agent.remediation.container.selection import Container, part
from fireline_agent.remediation.container.waiting import until_well

_WORDS: Final = ("Env", "Cmd", "Entrypoint")
_LONG: Final = 8  # letters from which on a secret is looked for inside of words
_NEVER: Final = {"Name": "no"}


def require_possible(told: Mapping[str, Any]) -> None:
    """Check that a container can be put back once it was stopped.

    Raises:
        ActionError: it is removed by the engine when it stops.
    """
    if part(told, "HostConfig").get("AutoRemove") is True:
        title = Container.inspected(told).title
        raise ActionError(f"{title} is removed when it stops (--rm): it can't be made anew", reason="refused")


def put_in_place(
    engine: ChangingEngine,
    told: Mapping[str, Any],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    image: str = "",
    stop_s: int,
    well_s: float,
    is_started: bool = True,
) -> dict[str, Any]:
    """Make it anew; returns what `put_back` needs, which holds no secret.

    Args:
        engine: to change.
        told: the engine's answer to an inspection of the old one.
        pairs: what is put in the place of what, in its variables and its command.
        image: an image's id; empty, the one it has.
        stop_s: what the old one may take to end by itself.
        well_s: what the new one may take to be well.
        is_started: whether the new one is started and waited for.

    Raises:
        ActionError: the new one does not come up; the old one was put back.
        EngineError: the engine refuses.
    """
    old = Container.inspected(told)
    name, policy = base_name(old.name), dict(part(told, "HostConfig", "RestartPolicy"))
    config = config_of(told, old_image=_image_of(engine, told), image=image or str(told.get("Image")))
    for key in _WORDS:
        if isinstance(config.get(key), list):
            config[key] = exchanged(config[key], pairs)
    engine.update(old.id, {"RestartPolicy": _NEVER})  # or the engine starts it again with itself
    engine.stop(old.id, within_s=stop_s)
    engine.rename(old.id, aside(old))
    kept: dict[str, Any] = {"old": old.id, "name": name, "policy": policy, "was_up": old.is_up, "new": ""}
    try:
        kept["new"] = engine.create(name, config)
        for network, endpoint in other_networks(told).items():
            engine.join(kept["new"], network, endpoint)
        if is_started and old.is_up:
            engine.start(kept["new"])
            until_well(engine, kept["new"], name, within_s=well_s)
    except (ActionError, EngineError) as error:
        put_back(engine, kept, stop_s=stop_s)
        raise ActionError(f"{error}; the former container was put back") from None
    return kept


def put_back(engine: ChangingEngine, kept: Mapping[str, Any], *, stop_s: int) -> None:
    """Take the new one away and put the old one back.

    Raises:
        EngineError: the engine refuses, or the old one is gone.
    """
    if kept["new"] and any(one.get("Id") == kept["new"] for one in engine.containers()):
        engine.stop(kept["new"], within_s=stop_s)
        engine.remove(kept["new"])
    if Container.inspected(engine.inspect(kept["old"])).name != kept["name"]:
        engine.rename(kept["old"], kept["name"])
    engine.update(kept["old"], {"RestartPolicy": dict(kept["policy"])})
    if kept["was_up"]:
        engine.start(kept["old"])


def has_any(told: Mapping[str, Any], secrets: Sequence[str]) -> bool:
    """Whether a container was made with one of these secrets in its variables or its command."""
    config = part(told, "Config")
    entries = [entry for key in _WORDS for entry in config.get(key) or [] if isinstance(entry, str)]
    return any(_with(entry, [(secret, "")]) != entry for entry in entries for secret in secrets)


def exchanged(entries: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Variables or words of a command with new secrets in the place of former ones."""
    return [_with(entry, pairs) for entry in entries]


def _with(entry: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A short secret only counts as a whole value: it may be a part of any word."""
    name, equals, value = entry.partition("=")
    for former, new in pairs:
        if former and former in (value, entry):
            return f"{name}={new}" if equals and former == value else new
        if len(former) >= _LONG and former in entry:
            return entry.replace(former, new)
    return entry


def _image_of(engine: ChangingEngine, told: Mapping[str, Any]) -> dict[str, Any]:
    """The image that it was made of; one that is gone gave nothing that could be told apart."""
    try:
        return engine.image(str(told.get("Image")))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        return {}
