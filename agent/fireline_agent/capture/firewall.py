"""Collects the packet filters of every network namespace: nftables by two views, and legacy iptables.

Reads only. Leaves to others: eBPF filters (network, bpf), what the rules should be.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fireline_agent.capture.collector import ArtifactWriter, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import iptables, namespaces, nftables
from fireline_agent.hands.namespaces import NetworkNamespace

VERSION = "1"


@dataclass(frozen=True)
class _Filters:
    """What one namespace has; `lacks` says what couldn't be read, by view."""

    ruleset: bytes
    kernel: list[dict[str, Any]]
    legacy: list[dict[str, Any]]
    lacks: dict[str, str]


def collect(context: Context, sink: Sink) -> None:
    """Write `firewall/nftables.jsonl`, `firewall/nftables_kernel.jsonl` and `firewall/iptables.jsonl`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    where = "every network namespace"
    with (
        sink.artifact("firewall/nftables.jsonl", source=where, method="libnftables") as rulesets,
        sink.artifact("firewall/nftables_kernel.jsonl", source=where, method="nfnetlink") as kernel,
        sink.artifact("firewall/iptables.jsonl", source=where, method="getsockopt") as legacy,
    ):
        rulesets.facts["has_libnftables"] = has_library = nftables.has_library()
        for namespace, filters in namespaces.in_each(context.roots.proc, lambda _: _read(has_library=has_library)):
            if isinstance(filters, OSError):
                rulesets.record({"namespace": namespace.inode, "lacks": str(filters)})
                continue
            _write_ruleset(rulesets, namespace, filters)
            for out, records in ((kernel, filters.kernel), (legacy, filters.legacy)):
                for record in records:
                    out.record({"namespace": namespace.inode, **record})


def _read(*, has_library: bool) -> _Filters:
    lacks: dict[str, str] = {}
    kernel = _attempt(lacks, "nfnetlink", nftables.raw_dump)
    legacy = _attempt(lacks, "iptables", iptables.entries)
    ruleset = b""
    if has_library and kernel:  # an empty one needs no second view, and most namespaces have none
        try:
            ruleset = nftables.listing()
        except nftables.ListingFailed as error:
            lacks["libnftables"] = str(error)
    return _Filters(ruleset, kernel, legacy, lacks)


def _attempt(lacks: dict[str, str], view: str, read: Callable[[], Iterator[dict[str, Any]]]) -> list[dict[str, Any]]:
    try:
        return list(read())
    except OSError as error:
        lacks[view] = str(error)
        return []


def _write_ruleset(out: ArtifactWriter, namespace: NetworkNamespace, filters: _Filters) -> None:
    """One line: libnftables' own JSON goes in as it came, so that nothing is lost by reading it."""
    tables = None if "nfnetlink" in filters.lacks else sum(entry["what"] == "table" for entry in filters.kernel)
    head = json.dumps({"namespace": namespace.inode, "tables": tables, "lacks": filters.lacks})
    ruleset = filters.ruleset.replace(b"\n", b" ").strip() or b"null"
    out.write(head[:-1].encode() + b', "ruleset": ' + ruleset + b"}\n")
