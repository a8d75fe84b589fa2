"""Reads `policy.toml`. A mistake is named with its rule, its key and the nearest right one."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fireline_controller import targets
from fireline_controller.model import ConfigError, TargetError
from fireline_controller.policy.values import Rule
from fireline_wire.identity import is_name

# What a rule can bind. `operator` and `fleet` guard the rules themselves: who could add operators alone would be two
# persons, and who could change labels alone would choose which rules bind.
ACTIONS: Final = ("isolate", "release", "remediate", "failover", "operator", "fleet")

RISKS: Final = ("read", "reversible", "disruptive", "destructive")

_DURATION: Final = re.compile(r"(\d{1,6})([smh])\Z")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours"}


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    actions: list[str] = Field(min_length=1)
    target: str = "all"
    above: int = Field(0, ge=0)
    within: str = "1h"
    risks: list[str] = Field(default_factory=list)
    named: list[str] = Field(default_factory=list)
    approvals: int = Field(1, ge=1)
    operators: list[str] = Field(default_factory=list)
    expires: str = "15m"
    break_glass: bool = False

    @field_validator("actions")
    @classmethod
    def _known(cls, actions: list[str]) -> list[str]:
        for action in actions:
            if action not in ACTIONS:
                raise ValueError(f"there is no action {action!r}{_nearest(action, ACTIONS)}")
        return actions

    @field_validator("risks")
    @classmethod
    def _graded(cls, risks: list[str]) -> list[str]:
        for risk in risks:
            if risk not in RISKS:
                raise ValueError(f"there is no risk {risk!r}{_nearest(risk, RISKS)}")
        return risks

    @field_validator("target")
    @classmethod
    def _selects(cls, selector: str) -> str:
        try:
            targets.selected(selector, ())
        except TargetError as error:
            raise ValueError(str(error)) from None
        return selector

    @field_validator("operators")
    @classmethod
    def _names(cls, operators: list[str]) -> list[str]:
        for name in operators:
            if not is_name(name):
                raise ValueError(f"{name!r} is not a name")
        return operators

    @field_validator("expires", "within")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        if _duration(text) is None:
            raise ValueError("wanted a number and s, m or h, such as 15m")
        return text

    @field_validator("expires")
    @classmethod
    def _lasts(cls, text: str) -> str:
        if not _duration(text):
            raise ValueError("no request could be approved in that time: wanted more, such as 15m")
        return text

    @model_validator(mode="after")
    def _can_be_met(self) -> "_Rule":
        named = len(set(self.operators))
        if (self.risks or self.named) and "remediate" not in self.actions:
            raise ValueError("risks and named are for the action remediate, which is not among its actions")
        if self.operators and named < self.approvals:
            raise ValueError(f"approvals: {self.approvals} of {named} operators can't be had")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rules: list[_Rule] = Field(default_factory=list)


def parse(text: str, *, file: str) -> tuple[Rule, ...]:
    """Read rules; `file` is for messages.

    Raises:
        ConfigError: it is no TOML, a key is unknown, or a value is wrong; names rule, key and the nearest right one.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: no TOML: {error}") from None
    try:
        read = _File.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None
    return tuple(
        Rule(
            actions=tuple(rule.actions),
            target=rule.target,
            above=rule.above,
            within=_duration(rule.within) or timedelta(),
            risks=tuple(rule.risks),
            named=tuple(rule.named),
            approvals=rule.approvals,
            operators=tuple(sorted(set(rule.operators))),
            expires=_duration(rule.expires) or timedelta(),
            break_glass=rule.break_glass,
        )
        for rule in read.rules
    )


def _duration(text: str) -> timedelta | None:
    found = _DURATION.match(text)
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


def _explain(error: ValidationError, file: str) -> str:
    problem: Any = error.errors()[0]
    where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = _Rule.model_fields if len(problem["loc"]) > 1 else _File.model_fields
        return f"{file}: {where}: unknown key{_nearest(str(problem['loc'][-1]), list(known))}"
    if problem["type"] == "missing":
        return f"{file}: {where}: is missing"
    if problem["type"] == "value_error":
        return f"{file}: {where}: {problem['ctx']['error']}"
    return f"{file}: {where}: {problem['msg']}, found {problem['input']!r}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
