"""The lab by hand: `python -m tests.lab up 3`, then `run`, `fault`, `plant`, `down`."""

import argparse
import sys
from collections.abc import Callable, Sequence

from tests.lab import plants, state
from tests.lab.errors import LabError
from tests.lab.host import Host
from tests.lab.lab import LOOPBACK, NETNS, Lab, sweep

Fault = Callable[[Host, list[str]], object]

FAULTS: dict[str, tuple[str, Fault]] = {
    "power-cut": ("end everything on the host at once", lambda host, _: host.power_cut()),
    "boot": ("start it again", lambda host, _: host.boot()),
    "freeze": ("hang the whole host", lambda host, _: host.freeze()),
    "thaw": ("end a freeze", lambda host, _: host.thaw()),
    "partition": ("cut it off from [HOST|controller …], or from all", lambda host, words: host.partition(*words)),
    "heal": ("end cuts and delays, cable in", lambda host, _: host.heal()),
    "link-down": ("pull its cable", lambda host, _: host.link(up=False)),
    "link-up": ("put its cable back", lambda host, _: host.link(up=True)),
    "impair": ("DELAY_MS [JITTER_MS [LOSS_PERCENT]] on its wire", lambda host, words: _impair(host, words)),
    "disk-full": ("leave [BYTES] of its disk", lambda host, words: host.disk_full(leave_bytes=int(*words or ["0"]))),
    "disk-free": ("give the space back", lambda host, _: host.disk_free()),
    "skew": ("SECONDS: move its agent's clock", lambda host, words: host.skew(float(*words))),
    "kill-agent": ("signal 9 to its agent", lambda host, _: host.kill_agent()),
    "stop-agent": ("SIGSTOP its agent", lambda host, _: host.stop_agent()),
    "cont-agent": ("let a stopped agent go on", lambda host, _: host.cont_agent()),
    "start-agent": ("start its agent as it was", lambda host, _: host.start_agent()),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 when it is done, 1 with the reason when not."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        args.do(args)
    except (LabError, ValueError, TypeError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    up = _verb(verbs, "up", _up, "make a lab that stays until `down`")
    up.add_argument("hosts", type=int, nargs="?", default=3)
    up.add_argument("--engine", action="store_true", help="a Docker Engine on each host")
    up.add_argument("--backend", choices=(NETNS, LOOPBACK), default="")
    _verb(verbs, "list", _list, "show the labs of this machine")
    run = _on_host(_verb(verbs, "run", _run, "run a command on a host"))
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    kinds = "\n".join(f"  {name:<12} {what}" for name, (what, _) in FAULTS.items())
    fault = _on_host(_verb(verbs, "fault", _fault, "do something to a host", epilog=f"faults:\n{kinds}"))
    fault.add_argument("fault", choices=FAULTS, metavar="FAULT")
    fault.add_argument("words", nargs="*")
    _on_host(_verb(verbs, "plant", _plant, "leave on a host what an intruder and an outage leave"))
    down = _verb(verbs, "down", _down, "end a lab")
    down.add_argument("--lab", default="", metavar="TAG")
    swept = _verb(verbs, "sweep", _sweep, "remove what killed runs left")
    swept.add_argument("--all", action="store_true", help="every lab, in use or not")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    do: Callable[[argparse.Namespace], None],
    what: str,
    *,
    epilog: str = "",
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.set_defaults(do=do)
    return verb


def _on_host(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("--lab", default="", metavar="TAG", help="which lab, when there are several")
    verb.add_argument("host")
    return verb


def _up(args: argparse.Namespace) -> None:
    lab = Lab(args.hosts, engine=args.engine, backend=args.backend, keep=True)
    lab.up()
    _show(lab)


def _list(args: argparse.Namespace) -> None:
    for tag in state.tags():
        _show(Lab.attach(tag))


def _show(lab: Lab) -> None:
    print(f"lab {lab.tag} ({lab.backend}), controller at {lab.controller_address}")
    for host in lab:
        print(f"  {host.name:<12} {host.address:<16} {'up' if host.is_up() else 'down'}")


def _run(args: argparse.Namespace) -> None:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    print(_host(args).run(argv or ["hostname"]), end="")


def _fault(args: argparse.Namespace) -> None:
    FAULTS[args.fault][1](_host(args), args.words)


def _plant(args: argparse.Namespace) -> None:
    planted, lacks = plants.plant_all(_host(args))
    for plant in planted:
        print(f"{plant.host}: {plant.name}: {plant.subject} (finding {plant.finding})")
    for sentence in lacks:
        print(f"not planted: {sentence}")


def _down(args: argparse.Namespace) -> None:
    _lab(args).down()


def _sweep(args: argparse.Namespace) -> None:
    print(*sweep(everything=args.all) or ["nothing to sweep"], sep="\n")


def _impair(host: Host, words: list[str]) -> None:
    delay, jitter, loss = [float(word) for word in [*words, "0", "0", "0"][:3]]
    host.impair(delay_ms=delay, jitter_ms=jitter, loss_percent=loss)


def _host(args: argparse.Namespace) -> Host:
    lab = _lab(args)
    names = [host.name for host in lab]
    if args.host not in names:
        raise LabError(f"no host {args.host!r} in lab {lab.tag}: there are {', '.join(names)}")
    return lab[args.host]


def _lab(args: argparse.Namespace) -> Lab:
    tags = [args.lab] if args.lab else state.tags()
    if len(tags) != 1:
        raise LabError(f"which lab? --lab TAG, one of: {', '.join(tags) or 'none is up'}")
    return Lab.attach(tags[0])


if __name__ == "__main__":
    sys.exit(main())
