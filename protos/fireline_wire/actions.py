"""What an action is called, takes, tells and risks: the part of an action that both ends know.

Each action's specification stands in its own file on the agent; `actions.json` beside this file is generated from them,
so that the controller can check a command or a runbook without asking a host. Values are checked on both ends by the
same rules. Leaves to others: doing anything (the agent's remediation).
"""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final, Self

from fireline_wire.action_index import nearest as nearest

MAX_TEXT: Final = 4096  # characters of one value
MAX_ITEMS: Final = 1000  # of one list
MAX_RESULT_BYTES: Final = 1 << 20  # of one host's answer, as JSON

# No name of a host holds them: NUL, and halves of characters but those that stand for bytes (os.fsdecode).
_UNSPEAKABLE: Final = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_DURATION: Final = re.compile(r"(\d{1,9})(s|m|h|d|)\Z")
_SIZE: Final = re.compile(r"(\d{1,15})([kmgt]i?b?|b|)\Z", re.IGNORECASE)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_POWERS: Final = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Risk(StrEnum):
    """What an action may cost, from nothing to what can't be had back."""

    READ = "read"
    REVERSIBLE = "reversible"
    DISRUPTIVE = "disruptive"
    DESTRUCTIVE = "destructive"


class Kind(StrEnum):
    """The type of a parameter or of a result. On the wire a duration is whole seconds, and a size whole bytes."""

    TEXT = "text"
    INT = "int"
    NUMBER = "number"
    BOOL = "bool"
    DURATION = "duration"
    SIZE = "size"
    PATH = "path"
    TEXTS = "texts"
    PATHS = "paths"
    # A list of JSON objects; results only.
    ROWS = "rows"


class BadValue(ValueError):
    """A value does not fit its parameter; the message names it, what was wanted and what was found."""


@dataclass(frozen=True)
class Parameter:
    """One named value that an action takes. Without a default it must be given.

    `least` and `most` bound numbers, seconds and bytes; `choices` are the only texts that are taken.
    """

    name: str
    kind: Kind
    summary: str
    default: Any = None
    is_required: bool = False
    least: int = 0
    most: int | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value, where it is of this parameter's kind and within its bounds.

        Raises:
            BadValue: it is not.
        """
        checked = _CHECKS[self.kind](self, value)
        if self.choices and any(text not in self.choices for text in _texts(checked)):
            raise self._bad(f"one of {', '.join(self.choices)}", value)
        return checked

    def parse(self, text: str) -> Any:
        """A value as an operator types it: `10m`, `2GiB`, `yes`, a list with commas.

        Raises:
            BadValue: it is no such value.
        """
        return self.check(_PARSERS[self.kind](self, text) if self.kind in _PARSERS else text)

    def _bad(self, wanted: str, found: object) -> BadValue:
        shown = repr(found)
        return BadValue(f"{self.name}: wanted {wanted}, found {shown if len(shown) < 100 else shown[:97] + '...'}")

    def _whole(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._bad(_WANTED[self.kind], value)
        if value < self.least or (self.most is not None and value > self.most):
            raise self._bad(self._range(), value)
        return value

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise self._bad("a number", value)
        if value < self.least or (self.most is not None and value > self.most):
            raise self._bad(self._range(), value)
        return value

    def _range(self) -> str:
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"

    def _flag(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self._bad("true or false", value)
        return value

    def _text(self, value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or _UNSPEAKABLE.search(value):
            raise self._bad(f"a text of 1 to {MAX_TEXT} characters", value)
        return value

    def _path(self, value: Any) -> str:
        text = self._text(value)
        if not text.startswith("/") or posixpath.normpath(text) != text or text.startswith("//"):
            raise self._bad("an absolute path without '..' or a final '/'", value)
        return text

    def _list(self, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise self._bad(f"a list of at most {MAX_ITEMS} {self.kind}", value)
        one = self._path if self.kind is Kind.PATHS else self._text
        return [one(item) for item in value]

    def _rows(self, value: Any) -> Any:
        raise self._bad("no rows: they are a result, not a parameter", value)

    def _parsed_whole(self, text: str) -> int:
        if not re.fullmatch(r"-?\d{1,15}", text):
            raise self._bad(_WANTED[self.kind], text)
        return int(text)

    def _parsed_number(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._bad("a number", text) from None

    def _parsed_flag(self, text: str) -> bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise self._bad("true or false", text)
        return known[text.lower()]

    def _parsed_duration(self, text: str) -> int:
        found = _DURATION.match(text)
        if found is None:
            raise self._bad(_WANTED[Kind.DURATION], text)
        return int(found[1]) * _SECONDS[found[2]]

    def _parsed_size(self, text: str) -> int:
        found = _SIZE.match(text)
        if found is None:
            raise self._bad(_WANTED[Kind.SIZE], text)
        unit = found[2].lower()
        power = _POWERS[unit[:1]]
        base = 1024 if len(unit) < 2 or "i" in unit else 1000
        return int(found[1]) * int(base**power)

    def _parsed_list(self, text: str) -> list[str]:
        return [item.strip() for item in text.split(",") if item.strip()]


@dataclass(frozen=True)
class Result:
    """One named value that an action tells of a host, for expressions and tables."""

    name: str
    kind: Kind
    summary: str


@dataclass(frozen=True)
class ActionSpec:
    """What everybody may know of an action.

    Attributes:
        name: `area.verb`, such as `container.restart`.
        summary: one line.
        risk: what it may cost.
        parameters: what it takes; nothing else is taken.
        results: what it tells.
        evidence: collectors that keep what the action would destroy; a destructive action without a sealed capture of
            them is refused (I3).
        evidence_params: what each of those collectors is told, by its name; a text `$NAME` stands for the action's
            own parameter, so that what is kept is what is destroyed.
        undo: how it is taken back, in words; empty where it can't be.
        needs: what the host must have: `docker`, `compose`, `systemd`, `postgresql`, ….
    """

    name: str
    summary: str
    risk: Risk
    parameters: tuple[Parameter, ...] = ()
    results: tuple[Result, ...] = ()
    evidence: tuple[str, ...] = ()
    undo: str = ""
    needs: tuple[str, ...] = ()
    evidence_params: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def evidence_takes(self) -> frozenset[str]:
        """The parameters that say what is kept; a capture needs no others to be known."""
        told = (value for params in self.evidence_params.values() for value in params.values())
        return frozenset(value[1:] for value in told if value.startswith("$"))

    def evidence_orders(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The collectors that keep what these parameters would destroy, with what each is told.

        Raises:
            BadValue: as `check`, of a parameter that says what is kept.
        """
        params = {p.name: self._value(p, given) for p in self.parameters if p.name in self.evidence_takes}
        orders: dict[str, dict[str, Any]] = {}
        for collector in self.evidence:
            told = {
                name: params[value[1:]] if value.startswith("$") else value
                for name, value in self.evidence_params.get(collector, {}).items()
            }
            orders[collector] = {name: value for name, value in told.items() if value is not None}
        return orders

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the action, those not given at their defaults; a None stands for one that was left out.

        Raises:
            BadValue: one is unknown (with the nearest right one), lacks, or does not fit.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise BadValue(f"{self.name}: unknown parameter {name!r}; {nearest(name, known)}")
        return {name: self._value(parameter, given) for name, parameter in known.items()}

    def _value(self, parameter: Parameter, given: Mapping[str, Any]) -> Any:
        if given.get(parameter.name) is None:
            if parameter.is_required:
                raise BadValue(f"{self.name}: parameter {parameter.name!r} lacks: {parameter.summary}")
            return parameter.default
        try:
            return parameter.check(given[parameter.name])
        except BadValue as error:
            raise BadValue(f"{self.name}: {error}") from None

    def to_document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Back from `to_document`."""
        return cls(
            **{
                **document,
                "risk": Risk(document["risk"]),
                "parameters": tuple(
                    Parameter(**{**p, "kind": Kind(p["kind"]), "choices": tuple(p["choices"])})
                    for p in document["parameters"]
                ),
                "results": tuple(Result(**{**r, "kind": Kind(r["kind"])}) for r in document["results"]),
                "evidence": tuple(document["evidence"]),
                "needs": tuple(document["needs"]),
            }
        )


@cache
def catalogue() -> Mapping[str, ActionSpec]:
    """Every action of this version, by name."""
    documents = json.loads((files("fireline_wire") / "actions.json").read_text())
    return {spec.name: spec for spec in map(ActionSpec.from_document, documents)}


def bounded(result: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    """A result that fits as JSON: the longest lists are cut in half until it does, and `truncated` names them.

    What still does not fit is left out, and named too.
    """
    kept, cut = dict(result), set[str]()
    while kept and len(_as_json({**kept, "truncated": sorted(cut)})) > limit_bytes:
        sizes = {name: len(_as_json(value)) for name, value in kept.items()}
        largest = max(sizes, key=lambda name: (sizes[name], name))
        value = kept[largest]
        cut.add(largest)
        if isinstance(value, list) and len(value) > 1:
            kept[largest] = value[: len(value) // 2]
        else:
            del kept[largest]
    return {**kept, "truncated": sorted(cut)} if cut else kept


def _as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _texts(value: Any) -> Sequence[str]:
    return value if isinstance(value, list) else (value,)


_WANTED: Final = {
    Kind.INT: "a whole number",
    Kind.DURATION: "a duration in s, m, h or d, such as 10m",
    Kind.SIZE: "a size, such as 512MiB",
}
_CHECKS: Final = {
    Kind.TEXT: Parameter._text,
    Kind.INT: Parameter._whole,
    Kind.NUMBER: Parameter._number,
    Kind.BOOL: Parameter._flag,
    Kind.DURATION: Parameter._whole,
    Kind.SIZE: Parameter._whole,
    Kind.PATH: Parameter._path,
    Kind.TEXTS: Parameter._list,
    Kind.PATHS: Parameter._list,
    Kind.ROWS: Parameter._rows,
}
_PARSERS: Final = {
    Kind.INT: Parameter._parsed_whole,
    Kind.NUMBER: Parameter._parsed_number,
    Kind.BOOL: Parameter._parsed_flag,
    Kind.DURATION: Parameter._parsed_duration,
    Kind.SIZE: Parameter._parsed_size,
    Kind.TEXTS: Parameter._parsed_list,
    Kind.PATHS: Parameter._parsed_list,
}
