"""The JSON Schema of a runbook's file, for editors: it completes keys and underlines what is misspelt."""

import json
from typing import Any, Final

from fireline_controller.runbooks.shapes import RunbookShape

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def document() -> dict[str, Any]:
    """The schema, as JSON values."""
    return {
        "$schema": _DIALECT,
        **RunbookShape.model_json_schema(by_alias=True),
        "title": "Fireline runbook",
    }


def text() -> str:
    """The schema as its published file has it."""
    return json.dumps(document(), indent=1) + "\n"
