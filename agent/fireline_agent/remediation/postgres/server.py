"""How every action on PostgreSQL names its server, reaches it, and says what is wrong with it.

Leaves to others: finding and asking (hands.postgres, hands.psql).
"""

from typing import Any, Final

from fireline_agent.hands import postgres
from fireline_agent.hands.psql import PsqlError, Server
from fireline_agent.remediation.action import ActionError, Facts, Params, Tools
from fireline_wire.actions import Kind, Parameter

NEEDS: Final = ("postgresql",)
PARAMETERS: Final = (
    Parameter("service", Kind.TEXT, "container name, id or Compose service that the server runs in; else the host's"),
    Parameter("socket", Kind.PATH, "folder of the server's socket; in the container where `service` is given"),
    Parameter("port", Kind.INT, "which names the socket", default=5432, least=1, most=65535),
    Parameter("user", Kind.TEXT, "role to connect as; else postgres, or the POSTGRES_USER of the container"),
    Parameter("database", Kind.TEXT, "database to connect to", default="postgres"),
)

_HINTS: Final = {
    "full": "every connection is taken, even those kept for superusers: postgres.make_room ends an idle one",
    "starting": "it does not take connections yet, or no more; ask again in a moment",
    "down": "it does not listen; look at its log, start it with system.service_start or container.restart",
    "hung": "it, or its disk, hangs: look at the host's processes in uninterruptible sleep",
    "denied": "its pg_hba.conf must let its own system user in through the socket (`local all postgres peer`)",
    "barred": "its unit lacks CAP_SETUID: install fireline-agent.service.d/remediation.conf",
    "absent": "name it with `service`, or with `socket` and `port`",
    "no_psql": "install the client beside the server",
    "failed": "",
}
_REASONS: Final = {"absent": "unsupported", "no_psql": "unsupported", "barred": "unsupported", "denied": "refused"}


def reached(tools: Tools, params: Params) -> Server:
    """The server that the parameters name.

    Raises:
        ActionError: none fits, or several.
    """
    wanted = postgres.Wanted(**{parameter.name: params[parameter.name] for parameter in PARAMETERS})
    try:
        return postgres.find(tools.roots, wanted)
    except PsqlError as error:
        raise explained(error) from None


def asked(server: Server, statement: str) -> Any:
    """The answer to one statement.

    Raises:
        ActionError: it could not be asked or refused; the message says what may help.
    """
    try:
        return server.ask(statement)
    except PsqlError as error:
        raise explained(error) from None


def explained(error: PsqlError) -> ActionError:
    """The error with what may help."""
    hint = _HINTS[error.reason]
    return ActionError(f"{error}; {hint}" if hint else str(error), reason=_REASONS.get(error.reason, "failed"))


def sessions(tools: Tools, params: Params) -> Facts:
    """Every session of the server, and what holds for all of them."""
    server = reached(tools, params)
    answer = asked(server, postgres.SESSIONS)
    if not isinstance(answer, dict):
        raise ActionError(f"{server.name}: wanted its sessions, found {type(answer).__name__}")
    return {"server": server.name, **answer}
