"""Collects how every network namespace is wired: links, addresses, neighbours, routes of all tables, rules, tc.

Leaves to others: sockets, the firewall, what a container's network is called (docker_engine).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import namespaces, rtnetlink
from fireline_agent.hands.namespaces import NetworkNamespace
from fireline_agent.hands.netlink import NETLINK_ROUTE, Netlink, NetlinkError

VERSION = "1"

_Table = list[dict[str, Any]]


def collect(context: Context, sink: Sink) -> None:
    """Write `network/links.jsonl`, `addresses`, `neighbours`, `routes`, `rules` and `traffic`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    with ExitStack() as stack:
        outs = {
            name: stack.enter_context(
                sink.artifact(f"network/{name}.jsonl", source="every network namespace", method="rtnetlink")
            )
            for name in _TABLES
        }
        for namespace, tables in namespaces.in_each(context.roots.proc, _read):
            if isinstance(tables, OSError):
                outs["links"].record({"namespace": namespace.inode, "lacks": str(tables)})
                continue
            for name, table in tables.items():
                for record in table:
                    outs[name].record({"namespace": namespace.inode, **record})
            for link in tables["links"]:
                for finding in _judge(namespace, link):
                    sink.finding(*finding)


def _read(_: NetworkNamespace) -> dict[str, _Table]:
    with Netlink(NETLINK_ROUTE) as netlink:
        return {name: _table(read, netlink) for name, read in _TABLES.items()}


def _table(read: Callable[[Netlink], Iterator[dict[str, Any]]], netlink: Netlink) -> _Table:
    """One table. What it lacks is a record of its own: the kernel has no such table, or it changed meanwhile."""
    try:
        records = list(read(netlink))
        return [*records, {"changed_while_read": True}] if netlink.was_interrupted else records
    except NetlinkError as error:
        return [{"lacks": error.strerror}]


def _traffic(netlink: Netlink) -> Iterator[dict[str, Any]]:
    queueing = rtnetlink.queues(netlink)
    yield from queueing
    yield from rtnetlink.filters(netlink, queueing)


def _judge(namespace: NetworkNamespace, link: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    if "name" not in link:
        return
    subject = f"{link['name']} in netns {namespace.inode}"
    # A bridge or bond makes each of its ports promiscuous once; that one is no sniffer.
    by_master = 1 if link["master"] else 0
    if link["is_promiscuous"] or link["promiscuity"] > by_master:
        summary = (
            f"the link takes in frames that aren't its own (promiscuity {link['promiscuity']}): a sniffer does this"
        )
        yield "warning", "promiscuous-link", subject, summary
    if link["xdp"]:
        programs = ", ".join(str(program) for program in link["xdp"]["programs"])
        summary = f"eBPF program {programs} sees every frame before the firewall does ({link['xdp']['mode']} mode)"
        yield "warning", "xdp-program", subject, summary


_TABLES: Final[dict[str, Callable[[Netlink], Iterator[dict[str, Any]]]]] = {
    "links": rtnetlink.links,
    "addresses": rtnetlink.addresses,
    "neighbours": rtnetlink.neighbours,
    "routes": rtnetlink.routes,
    "rules": rtnetlink.rules,
    "traffic": _traffic,
}
