"""Regenerate the code beside the .proto files, or with --check name every generated file that is stale.

Runs in an environment of its own (generator.txt): the generator holds protobuf below the version that the
development environment uses.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE = "fireline_wire/v1"


def generate(into: Path) -> None:
    """Write messages and stubs for every .proto into the tree below `into`; exit with protoc's own status."""
    sources = sorted((ROOT / PACKAGE).glob("*.proto"))
    services = [s for s in sources if "\nservice " in s.read_text()]
    common = ["protoc", f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
    for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        common.append(f"--plugin={plugin}={Path(sys.executable).parent / plugin}")
    _run([*common, f"--python_out={into}", f"--mypy_out={into}", *map(str, sources)])
    stubs = [f"--grpc_python_out={into}", f"--mypy_grpc_out=quiet,only_async:{into}"]
    _run([*common, *stubs, *map(str, services)])


def _run(arguments: list[str]) -> None:
    status = protoc.main(arguments)
    if status != 0:
        sys.exit(status)


def stale() -> list[str]:
    """The generated files that differ from what the .proto files say, are missing, or have no .proto any more."""
    with tempfile.TemporaryDirectory() as folder:
        fresh_root = Path(folder)
        generate(fresh_root)
        fresh = {p.name: p.read_bytes() for p in (fresh_root / PACKAGE).iterdir()}
    here = {p.name: p.read_bytes() for p in (ROOT / PACKAGE).glob("*_pb2*")}
    return sorted(name for name in fresh.keys() | here.keys() if fresh.get(name) != here.get(name))


def main() -> int:
    """Exit 0 when everything is fresh or was made so, 1 when --check found something stale."""
    if sys.argv[1:] == ["--check"]:
        names = stale()
        for name in names:
            print(f"{PACKAGE}/{name} does not match its .proto; run: make protos")
        return 1 if names else 0
    generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
