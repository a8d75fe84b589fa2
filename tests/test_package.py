"""One distribution whose base is the agent: light, honest about what is missing, quick to answer."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import fireline_agent

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


HEAVY = {"grpc", "sqlalchemy", "google.protobuf", "cryptography", "rich", "yaml"}


def _python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)


def _loaded_by(program: str, names: set[str]) -> set[str]:
    """Which of the modules a program has loaded when it ends, by SystemExit or not."""
    shown = _python(f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\nprint('loaded', *sys.modules)")
    assert shown.returncode == 0, shown.stderr
    return names & set(shown.stdout.splitlines()[-1].split())


def _fireline(*arguments: str) -> str:
    return f"sys.argv = ['fireline', *{arguments!r}]; import fireline_controller.__main__ as m; m.main()"


def _names(requirements: list[str]) -> set[str]:
    return {r.partition("[")[0].partition(">")[0].partition("<")[0].partition("=")[0].strip() for r in requirements}


def test_one_version() -> None:
    """Both ends, the package and its metadata say the same version."""
    assert PROJECT["version"] == fireline_agent.__version__ == version("fireline")


def test_the_base_install_is_the_agent() -> None:
    """What only the controller or a container host needs is in an extra, and `all` has every extra."""
    extras = PROJECT["optional-dependencies"]
    heavy = set().union(*(_names(extras[name]) for name in ("docker", "controller", "postgres")))

    assert not heavy & _names(PROJECT["dependencies"])
    assert extras["all"] == [f"fireline[{','.join(name for name in extras if name != 'all')}]"]


@pytest.mark.parametrize("script", ["fireline", "fireline-agent"])
def test_a_script_leads_to_a_function(script: str) -> None:
    """Both commands are installed and their entry points can be called."""
    module, _, function = PROJECT["scripts"][script].partition(":")

    assert callable(getattr(import_module(module), function))


def test_metadata_says_what_it_is() -> None:
    """The description, the README and the oldest Python are there, and every dependency has a floor."""
    assert PROJECT["description"].endswith(".")
    assert (ROOT / PROJECT["readme"]).is_file()
    assert PROJECT["requires-python"] == ">=3.11"
    assert [r for r in PROJECT["dependencies"] if ">=" not in r] == []


def test_the_controller_without_its_extra_says_which() -> None:
    """On a host with the base install, `fireline` names the extra and how to get it, and is no traceback."""
    shown = _python(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'typer':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from fireline_controller.__main__ import main\n"
        "sys.exit(main())\n"
    )

    assert shown.returncode == 1
    assert shown.stderr == (
        "fireline: typer is not installed. This host has the agent only; "
        "for the controller: pip install 'fireline[controller]'\n"
    )


def test_help_loads_nothing_heavy() -> None:
    """`fireline --help` is answered without gRPC, the database and pydantic."""
    assert _loaded_by(_fireline("--help"), {*HEAVY, "pydantic"}) == set()


@pytest.mark.parametrize("arguments", [["--version"], ["incident", "open", "--help"], ["capture", "--hlep"]])
def test_what_asks_no_controller_loads_none(arguments: list[str]) -> None:
    """A command's help and a mistyped option load no gRPC and no database; Typer itself may load pydantic there."""
    assert _loaded_by(_fireline(*arguments), HEAVY) == set()


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["check-config"]])
def test_the_agent_answers_without_what_it_may_lack(arguments: list[str]) -> None:
    """`fireline-agent --version` starts on a host without Docker's SDK, and before gRPC is loaded."""
    program = f"import fireline_agent.main as m; m.main({arguments!r})"

    assert _loaded_by(program, {"grpc", "psutil", "docker", "cryptography", "google.protobuf"}) == set()
