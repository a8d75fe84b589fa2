"""The door to the ip program: which addresses and routes the host has, and putting those back that went away.

Adds only, never deletes: whatever a restart of the network brought stays. Interfaces are meant by name, since one that
is made anew has another number. Leaves to others: when to do it; reading as evidence (rtnetlink).
Sources: ip-address(8), ip-route(8).
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands.printable import printable

# Never PATH: on a suspect host another program may stand there.
_PLACES: Final = (Path("/usr/sbin/ip"), Path("/sbin/ip"), Path("/usr/bin/ip"), Path("/bin/ip"))
_TIMEOUT_S: Final = 10.0
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_MAX_ENTRIES: Final = 10_000
_LOCAL_TABLE: Final = "local"
_EXISTS: Final = "File exists"


class IpError(Exception):
    """ip refused or did not answer; the message is its own complaint, shortened."""


@dataclass(frozen=True)
class Ip:
    """The program at a place, in the network namespace of the calling thread."""

    path: Path

    def state(self) -> dict[str, list[list[str]]]:
        """Links that are up, addresses and routes, each as the words that `ip … add` takes for it; as JSON values.

        Raises:
            IpError: it can't be read.
        """
        links = self._json("address", "show")
        up = [["dev", link["ifname"]] for link in links if "UP" in link.get("flags", ()) and not _is_loopback(link)]
        addresses = [words for link in links if not _is_loopback(link) for words in _addresses(link)]
        found = [
            (family, route) for family in ("-4", "-6") for route in self._json(family, "route", "show", "table", "all")
        ]
        routes = [words for family, route in found if (words := _route(family, route))]
        # Those over a gateway come after the ones by which it is reached.
        routes.sort(key=lambda words: "via" in words)
        return {"links": up, "addresses": addresses, "routes": routes}

    def put_back(self, wanted: Mapping[str, Iterable[list[str]]]) -> tuple[list[str], list[str]]:
        """Add what lacks; returns what was added, and what could not be with why, a line each."""
        now = self.state()
        added, failed = [], []
        for kind, verb in (("links", ["link", "set"]), ("addresses", ["address", "add"]), ("routes", ["route", "add"])):
            for words in wanted[kind]:
                if words in now[kind]:
                    continue
                family, rest = (words[:1], words[1:]) if words[0] in ("-4", "-6") else ([], words)
                command = [*family, *verb, *rest, *(["up"] if kind == "links" else [])]
                try:
                    self._run(*command)
                    added.append(printable(" ".join(command)))
                except IpError as error:
                    if _EXISTS not in str(error):
                        failed.append(str(error))
        return added, failed

    def _json(self, *words: str) -> list[dict[str, Any]]:
        answer = self._run("-json", *words)
        try:
            found = json.loads(answer) if answer.strip() else []
        except ValueError:
            raise IpError(f"{self.path} {' '.join(words)}: wanted JSON, found something else") from None
        return [entry for entry in found if isinstance(entry, dict) and entry][:_MAX_ENTRIES]

    def _run(self, *words: str) -> str:
        try:
            ended = subprocess.run(
                (str(self.path), *words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                cwd="/",
                env=_ENVIRONMENT,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise IpError(f"{self.path} {printable(' '.join(words))}: {error}") from None
        if ended.returncode != 0:
            complaint = " ".join(ended.stderr.decode(errors="backslashreplace").split())
            raise IpError(f"ip {printable(' '.join(words))}: {printable(complaint)}")
        return ended.stdout.decode(errors="backslashreplace")


def find() -> Ip | None:
    """The program on this host, or None where it is missing."""
    return next((Ip(place) for place in _PLACES if os.access(place, os.X_OK)), None)


def _is_loopback(link: Mapping[str, Any]) -> bool:
    return "LOOPBACK" in link.get("flags", ())


def _addresses(link: Mapping[str, Any]) -> Iterator[list[str]]:
    for found in link.get("addr_info", ()):
        if found.get("scope") == "link" and found.get("family") == "inet6":
            continue  # the kernel makes its own
        peer = ["peer", f"{found['address']}/{found['prefixlen']}"] if "address" in found else []
        own = found["local"] if peer else f"{found['local']}/{found['prefixlen']}"
        broadcast = ["broadcast", found["broadcast"]] if "broadcast" in found else []
        label = ["label", found["label"]] if found.get("label") else []
        yield [own, *peer, *broadcast, "scope", str(found.get("scope", "global")), *label, "dev", link["ifname"]]


def _route(family: str, route: Mapping[str, Any]) -> list[str]:
    """The words for a route; empty for what the kernel makes by itself or ip can't say by name."""
    if route.get("table") == _LOCAL_TABLE or "nexthops" in route or "nhid" in route:
        return []
    if family == "-6" and route.get("protocol") == "kernel":
        return []
    words = [family, *([route["type"]] if "type" in route else []), str(route["dst"])]
    for key, word in (
        ("gateway", "via"), ("dev", "dev"), ("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"),
        ("metric", "metric"), ("table", "table"),
    ):  # fmt: skip
        if key in route:
            words += [word, str(route[key])]
    if "via" in route and isinstance(route["via"], dict):
        words += ["via", str(route["via"].get("family", "")), str(route["via"].get("host", ""))]
    return words + (["onlink"] if "onlink" in route.get("flags", ()) else [])
