"""Orders opened, in a process of its own. See orders.

Argument: the key folder. Standard input: a line of JSON for each order. Standard output: a line of JSON for each, with
`refused` or `error` in it where it says no.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.keys import KeyFolder
from fireline_wire import chain, envelope
from fireline_wire.identity import Role
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, OrderError


def main() -> None:
    """Open one order after another and answer, until nobody asks any more."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(folder, json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(folder: Path, given: Any) -> dict[str, Any]:
    try:
        return {"payload": _opened(KeyFolder.open(folder), given).decode()}
    except ConfigError as error:
        return {"error": str(error)}
    except RefusedError as error:
        return {"refused": [error.reason, error.message]}


def _opened(folder: KeyFolder, given: Any) -> bytes:
    try:
        leaf = chain.certificates(given["chain_pem"].encode())[0]
        payload = envelope.unseal(given["envelope"].encode(), PAYLOAD_TYPE, chain.public_key_of(leaf))
        order = IsolationOrder.parse(payload)
    except (chain.ChainError, envelope.EnvelopeError) as error:
        raise RefusedError("tampered", f"the order is not believed: {error}") from None
    except OrderError as error:
        raise RefusedError("invalid_request", f"order: {error}") from None
    _require_controller(folder, given, order)
    if order.host != folder.held.identity.name:
        raise RefusedError("invalid_request", f"the order is for {order.host}, this is {folder.held.identity.name}")
    return payload


def _require_controller(folder: KeyFolder, given: Any, order: IsolationOrder) -> None:
    try:
        at = datetime.fromisoformat(order.issued_at).astimezone(UTC) if given["is_kept"] else datetime.now(UTC)
        signer = chain.verify_chain(given["chain_pem"].encode(), folder.held.credentials.ca_pem, at=at)
    except ValueError as error:
        raise RefusedError("tampered", f"the order's signer is not believed: {error}") from None
    if signer.role is not Role.CONTROLLER:
        raise RefusedError("tampered", f"the order is signed by {signer}, wanted the role {Role.CONTROLLER}")
    _, denied = folder.denied()
    serial = chain.serial_hex(chain.certificates(given["chain_pem"].encode())[0])
    if serial in denied and not given["is_kept"]:
        raise RefusedError("certificate_revoked", f"the order's signer {signer} ({serial}) is revoked")


if __name__ == "__main__":
    main()
