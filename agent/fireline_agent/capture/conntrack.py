"""Collects the tracked connections of every network namespace: the only trace of flows that are merely forwarded.

An empty table is ordinary: a kernel tracks nothing in a namespace until a rule there asks for it. Leaves to others:
sockets (flows that end on this host).
"""

from fireline_agent.capture.collector import Absent, ArtifactWriter, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import conntrack, namespaces
from fireline_agent.hands.namespaces import NetworkNamespace

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `network/conntrack.jsonl`; see the module.

    Raises:
        Absent: no namespace shows tracked connections.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    answered = False
    with sink.artifact("network/conntrack.jsonl", source="every network namespace", method="ctnetlink") as out:
        for namespace, count in namespaces.in_each(context.roots.proc, lambda namespace: _write(out, namespace)):
            lacks = {"lacks": str(count)} if isinstance(count, OSError) else {"flows": count}
            out.record({"namespace": namespace.inode, **lacks})
            answered = answered or not lacks.get("lacks")
    if not answered:
        raise Absent("no connection tracking: neither ctnetlink nor /proc/net/nf_conntrack answers in any namespace")


def _write(out: ArtifactWriter, namespace: NetworkNamespace) -> int:
    """Write the flows as they come, and return how many."""
    count = 0
    for flow in conntrack.flows():
        out.record({"namespace": namespace.inode, **flow})
        count += 1
    return count
