"""Collects the tracked connections of every network namespace: the only trace of flows that are merely forwarded.

An empty table is ordinary: a kernel tracks nothing in a namespace until a rule there asks for it. Leaves to others:
sockets (flows that end on this host).
"""

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import conntrack, namespaces

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `network/conntrack.jsonl`; see the module.

    Raises:
        Absent: no namespace shows tracked connections.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    answers = list(namespaces.in_each(context.roots.proc, lambda _: conntrack.flows()))
    if all(isinstance(answer, OSError) for _, answer in answers):
        raise Absent("no connection tracking: neither ctnetlink nor /proc/net/nf_conntrack answers in any namespace")
    with sink.artifact("network/conntrack.jsonl", source="every network namespace", method="ctnetlink") as out:
        for namespace, answer in answers:
            if isinstance(answer, OSError):
                out.record({"namespace": namespace.inode, "lacks": str(answer)})
                continue
            method, flows = answer
            out.record({"namespace": namespace.inode, "method": method, "flows": len(flows)})
            for flow in flows:
                out.record({"namespace": namespace.inode, **flow})
