"""How a container is made again from what the engine tells of it, on another image or the very same. Pure.

An inspection mixes what the image gives with what the container was made with: what the old image gave is left out, so
that the new one gives its own.

Source: Docker Engine API 1.41, ContainerInspect and ContainerCreate; Compose's handling of anonymous volumes.
"""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.container.selection import REPLACES, part

_FROM_IMAGE: Final = ("Cmd", "Entrypoint", "WorkingDir", "User", "StopSignal", "Shell", "OnBuild", "Healthcheck")
_SHORT_ID: Final = 12
_ENDPOINT: Final = ("IPAMConfig", "Links", "DriverOpts")


def config_of(told: Mapping[str, Any], *, old_image: Mapping[str, Any], image: str) -> dict[str, Any]:
    """What to make a container with that is like the inspected one, but on `image` (an id).

    It is put on the first of its networks; see `other_networks`. What identified the old one (its short id as
    host name, its hardware address) is left out.
    """
    config, given = dict(part(told, "Config")), part(old_image, "Config")
    for key in _FROM_IMAGE:
        if config.get(key) == given.get(key):
            config.pop(key, None)
    if config.get("Hostname") == str(told.get("Id"))[:_SHORT_ID]:
        config.pop("Hostname")
    config.pop("MacAddress", None)
    config["Image"] = image
    config["Env"] = [entry for entry in config.get("Env") or [] if entry not in (given.get("Env") or [])]
    for key in ("Volumes", "ExposedPorts"):
        config[key] = {k: v for k, v in (config.get(key) or {}).items() if k not in (given.get(key) or {})}
    given_labels = given.get("Labels") or {}
    labels = {k: v for k, v in (config.get("Labels") or {}).items() if given_labels.get(k) != v}
    config["Labels"] = {**labels, REPLACES: str(told.get("Id"))}
    config["HostConfig"] = _host_config(told)
    config["NetworkingConfig"] = {"EndpointsConfig": dict(list(_endpoints(told).items())[:1])}
    return config


def other_networks(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The endpoints on all networks but the first; engines before 25 take one network when a container is made."""
    return dict(list(_endpoints(told).items())[1:])


def _host_config(told: Mapping[str, Any]) -> dict[str, Any]:
    """As it was, with the volumes that the engine had made for it, so that their data goes on."""
    host = dict(part(told, "HostConfig"))
    binds = list(host.get("Binds") or [])
    covered = {entry.split(":")[1] for entry in binds if ":" in entry}
    covered |= {mount.get("Target") for mount in host.get("Mounts") or [] if isinstance(mount, dict)}
    for mount in told.get("Mounts") or []:
        if mount.get("Type") == "volume" and mount.get("Name") and mount.get("Destination") not in covered:
            binds.append(f"{mount['Name']}:{mount['Destination']}{'' if mount.get('RW') else ':ro'}")
    host["Binds"] = binds
    return host


def _endpoints(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Its place on each network, the one of its network mode first; none where it shares another's network."""
    mode = str(part(told, "HostConfig").get("NetworkMode", ""))
    if mode.startswith(("container:", "host", "none")):
        return {}
    networks = part(told, "NetworkSettings", "Networks")
    own = str(told.get("Id"))[:_SHORT_ID]
    found = {}
    for name in sorted(networks, key=lambda name: (name != mode, name)):
        endpoint = part(networks, name)
        kept = {key: endpoint[key] for key in _ENDPOINT if endpoint.get(key)}
        aliases = [alias for alias in endpoint.get("Aliases") or [] if alias != own]
        found[name] = {**kept, **({"Aliases": aliases} if aliases else {})}
    return found
