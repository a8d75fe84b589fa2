"""Collects how names are resolved: resolv.conf, hosts, nsswitch and systemd-resolved's stub.

The files are kept as they are. Leaves to others: what a resolver has in its cache.
"""

import json
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import procfs

VERSION = "1"

_FILES: Final = {
    "resolv.conf": "etc/resolv.conf",
    "hosts": "etc/hosts",
    "nsswitch.conf": "etc/nsswitch.conf",
    "host.conf": "etc/host.conf",
    "gai.conf": "etc/gai.conf",
    "resolved.conf": "etc/systemd/resolved.conf",
    "resolved-stub.conf": "run/systemd/resolve/stub-resolv.conf",
    "resolved-upstream.conf": "run/systemd/resolve/resolv.conf",
}
_FOLDERS: Final = ("etc/systemd/resolved.conf.d", "etc/netns")  # the latter: resolv.conf per `ip netns` name
_MAX_FILES: Final = 200


def collect(context: Context, sink: Sink) -> None:
    """Write `network/dns.json` and each file as `network/dns/NAME`; see the module.

    Raises:
        Absent: none of the files is there.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    root = context.roots.root
    found = {name: raw for name, path in _FILES.items() if (raw := procfs.read(root / path)) is not None}
    if not found:
        raise Absent(f"no name resolution to be seen: neither {root}etc/resolv.conf nor any of its kin is there")
    for name, raw in found.items():
        with sink.artifact(f"network/dns/{name}", source=str(root / _FILES[name]), method="file") as out:
            out.write(raw)
    document = _resolver(found.get("resolv.conf", b"")) | {
        "resolv_conf_target": _target(root / "etc/resolv.conf"),
        "hosts": _hosts(found.get("hosts", b"")),
        "order": _order(found.get("nsswitch.conf", b"")),
        "uses_resolved_stub": (root / "run/systemd/resolve/stub-resolv.conf").exists(),
        "more": _more(root),
        "lacks": sorted(set(_FILES) - set(found)),
    }
    with sink.artifact("network/dns.json", source=f"{root}etc", method="file") as out:
        out.write(json.dumps(document, indent=1).encode())


def _resolver(raw: bytes) -> dict[str, Any]:
    lines = [line.split() for line in raw.decode(errors="backslashreplace").splitlines()]
    return {
        "name_servers": [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"],
        "search": [word for line in lines if line[:1] in (["search"], ["domain"]) for word in line[1:]],
        "options": [word for line in lines if line[:1] == ["options"] for word in line[1:]],
    }


def _hosts(raw: bytes) -> list[dict[str, Any]]:
    lines = (line.partition("#")[0].split() for line in raw.decode(errors="backslashreplace").splitlines())
    return [{"address": line[0], "names": line[1:]} for line in lines if len(line) > 1]


def _order(raw: bytes) -> list[str]:
    lines = (line.partition("#")[0] for line in raw.decode(errors="backslashreplace").splitlines())
    return next((line.partition(":")[2].split() for line in lines if line.startswith("hosts:")), [])


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _more(root: Path) -> dict[str, str]:
    """Further settings that the distribution or `ip netns` may keep, whole, by path."""
    paths = [path for folder in _FOLDERS for path in sorted((root / folder).glob("**/*"))[:_MAX_FILES]]
    raws = ((path, procfs.read(path)) for path in paths if path.is_file())
    return {str(path): raw.decode(errors="backslashreplace") for path, raw in raws if raw is not None}
