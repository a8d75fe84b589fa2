"""Find out what this kernel and its nft can do, before there is an incident.

By trial: each part is put in force in a network namespace that is thrown away, so the kernel's own answer counts and
neither a packet nor another program ever sees it. `nft -c` is not enough: it takes what this kernel was built without.
"""

from typing import Final

from fireline_agent.hands import namespaces
from fireline_agent.hands.nft import Nft, NftError
from fireline_agent.isolation.model import Capability, Identity

# What everything else rests on: the lease, the hooks, and how the agent's flow is told from others.
_CORE: Final = """\
  set armed { type mark; flags timeout; elements = { 0x0 timeout 1s }; }
  chain untracked {
    type filter hook prerouting priority -310; policy accept;
    meta mark & 0x0 @armed tcp dport 1 notrack
  }
  chain output {
    type filter hook output priority -300; policy accept;
    tcp dport 1 meta skuid 0 limit rate 1/minute accept
    meta mark & 0x0 @armed counter drop
  }
"""


def find_out(nft: Nft | None, identity: Identity) -> Capability:
    """What can be done on this host."""
    if nft is None:
        return Capability(refusal="nft is missing: install the package nftables and restart the agent")
    try:
        with namespaces.throw_away():
            nft.apply(_table("inet", _CORE))
            return Capability(
                has_ingress=_works(nft, "netdev", 'type filter hook ingress device "lo" priority -500; policy accept;'),
                has_egress=_works(nft, "netdev", 'type filter hook egress device "lo" priority -500; policy accept;'),
                has_bridge=_works(nft, "bridge", "type filter hook forward priority -300; policy accept;"),
                has_cgroup=identity.cgroup is not None and _works(nft, "inet", _of_group(*identity.cgroup)),
            )
    except (NftError, OSError) as error:
        return Capability(refusal=str(error))


def _of_group(level: int, path: str) -> str:
    return f'type filter hook output priority -300; policy accept;\n    socket cgroupv2 level {level} "{path}" counter'


def _works(nft: Nft, family: str, chain: str) -> bool:
    try:
        nft.apply(_table(family, f"  chain trial {{\n    {chain}\n  }}\n"))
    except NftError:
        return False
    return True


def _table(family: str, content: str) -> str:
    return f"table {family} trial {{\n{content}}}\ndelete table {family} trial\n"
