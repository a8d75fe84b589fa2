"""Collects the tracked connections of every network namespace: the only trace of flows that are merely forwarded.

An empty table is ordinary: a kernel tracks nothing in a namespace until a rule there asks for it. Leaves to others:
sockets (flows that end on this host).
"""

import errno

from fireline_agent.capture.collector import Absent, ArtifactWriter, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import conntrack, namespaces
from fireline_agent.hands.namespaces import NetworkNamespace

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `network/conntrack.jsonl`; see the module.

    Raises:
        Absent: no namespace has connection tracking.
        PermissionError: some may have, but none may be read.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    answers: list[int | OSError] = []
    with sink.artifact("network/conntrack.jsonl", source="every network namespace", method="ctnetlink") as out:
        for namespace, answer in namespaces.in_each(context.roots.proc, lambda namespace: _write(out, namespace)):
            answers.append(answer)
            lacks = {"lacks": str(answer)} if isinstance(answer, OSError) else {"flows": answer}
            out.record({"namespace": namespace.inode, **lacks})
    refusals = [answer for answer in answers if isinstance(answer, OSError)]
    if len(refusals) == len(answers):
        _raise_absence(refusals)


def _raise_absence(refusals: list[OSError]) -> None:
    for refusal in refusals:
        if refusal.errno in (errno.EPERM, errno.EACCES):
            raise PermissionError(refusal.errno, f"connection tracking may not be read: {refusal}")
    raise Absent("no connection tracking: neither ctnetlink nor /proc/net/nf_conntrack answers in any namespace")


def _write(out: ArtifactWriter, namespace: NetworkNamespace) -> int:
    """Write the flows as they come, and return how many."""
    count = 0
    for flow in conntrack.flows():
        out.record({"namespace": namespace.inode, **flow})
        count += 1
    return count
