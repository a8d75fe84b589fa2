"""The shape of a runbook's file: which keys there are, and what may stand behind each. Editors get it as a schema.

Leaves to others: what the names mean and whether the whole makes sense (building, checking).
"""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from fireline_controller.runbooks.expressions import MAX_BYTES
from fireline_wire.actions import BadValue, Kind, Parameter
from fireline_wire.identity import is_name

MAX_STEPS: Final = 200  # in one list: a run is followed by people

# What a step does: exactly one of them. `isolate` and `release` take the part of the host, `host` for all of it.
DEEDS: Final = ("action", "capture", "isolate", "release", "manual", "parallel")
AREAS: Final = ("service", "database", "connections", "storage", "network", "memory", "security", "containers")
# In expressions `steps.ID` would not parse with one of these.
_RESERVED: Final = frozenset({"in", "true", "false", "null"})
_DURATION: Final = Parameter("", Kind.DURATION, "", least=1, most=30 * 86400)


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and value[-1:].isalpha():
        try:
            return _DURATION.parse(value)
        except BadValue:
            pass
    raise ValueError(f"wanted a duration with its unit, 1s to 30d, such as 90s or 10m; found {value!r}")


def _share(pattern: str, wanted: str) -> BeforeValidator:
    def check(value: Any) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and re.fullmatch(pattern, text):
            return text
        raise ValueError(f"wanted {wanted}; found {value!r}")

    return BeforeValidator(check, json_schema_input_type=int | str)


def _identifier(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value) and value not in _RESERVED:
        return value
    raise ValueError(
        f"wanted a name of small letters, digits and '_', none of {', '.join(sorted(_RESERVED))}; found {value!r}"
    )


def _operators(value: Any) -> Any:
    for name in value if isinstance(value, list) else ():
        if not isinstance(name, str) or not is_name(name):
            raise ValueError(f"wanted operators' names; found {name!r}")
    return value


Seconds = Annotated[int, BeforeValidator(_seconds, json_schema_input_type=str)]
Batch = Annotated[str, _share(r"[1-9]\d{0,4}|([1-9]\d?|100)%", "how many hosts at a time, as 5 or 25%")]
Failures = Annotated[str, _share(r"\d{1,5}|(\d\d?|100)%", "how many hosts may fail, as 0, 2 or 10%")]
Identifier = Annotated[str, BeforeValidator(_identifier, json_schema_input_type=str)]
Condition = Annotated[str, Field(min_length=1, max_length=MAX_BYTES)]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Prose = Annotated[str, Field(min_length=1, max_length=4096)]


def _lifted(key: str, shape: Any) -> BeforeValidator:
    """A text in the place of a mapping of this shape stands for its most usual key."""
    return BeforeValidator(
        lambda value: {key: value} if isinstance(value, str) else value, json_schema_input_type=str | shape
    )


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TargetsShape(_Shape):
    """On which hosts, and how many at a time."""

    select: str = Field("", max_length=1000, description="as `--target` takes it; empty: what the run was started with")
    most: int = Field(0, ge=0, description="more hosts than this are refused; 0: no bound")
    batch: Batch | None = Field(None, description="hosts at a time, as `5` or `25%`; left out: all at once")
    canary: int = Field(0, ge=0, le=100, description="hosts that go first, alone; the rest where all succeeded")
    max_fail: Failures = Field("0", description="more failed hosts than this stop the rest: `2` or `10%`")


class ParamShape(_Shape):
    """One value that a run is started with."""

    type: Literal["text", "int", "number", "bool", "duration", "size", "path", "texts", "paths"] = Field(
        description="its type; in expressions a duration is whole seconds, a size whole bytes"
    )
    summary: Line = Field(description="what it means")
    default: Any = Field(None, description="without one it must be given; an empty text stands for nothing")
    least: Any = Field(None, description="the least number, duration or size")
    most: Any = Field(None, description="the most")
    choices: list[str] = Field(default_factory=list, max_length=100, description="the only texts that are taken")


class CallShape(_Shape):
    """An action with its parameters."""

    action: Line = Field(description="its name, as `fireline action list` has it")
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="its parameters; `${EXPRESSION}` is a value"
    )


class VerifyShape(CallShape):
    """A reading action that is asked again until a condition is true on every host."""

    until: Condition = Field(description="the condition, over `result`")
    within: Seconds = Field(description="how long it is asked at most")
    every: Seconds = Field(2, description="how often")


class RollbackShape(_Shape):
    """How a step is taken back: by another action, or not at all and why."""

    action: Line | None = Field(None, description="an action that takes the step back")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="its parameters")
    none: Line | None = Field(None, description="why it can't be taken back; a rollback says it and goes on")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.action is None) == (self.none is None):
            raise ValueError("wanted either `action`, or `none` with the reason why there is no way back")
        return self


class ApprovalShape(_Shape):
    """Others who must agree before the step; never the one who started the run."""

    count: int = Field(1, ge=1, le=10, description="how many")
    operators: Annotated[list[str], BeforeValidator(_operators, json_schema_input_type=list[str])] = Field(
        default_factory=list, max_length=100, description="whose word counts; none: any other operator's"
    )
    timeout: Seconds = Field(300, description="how long is waited; then the step failed")

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.operators and len(set(self.operators)) < self.count:
            raise ValueError(f"{self.count} of {len(set(self.operators))} operators can't be had")
        return self


class RetryShape(_Shape):
    """Hosts that failed are tried again; those that succeeded never are."""

    attempts: int = Field(1, ge=1, le=10, description="tries in all")
    backoff: Seconds = Field(2, description="before the second try; doubles")


def _what_then(value: Any) -> Any:
    if value in ("abort", "continue", "rollback") or isinstance(value, dict):
        return {"then": value} if isinstance(value, str) else value
    raise ValueError(f"wanted abort, continue, rollback or {{goto: STEP}}; found {value!r}")


class OnFailureShape(_Shape):
    """Another step to go on with."""

    then: SkipJsonSchema[Literal["abort", "continue", "rollback", "goto"]] = Field("goto", exclude=True)
    goto: Identifier | None = Field(None, description="the id of a step further down")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.then == "goto") != (self.goto is not None):
            raise ValueError("wanted abort, continue, rollback or {goto: STEP}")
        return self


class CaptureShape(_Shape):
    """What is collected and sealed: a profile, or what later steps would destroy."""

    profile: Line | None = Field(None, description="the profile's name")
    evidence_for: list[Identifier] = Field(
        default_factory=list,
        max_length=MAX_STEPS,
        description="steps whose actions say what they destroy",
    )

    with_: dict[str, Any] = Field(
        default_factory=dict,
        alias="with",
        description="what the profile's collectors are told: `COLLECTOR.NAME: value`",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.profile is None) == (not self.evidence_for):
            raise ValueError("wanted either `profile` or `evidence_for`")
        if self.with_ and not self.profile:
            raise ValueError("`with` goes with `profile` only: evidence is collected with the steps' own parameters")
        return self


class ManualShape(_Shape):
    """Something that a person does."""

    instructions: Prose = Field(description="what to do")
    role: str = Field("", max_length=100, description="who: a role of the incident, such as `technical-lead`")


class ParallelShape(_Shape):
    """Steps that may run at the same time."""

    limit: int = Field(10, ge=1, le=100, description="how many at a time")
    steps: list["StepShape"] = Field(min_length=1, max_length=MAX_STEPS, description="the steps")


class StepShape(_Shape):
    """One step: its id, what it does (exactly one of six keys), and what goes around that."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [deed]} for deed in DEEDS]})

    id: Identifier = Field(description="unique in the runbook: `steps.ID` in expressions")
    title: str = Field("", max_length=200, description="for people")
    action: Line | None = Field(None, description="an action's name")
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="its parameters; `${EXPRESSION}` is a value"
    )
    capture: Annotated[CaptureShape, _lifted("profile", CaptureShape)] | None = Field(
        None, description="a profile's name, or `{evidence_for: [STEP]}`"
    )
    isolate: Line | None = Field(None, description="cut the hosts off: `host`")
    release: Line | None = Field(None, description="let them back: `host`")
    manual: Annotated[ManualShape, _lifted("instructions", ManualShape)] | None = Field(
        None, description="what a person does"
    )
    parallel: ParallelShape | None = Field(None, description="steps at the same time")
    when: Condition | None = Field(None, description="a condition; hosts for which it is false are skipped")
    timeout: Seconds | None = Field(None, description="of the whole step; captures and `parallel` need none")
    required: bool = Field(False, description="of a capture: what later steps destroy relies on it")
    targets: TargetsShape | None = Field(None, description="other hosts than the runbook's, or other batches")
    approval: ApprovalShape | None = Field(None, description="who must agree first")
    retry: RetryShape = Field(default_factory=RetryShape, description="of hosts that failed")
    verify: VerifyShape | None = Field(None, description="what must become true afterwards")
    on_failure: Annotated[
        OnFailureShape,
        BeforeValidator(_what_then, json_schema_input_type=Literal["abort", "continue", "rollback"] | OnFailureShape),
    ] = Field(
        default_factory=lambda: OnFailureShape(then="abort"),
        description="`abort`, `continue`, `rollback` or `{goto: STEP}`",
    )
    rollback: RollbackShape | None = Field(None, description="how it is taken back; left out: by the action's own undo")

    @model_validator(mode="after")
    def _one_deed(self) -> Self:
        found = [deed for deed in DEEDS if getattr(self, deed) is not None]
        if len(found) != 1:
            raise ValueError(
                f"step {self.id!r}: wanted exactly one of {', '.join(DEEDS)}; found {' and '.join(found) or 'none'}"
            )
        return self


class MetadataShape(_Shape):
    """What the runbook is, and when it is suggested."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = Field(description="as its file")
    version: int = Field(ge=1, le=1_000_000, description="grows with every change")
    summary: Line = Field(description="one line")
    owner: str = Field("", max_length=100, description="who answers for it")
    severity: list[Literal["P1", "P2", "P3", "P4", "P5"]] = Field(
        default_factory=list, max_length=5, description="for which incidents"
    )
    alerts: list[Line] = Field(default_factory=list, max_length=100, description="names of alerts that suggest it")
    findings: list[Line] = Field(default_factory=list, max_length=100, description="codes of findings that suggest it")
    areas: list[
        Literal["service", "database", "connections", "storage", "network", "memory", "security", "containers"]
    ] = Field(default_factory=list, max_length=len(AREAS), description="what is affected where it helps")
    reviewed: str = Field("", pattern=r"^(\d{4}-\d\d-\d\d)?$", description="the day of the last review, as 2026-11-01")


class RunbookShape(_Shape):
    """A runbook: what it is, what it takes, on which hosts, and its steps in order."""

    api_version: Literal["fireline/v1"] = Field(alias="apiVersion", description="`fireline/v1`")
    kind: Literal["Runbook"] = Field(description="`Runbook`")
    metadata: MetadataShape = Field(description="what it is, and when it is suggested")
    params: dict[Identifier, ParamShape] = Field(
        default_factory=dict, max_length=50, description="what a run is started with"
    )
    targets: TargetsShape = Field(default_factory=TargetsShape, description="on which hosts")
    preconditions: list[Condition] = Field(
        default_factory=list,
        max_length=50,
        description="over `params` and `incident`: all true, or no run",
    )
    steps: list[StepShape] = Field(min_length=1, max_length=MAX_STEPS, description="in order")
    finally_: list[StepShape] = Field(
        default_factory=list,
        max_length=MAX_STEPS,
        alias="finally",
        description="at the end, however the run ended",
    )
