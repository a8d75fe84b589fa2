"""What a lab host can do, whatever it is made of, and what can be done to it."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.lab.annexes import Tunnel
from tests.lab.errors import LabError
from tests.lab.processes import Process
from tests.lab.state import HostState, LabState
from tests.lab.vantage import Vantage

AgentCommand = Callable[["Host"], Sequence[str]]

_LIBFAKETIME = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SKEW_FILE = "/run/fireline-lab-skew"


class Host(ABC):
    """One host of the lab. Verbs take effect before they return."""

    def __init__(self, lab: LabState, state: HostState, agent: AgentCommand | None) -> None:
        self._lab = lab
        self._state = state
        self._agent_command = agent

    @property
    def name(self) -> str:
        """The host's name, which is its hostname too where it has one."""
        return self._state.name

    @property
    def address(self) -> str:
        """Where the controller reaches the host."""
        return self._state.address

    @property
    def agent(self) -> Process | None:
        """The agent's process while it runs."""
        found = self._state.agent
        return found if found is not None and found.is_alive() else None

    # What a backend must bring.

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        *,
        text: str = "",
        check: bool = True,
        within_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command on the host and return its output.

        Raises:
            LabError: it failed (unless `check` is off), took too long, or the host is down or frozen.
        """

    @abstractmethod
    def spawn(
        self,
        argv: Sequence[str],
        *,
        unit: str = "init",
        log: str = "/var/log/lab.log",
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command that stays, in a control group of the unit's name where there are control groups."""

    @abstractmethod
    def path(self, inside: str) -> Path:
        """Where a file of the host lies for us; mind that links in it are followed on our side."""

    @abstractmethod
    def place(self, inside: str) -> str:
        """The same file, as the host's own programs must spell it."""

    @property
    @abstractmethod
    def vantage(self) -> Vantage:
        """The host's network, to open sockets in.

        Raises:
            Unsupported: it has none of its own.
        """

    @abstractmethod
    def second_uplink(self) -> tuple[Vantage, Vantage]:
        """Give the host `eth1`, wired to a place of its own, until its power is cut; both ends. One host of a lab."""

    @abstractmethod
    def guest(self, kind: str) -> Vantage:
        """Put a `macvlan` or `ipvlan` child of the host's wire into a namespace of its own. One host of a lab.

        Raises:
            LabError: the kernel has no such kind.
        """

    @abstractmethod
    def tunnel(self) -> Tunnel:
        """Give the host `tun0`, whose far end is in the caller's hands; a context manager. One host of a lab."""

    @abstractmethod
    def boot(self, *, services: bool = True) -> None:
        """Start the host, and the services it had: engine and agent, like a host whose units are enabled.

        Without services it stays as bare as it is before the first unit; `start_services` goes on from there.
        """

    @abstractmethod
    def start_services(self) -> None:
        """Start the engine and the agent that the host had."""

    @abstractmethod
    def power_cut(self) -> None:
        """End everything on the host at once; what is on its disk stays."""

    @abstractmethod
    def is_up(self) -> bool:
        """Whether the host runs."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process of the host, as a hung machine does; connections stay open and silent."""

    @abstractmethod
    def thaw(self) -> None:
        """End a freeze."""

    @abstractmethod
    def partition(self, *others: "Host | str", ways: str = "both") -> None:
        """Cut the host off from others ("controller" is one), or from everybody; `ways` is both, in or out.

        The host sees nothing: its carrier stays.
        """

    @abstractmethod
    def heal(self) -> None:
        """End every partition and impairment of the host's wire, and put its cable back."""

    @abstractmethod
    def link(self, *, up: bool) -> None:
        """Pull the host's cable, or put it back."""

    @abstractmethod
    def impair(self, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> None:
        """Slow the wire down, each way by the delay give or take the jitter, and lose some frames. Zeros heal."""

    @abstractmethod
    def disk_full(self, *, leave_bytes: int = 0) -> None:
        """Leave so much space on the host's disk."""

    @abstractmethod
    def disk_free(self) -> None:
        """Give the space back."""

    # What every host does the same way.

    def write(self, inside: str, content: bytes, *, mode: int = 0o600) -> str:
        """Put a file on the host, and return how its programs spell the name."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return self.place(inside)

    def start_agent(self) -> Process:
        """Start the agent with the command that the lab's maker gave; one that runs stays as it is.

        Raises:
            LabError: nobody gave a command.
        """
        if (running := self.agent) is not None:
            return running
        argv = list(self._agent_command(self)) if self._agent_command else self._state.agent_argv
        if not argv:
            raise LabError(f"{self.name}: no agent command; give the lab one: Lab(…, agent=lambda host: [...])")
        self._state.agent_argv = argv
        self._state.agent = self.spawn(argv, unit="agent", log="/var/log/agent.log", env=self._skew_environment())
        self._lab.save()
        return self._state.agent

    def kill_agent(self) -> None:
        """Kill the agent with signal 9; nothing restarts it."""
        self._signal_agent(signal.SIGKILL).wait_gone(within_s=5)

    def end_agent(self, *, within_s: float = 30) -> None:
        """Ask the agent to end (SIGTERM), and wait until it did."""
        self._signal_agent(signal.SIGTERM).wait_gone(within_s=within_s)

    def stop_agent(self) -> None:
        """Stop the agent's process where it stands (SIGSTOP); its kernel keeps answering for its sockets."""
        self._signal_agent(signal.SIGSTOP)

    def cont_agent(self) -> None:
        """Let a stopped agent go on."""
        self._signal_agent(signal.SIGCONT)

    def skew(self, seconds: float) -> None:
        """Set the agent's wall clock so far from the machine's.

        The first skew restarts the agent under libfaketime; from then on its clock jumps within a second, without
        a restart. Monotonic clocks stay true.

        Raises:
            LabError: libfaketime is not installed.
        """
        if not _LIBFAKETIME:
            raise LabError("libfaketime is not installed: clock skew needs it (Debian: faketime)")
        restart = not self._state.skew_file and self.agent is not None
        self._state.skew_file = self.write(_SKEW_FILE, f"{seconds:+.3f}\n".encode(), mode=0o644)
        self._lab.save()
        if restart:
            self.kill_agent()
            self.start_agent()

    def agent_log(self) -> str:
        """What the agent printed."""
        path = self.path("/var/log/agent.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def _signal_agent(self, number: int) -> Process:
        agent = self.agent
        if agent is None or not agent.signal(number):
            raise LabError(f"{self.name}: the agent does not run; its log ends: {self.agent_log()[-600:]}")
        return agent

    def _skew_environment(self) -> dict[str, str]:
        if not self._state.skew_file:
            return {}
        return {
            "LD_PRELOAD": str(_LIBFAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": self._state.skew_file,
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # else timers and deadlines would lie too
            "FAKETIME_DONT_RESET": "1",
        }
