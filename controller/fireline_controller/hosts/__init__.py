"""The way to the hosts: each one as a client whose every failure says its kind. The engine and above may import it.

values > wire, descriptors > channels, diagnosis > failures > calls > asking > client > fleet; vantage stands alone.
"""

from fireline_controller.hosts.client import HostClient
from fireline_controller.hosts.descriptors import raise_descriptor_limit, require_room
from fireline_controller.hosts.fleet import Fleet, tune_collector
from fireline_controller.hosts.values import (
    CancelAnswer,
    CaptureAccepted,
    CaptureNews,
    CaptureOrder,
    CaptureSealed,
    CollectorEnded,
    CollectorStarted,
    Command,
    HostDescription,
    HostEvent,
    InstalledCertificate,
    PingAnswer,
    Range,
)
from fireline_controller.hosts.values_isolation import (
    Armed,
    CutConnection,
    EndedIsolation,
    IsolationPlan,
    IsolationState,
    IsolationStatus,
    Released,
    SignedOrder,
)
from fireline_controller.hosts.values_remediation import (
    ActionAccepted,
    ActionEnded,
    ActionNews,
    ActionPlan,
    ActionProgress,
)

__all__ = [
    "ActionAccepted",
    "ActionEnded",
    "ActionNews",
    "ActionPlan",
    "ActionProgress",
    "Armed",
    "CancelAnswer",
    "CaptureAccepted",
    "CaptureNews",
    "CaptureOrder",
    "CaptureSealed",
    "CollectorEnded",
    "CollectorStarted",
    "Command",
    "CutConnection",
    "EndedIsolation",
    "Fleet",
    "HostClient",
    "HostDescription",
    "HostEvent",
    "InstalledCertificate",
    "IsolationPlan",
    "IsolationState",
    "IsolationStatus",
    "PingAnswer",
    "Range",
    "Released",
    "SignedOrder",
    "raise_descriptor_limit",
    "require_room",
    "tune_collector",
]
