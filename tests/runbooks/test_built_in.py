"""The built-in runbooks against the real actions, profiles and findings; and where runbooks are found."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fireline_agent.capture.findings import FINDINGS
from fireline_controller.model import ConfigError, NotFound
from fireline_controller.runbooks import cacao, loading, schema
from fireline_controller.runbooks.expressions import embedded
from fireline_controller.runbooks.model import ActionCall, Manual, Runbook, Step
from fireline_controller.runbooks.parsing import RunbookError
from fireline_controller.runbooks.scopes import flat
from fireline_wire.actions import Risk
from tests.runbooks.catalogue import HEAD

NAMES = [
    "db-pool-exhausted",
    "disk-full",
    "memory-leak",
    "p1-critical",
    "p2-database",
    "p2-network",
    "p2-storage",
    "security-breach",
    "unhealthy-containers",
]
KNOWN = loading.known(())
RIGHT = HEAD.replace("tried,", "mine,") + "steps:\n  - {id: keep, capture: initial}\n"


def loaded(name: str) -> Runbook:
    """A built-in runbook."""
    return loading.load(loading.find(name, Path("/nowhere")), KNOWN)


def steps(runbook: Runbook) -> list[Step]:
    """Every step of it."""
    return list(flat((*runbook.steps, *runbook.finally_)))


def test_the_nine_are_there() -> None:
    """What the procedures name is built in."""
    assert [source.name for source in loading.built_in()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_runbook_is_right(name: str) -> None:
    """It passes the check against this version's actions and profiles."""
    assert loaded(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_runbook_names_findings_that_exist(name: str) -> None:
    """A finding that no collector notes would never suggest it."""
    assert set(loaded(name).findings) <= set(FINDINGS)


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_runbook_runs_with_few_answers(name: str) -> None:
    """At three in the morning nobody looks up ten parameters: at most one must be given."""
    assert sum(p.is_required for p in loaded(name).params) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_done_before_something_is_kept(name: str) -> None:
    """The procedures restart first and look afterwards; here whatever changes a host comes after a required capture."""
    kept = False
    for step in steps(loaded(name)):
        kept = kept or step.is_required
        spec = KNOWN.catalogue.get(step.do.action) if isinstance(step.do, ActionCall) else None
        assert kept or spec is None or spec.risk is Risk.READ, step.id


def test_the_folder_of_the_operator_is_read_too(tmp_path: Path) -> None:
    """`runbooks/NAME.yaml` in the state folder, beside the built-in ones."""
    (tmp_path / "mine.yaml").write_text(RIGHT)

    assert [s.name for s in loading.sources(tmp_path)] == sorted([*NAMES, "mine"])
    assert loading.load(loading.find("mine", tmp_path), KNOWN).steps[0].id == "keep"


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    """A slip of the hand is answered with what was meant."""
    with pytest.raises(NotFound, match=r"there is no runbook 'disk-ful'; did you mean 'disk-full'\?"):
        loading.find("disk-ful", tmp_path)


def test_a_name_is_that_of_one_runbook(tmp_path: Path) -> None:
    """One's own runbook can't quietly take a built-in one's place."""
    (tmp_path / "disk-full.yaml").write_text(RIGHT.replace("mine", "disk-full"))

    with pytest.raises(ConfigError, match="the name 'disk-full' is that of a built-in runbook: give it another"):
        loading.find("disk-full", tmp_path)


def test_file_and_runbook_agree_on_the_name(tmp_path: Path) -> None:
    """A copied file that kept its old name inside is found out."""
    (tmp_path / "copy.yaml").write_text(RIGHT)

    with pytest.raises(RunbookError, match="the runbook calls itself 'mine', its file says 'copy': make them agree"):
        loading.load(loading.find("copy", tmp_path), KNOWN)


# --- a subset of CACAO 2.0's rules, by hand: https://docs.oasis-open.org/cacao/security-playbooks/v2.0/ ---


def playbook(name: str) -> dict[str, Any]:
    """A built-in runbook as others get it: through JSON."""
    document: dict[str, Any] = json.loads(json.dumps(cacao.playbook(loaded(name), KNOWN.catalogue)))
    return document


def is_identifier(text: str, *kinds: str) -> bool:
    """Section 10.10: a type, two dashes and a UUID."""
    kind, _, uuid = text.partition("--")
    return kind in kinds and str(UUID(uuid)) == uuid


@pytest.mark.parametrize("name", NAMES)
def test_a_playbook_has_what_the_standard_requires(name: str) -> None:
    """Section 3.1: identity, times to the millisecond, numbers in their bounds, activities that commands have."""
    book = playbook(name)
    activities = {c["playbook_activity"] for step in book["workflow"].values() for c in step.get("commands", ())}

    assert (book["type"], book["spec_version"]) == ("playbook", "cacao-2.0")
    assert is_identifier(book["id"], "playbook") and is_identifier(book["created_by"], "identity")
    assert all(
        len(book[at]) == len("2026-01-01T00:00:00.000Z") and book[at][-5] == "." for at in ("created", "modified")
    )
    assert book["created"] <= book["modified"]
    assert 0 <= book["severity"] <= 100 and 0 <= book["impact"] <= 100
    assert set(book["playbook_activities"]) == activities
    assert all(v["value"] is None or isinstance(v["value"], str) for v in book["playbook_variables"].values())


@pytest.mark.parametrize("name", NAMES)
def test_a_playbook_leads_from_its_start_to_an_end(name: str) -> None:
    """Section 4: every pointer names a step that is there, every step is reached, ends lead nowhere."""
    book = playbook(name)
    workflow, todo, seen = book["workflow"], [book["workflow_start"], book["workflow_exception"]], set()
    while todo:
        if (step_id := todo.pop()) in seen:
            continue
        seen.add(step_id)
        step = workflow[step_id]
        onwards = [step[key] for key in ("on_completion", "on_success", "on_failure") if key in step]
        assert is_identifier(step_id, step["type"])
        assert bool(onwards) != (step["type"] == "end")
        assert not {"on_success", "on_failure"} & set(step) or "on_completion" not in step
        todo += [*onwards, *step.get("next_steps", ())]

    assert seen == set(workflow)


@pytest.mark.parametrize("name", NAMES)
def test_a_playbook_says_who_does_what(name: str) -> None:
    """Sections 4.5, 5, 7 and 9: commands of known types, agents and extensions that are defined."""
    book = playbook(name)
    for step in book["workflow"].values():
        assert step["type"] != "parallel" or len(step["next_steps"]) >= 2
        if step["type"] == "action":
            assert step["agent"] in book["agent_definitions"]
            assert {c["type"] for c in step["commands"]} <= {"bash", "manual"}
            assert set(step["step_extensions"]) <= set(book["extension_definitions"])
            assert step.get("timeout", 0) >= 0
    assert {"type", "name", "created_by", "schema", "version"} <= set(
        *[d.keys() for d in book["extension_definitions"].values()]
    )


def test_the_same_runbook_is_the_same_playbook() -> None:
    """Ids are derived, so that a playbook that is exported again is a new version of the same one."""
    assert playbook("disk-full") == playbook("disk-full")
    assert playbook("disk-full")["id"] != playbook("p2-storage")["id"]


def test_a_parameter_of_the_runbook_is_a_variable_of_the_playbook() -> None:
    """What an orchestrator has to fill in stands as `__name__:value`, and is declared."""
    book = playbook("memory-leak")
    commands = [c["command"] for step in book["workflow"].values() for c in step.get("commands", ())]

    assert "fireline action run container.restart --target __target__:value -p service=__service__:value" in commands
    assert {"__service__", "__target__"} <= set(book["playbook_variables"])


# --- the schema ---


def test_the_schema_knows_every_key() -> None:
    """Editors complete what the reader takes, under the names in the file."""
    published = schema.document()
    step = published["$defs"]["StepShape"]

    assert {"apiVersion", "steps", "finally"} <= set(published["properties"])
    assert {"with", "capture", "on_failure"} <= set(step["properties"])
    assert step["additionalProperties"] is False
    assert {"required": ["parallel"]} in step["oneOf"]


@pytest.mark.parametrize("key", ["capture", "manual", "on_failure"])
def test_the_schema_takes_the_short_forms(key: str) -> None:
    """`capture: initial` and `on_failure: continue` are not underlined in an editor."""
    taken = schema.document()["$defs"]["StepShape"]["properties"][key]["anyOf"]

    assert "string" in {one.get("type") for one in taken}
    assert any("$ref" in one for one in taken)


def test_manual_steps_say_what_to_do() -> None:
    """Instructions are for a person: no expression is left in them."""
    for name in NAMES:
        for step in steps(loaded(name)):
            assert not isinstance(step.do, Manual) or embedded(step.do.instructions) is None
