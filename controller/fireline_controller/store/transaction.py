"""One transaction: all verbs in one place."""

from fireline_controller.store.agreement import AgreementVerbs
from fireline_controller.store.fleet import FleetVerbs
from fireline_controller.store.isolations import IsolationVerbs
from fireline_controller.store.keeping import KeepingVerbs
from fireline_controller.store.locks import LockVerbs
from fireline_controller.store.record import RecordVerbs
from fireline_controller.store.runs import RunVerbs
from fireline_controller.store.work import WorkVerbs


class Transaction(
    RecordVerbs, FleetVerbs, WorkVerbs, KeepingVerbs, AgreementVerbs, IsolationVerbs, RunVerbs, LockVerbs
):
    """The verbs on an open transaction; synchronous, valid only inside the function that it was handed to."""
