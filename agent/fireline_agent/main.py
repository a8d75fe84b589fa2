"""`fireline-agent`: join a controller, serve it, check the settings, end or put back an isolation of this host.

Heavy imports are late: `--version` must be quick, and runs before anything else is known to be installed.
"""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fireline_agent import __version__
from fireline_agent.config import DEFAULT_CONFIG, Config
from fireline_agent.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from fireline_agent.isolation.guardian import Guardian

_EPILOG: Final = """\
A host joins once, with a token that the controller's operator made for it:

  controller$ fireline enroll token --host web1 --ttl 1h
  web1# fireline-agent join --token TOKEN
  web1# fireline-agent run

After that the agent only listens: it never dials out, and its certificate is renewed by the controller.

Files:
  /etc/fireline/agent.toml     settings; every key has a default, unknown keys are refused
  /etc/fireline/policy.toml    what this host allows, whatever the controller asks
  /var/lib/fireline-agent      keys, request ids and captures that wait to be fetched

Exit status: 0 it was done; 1 it failed; 2 the command line or the settings are wrong; 3 `release`: nothing is
isolated here; 4 this host was not let in: the token is used, expired or forged, another authority answers, the name is
taken, or this host joined already; or `release`: no isolation has this code.
"""


def main(arguments: Sequence[str] | None = None, *, collectors: Mapping[str, str] | None = None) -> int:
    """Run the command line; `collectors` are the ones to serve, all by default."""
    options = build_parser().parse_args(arguments)
    try:
        config = Config.read(options.config) if options.config is not None else _default_config()
        if options.command == "join":
            return _join(options, config)
        if options.command == "check-config":
            return _check(config)
        if options.command == "release":
            return _release(options, config)
        if options.command == "rearm":
            return _rearm(config)
        return _run(config, collectors)
    except ConfigError as error:
        print(f"fireline-agent: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The command line, which the reference is made from too."""
    parser = argparse.ArgumentParser(
        prog="fireline-agent",
        description="The agent of Fireline: one host's hands for incident response.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fireline-agent {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings (default: {DEFAULT_CONFIG} if it is there)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run",
        parents=[common],
        help="serve the controller until SIGTERM",
        description="Serve the controller until SIGTERM. Then no new work is taken, and what runs is ended and sealed.",
    )
    join = commands.add_parser(
        "join",
        parents=[common],
        help="get this host's certificate with a one-time token",
        description="Get this host's certificate. The key is made here and never leaves; the token is shown to "
        "no controller but the one that it pins.",
    )
    join.add_argument(
        "--token", required=True, metavar="TOKEN", help="what `fireline enroll token` printed; `-` reads it from stdin"
    )
    join.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        help="where the controller shall reach this host (default: the address that this host is seen at)",
    )
    commands.add_parser(
        "check-config",
        parents=[common],
        help="read settings and policy, and say what is wrong",
        description="Read settings and policy; print every value that is in force, or say what is wrong and exit 2.",
    )
    _add_isolation(commands, common)
    return parser


def _add_isolation(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    release = commands.add_parser(
        "release",
        parents=[common],
        help="end an isolation of this host from its console, with the one-time code",
        description="End an isolation of this host with the code that was made for it. Works whether the agent runs, "
        "is stopped or is dead, and without a network. That the code was used is told to the controller.",
    )
    release.add_argument(
        "--code", required=True, metavar="CODE", help="the one-time code of the isolation; `-` reads it from stdin"
    )
    commands.add_parser(
        "rearm",
        parents=[common],
        help="put committed isolations back in force, as at boot",
        description="Put what is committed back in force, and end what was never confirmed. The unit "
        "fireline-isolation.service runs it before the network comes up; the agent does the same when it starts.",
    )


def _default_config() -> Config:
    return Config.read(DEFAULT_CONFIG) if DEFAULT_CONFIG.exists() else Config()


def _check(config: Config) -> int:
    from fireline_agent.policy import Policy

    policy = Policy.read(config.policy)
    for value in (config, policy):
        for name in value.__dataclass_fields__:
            print(f"{type(value).__name__.lower()}.{name} = {getattr(value, name)}")
    return 0


def _join(options: argparse.Namespace, config: Config) -> int:
    import asyncio

    from fireline_agent import enroll
    from fireline_agent.hands import facts

    text = options.token if options.token != "-" else sys.stdin.readline().strip()  # noqa: S105 -- a dash, no secret
    try:
        joined = asyncio.run(
            enroll.join(
                text,
                folder=config.keys,
                listen_address=options.listen or config.listen,
                agent_version=__version__,
                machine_id=facts.read().machine_id,
            )
        )
    except (enroll.JoinError, OSError) as error:
        print(f"fireline-agent: {error}", file=sys.stderr)
        return 4 if isinstance(error, enroll.JoinError) and error.is_refusal else 1
    print(f"joined as {joined.host}; certificate until {joined.not_after:%Y-%m-%d %H:%M} UTC in {joined.folder}")
    return 0


def _release(options: argparse.Namespace, config: Config) -> int:
    from fireline_agent.isolation.releasing import WrongCode, release_with_code

    guardian = _guardian(config)
    if not guardian.keeper.records.is_there:
        print("fireline-agent: nothing is isolated on this host", file=sys.stderr)
        return 3
    code = options.code if options.code != "-" else sys.stdin.readline()
    try:
        with_code = release_with_code(guardian.keeper, code.strip())
    except WrongCode as error:
        print(f"fireline-agent: {error}", file=sys.stderr)
        return 4 if error.is_isolated else 3
    except (RefusedError, OSError) as error:
        print(f"fireline-agent: {error}", file=sys.stderr)
        return 1
    print(f"released {', '.join(with_code.order_ids)}")
    if with_code.difference:
        print(f"the ruleset is not what it was before:\n{with_code.difference}")
    return 0


def _rearm(config: Config) -> int:
    try:
        scopes = _guardian(config).recover()
    except (RefusedError, OSError) as error:
        print(f"fireline-agent: {error}", file=sys.stderr)
        return 1
    print(f"in force: {', '.join(scopes) or 'nothing'}")
    return 0


def _guardian(config: Config) -> "Guardian":
    from fireline_agent.isolation.guardian import open_guardian

    port = int(config.listen.rpartition(":")[2])
    return open_guardian(
        state=config.state,
        keys=config.keys,
        docker_socket=config.docker_socket,
        port=port,
        tell=lambda _: None,
        is_agent=False,
    )


def _run(config: Config, collectors: Mapping[str, str] | None) -> int:
    # gRPC's fork handlers are for programs that fork with it; this one only starts other programs.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from fireline_agent.hands import memory

    memory.keep_openssl_out()
    import asyncio

    from fireline_agent import logs
    from fireline_agent.capture.collector import COLLECTORS

    logs.configure(config.log_level)
    try:
        asyncio.run(_serve(config, COLLECTORS if collectors is None else collectors))
    except BaseExceptionGroup as group:
        # One cause is what a person can act on.
        raise group.exceptions[0] from None
    return 0


async def _serve(config: Config, collectors: Mapping[str, str]) -> None:
    import asyncio
    import logging

    from fireline_agent.hands import systemd
    from fireline_agent.server.serving import serve

    log = logging.getLogger(__name__)
    stop = asyncio.Event()

    def told_to_stop() -> None:
        log.info("told to stop")
        systemd.notify("STOPPING=1")
        stop.set()

    def ready(address: str) -> None:
        log.info("serving", extra={"address": address, "version": __version__})
        systemd.notify(f"READY=1\nSTATUS=Serving on {address}")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    await serve(config, registry=collectors, stop=stop, on_ready=ready)


if __name__ == "__main__":
    sys.exit(main())
