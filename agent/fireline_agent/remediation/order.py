"""What one action process was asked to do, and what this host brings to it. Both cross to that process as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fireline_agent.hands.cgroup import Hierarchy

PLAN, APPLY, UNDO = "plan", "apply", "undo"


@dataclass(frozen=True)
class Order:
    """Who asked for what and why.

    Attributes:
        kind: `plan`, `apply` or `undo`.
        params: all of the action's, checked by its specification.
        plan_sha256: of the plan to apply; empty for the others.
        applied: the request id to take back, for an undo.
        is_undoable: the action promises an undo.
    """

    request_id: str
    kind: str
    action: str
    params: Mapping[str, Any]
    plan_sha256: str = ""
    applied: str = ""
    is_undoable: bool = False
    operation_id: str = ""
    incident_id: str = ""
    operator: str = ""
    reason: str = ""
    fence_token: int = 0
    ordered_at: str = ""

    @property
    def group(self) -> str:
        """The name of its process's control group."""
        return f"action-{self.kind}-{key(self.request_id)[:24]}"

    def to_json(self) -> bytes:
        """As one line."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Back from `to_json`.

        Raises:
            ValueError: it is none.
        """
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise ValueError("an order is a JSON object")
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Means:
    """What this host brings to every action process: where things are, what may be written, what may be used.

    Attributes:
        records: the folder of all records.
        readable: folders below which files that an order names may be read, by the host's policy.
        writable: folders below which files may be changed, by the host's policy.
        forbidden: folders of the agent itself, which are never changed, nor read for an order: its keys are there.
    """

    state: str
    records: str
    docker_socket: str
    agent_pid: int
    memory_bytes: int
    cpu_percent: int
    pids: int
    readable: tuple[str, ...] = ("/",)
    writable: tuple[str, ...] = ("/",)
    forbidden: tuple[str, ...] = ()
    hierarchy: Hierarchy = field(default_factory=lambda: Hierarchy("none"))

    def to_json(self) -> bytes:
        """As one line."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Back from `to_json`."""
        document = json.loads(raw)
        lists = {name: tuple(document[name]) for name in ("readable", "writable", "forbidden")}
        return cls(**{**document, **lists, "hierarchy": Hierarchy.from_json(document["hierarchy"])})


def key(request_id: str) -> str:
    """The name of a record's folder and of a control group: a request id may hold any printable character."""
    return hashlib.sha256(request_id.encode()).hexdigest()
