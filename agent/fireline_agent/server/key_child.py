"""One look into the key folder, or one change of it, in a process of its own. See keyring.

Arguments: the folder and a verb. Standard input: JSON. Standard output: JSON, with `refused` or `error` in it where
the folder says no.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.keys import KEY, KeyFolder


def main() -> None:
    """Do the one thing and answer."""
    try:
        answer = _done(KeyFolder.open(Path(sys.argv[1])), sys.argv[2], json.load(sys.stdin))
    except ConfigError as error:
        answer = {"error": str(error)}
    except RefusedError as error:
        answer = {"refused": [error.reason, error.message]}
    sys.stdout.write(json.dumps(answer))


def _done(folder: KeyFolder, verb: str, given: Any) -> dict[str, Any]:
    if verb == "prepare":
        return {"signing_request_pem": folder.prepare_renewal().decode()}
    if verb == "deny":
        folder.keep_denied(given["version"], given["serials"])
    if verb == "install":
        folder.install(given["chain_pem"].encode())
    version, serials = folder.denied()
    held = folder.held
    return {
        "key_path": str(Path(sys.argv[1]) / KEY),
        "key_pem": held.credentials.key_pem.decode(),
        "chain_pem": held.credentials.chain_pem.decode(),
        "ca_pem": held.credentials.ca_pem.decode(),
        "name": held.identity.name,
        "serial_hex": held.serial_hex,
        "not_after": held.not_after.isoformat(),
        "denied": [version, sorted(serials)],
    }


if __name__ == "__main__":
    main()
