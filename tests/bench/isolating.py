"""How long it takes from the command until hosts are proved dark, and what the kernel's part of it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.fleet import Fleet

WITNESSES = 2
_REASON = ("--reason", "measuring")


@dataclass(frozen=True)
class Isolated:
    """One host: milliseconds from the command until each phase was over, and microseconds of the one transaction."""

    armed_ms: float
    confirmed_ms: float
    proved_ms: float
    committed_ms: float
    applied_us: float

    @property
    def shares(self) -> dict[str, float]:
        """What each phase took of the time to proved dark, in percent: confirming and looking go on at once."""
        parts = {"plan, record and arm": self.armed_ms, "confirm and look": self.proved_ms - self.armed_ms}
        return {name: ms / self.proved_ms * 100 for name, ms in parts.items()}


@contextmanager
def fleet(hosts: int) -> Iterator[Fleet]:
    """So many hosts to be isolated, and those that look."""
    names = [f"h{n}" for n in range(1, hosts + 1)]
    with Fleet([*names, *(f"w{n}" for n in range(1, WITNESSES + 1))]) as made:
        made.fireline("host", "ping", "--target", "all", "--yes")  # connections stand
        yield made


def isolated(made: Fleet, names: Sequence[str]) -> list[Isolated]:
    """Isolate these hosts with one command, without evidence, and let them back."""
    target = ("--target", ",".join(names), "--yes", *_REASON)
    document = made.json("isolate", *target, "--now")
    made.fireline("release", *target)
    fields = Isolated.__dataclass_fields__
    return [Isolated(**{name: host["isolation"][name] for name in fields}) for host in document["hosts"]]


def bare_us(made: Fleet, name: str) -> list[float]:
    """What `nft -f` alone takes for the same text on that host, microseconds; its tables are taken away again."""
    [planned] = made.json("isolate", "--target", name, "--plan", *_REASON)["hosts"]
    text: str = planned["transaction"]
    away = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("delete table "))
    host = made.lab[name]
    files = [host.write("/run/bench.nft", text.encode()), host.write("/run/bench-away.nft", away.encode())]
    return [float(line) for line in host.run(["bash", "-c", _TIME_NFT, "bash", *files]).split()]


# Run on the host, where the agent's control group is: the rules name it.
_TIME_NFT = """
for turn in 1 2 3 4 5; do
  began=${EPOCHREALTIME/./}
  nft -f "$1"
  echo $((${EPOCHREALTIME/./} - began))
  nft -f "$2"
done
"""
