"""Orders, codes and the ways to hosts, as this controller makes and finds them."""

import re
import socket
from pathlib import Path

import pytest

from fireline_controller.config import Settings, load
from fireline_controller.engine.orders import Orders, new_code
from fireline_controller.engine.values import IsolationWish
from fireline_controller.hosts import vantage
from fireline_controller.isolation import How, Sight
from fireline_controller.model import ConfigError, PolicyError
from fireline_wire.isolation import code_sha256
from tests.fakes import fleet


def test_a_code_is_for_people_and_known_by_its_hash_however_it_is_typed() -> None:
    """Sixteen characters of base32, in fours."""
    code = new_code()

    assert re.fullmatch(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", code)
    assert new_code() != code
    assert code_sha256(code.lower().replace("-", " ")) == code_sha256(code)


async def test_a_host_that_would_leave_nobody_a_way_in_gets_no_order(tmp_path: Path) -> None:
    """Over loopback there is no address to leave open, and none is set."""
    orders = Orders(lambda: fleet.authority(tmp_path), Settings())

    with pytest.raises(PolicyError, match=r"web-1 at 127\.0\.0\.1:7700: no address of a controller to leave open; set"):
        await orders.draft(fleet.enrolled("127.0.0.1:7700"), IsolationWish(), now=fleet.now())


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "controller.example"])
def test_a_controllers_address_is_one_that_hosts_see(tmp_path: Path, address: str) -> None:
    """Never a name, which the host would resolve; never one that means something else there."""
    (tmp_path / "fireline.toml").write_text(f'[isolation]\ncontrollers = ["198.18.0.1", "{address}"]\n')

    with pytest.raises(ConfigError, match=r"isolation\.controllers"):
        load(tmp_path / "fireline.toml", {})


async def test_the_way_to_a_host_has_literal_ends() -> None:
    """The address that the kernel would choose; nothing is sent."""
    way = await vantage.way_to("localhost:7700")
    assert way is not None
    assert (way.is_loopback, way.port) == (True, 7700)
    assert await vantage.way_to("no-such-name.invalid:1") is None


async def test_this_machine_sees_who_listens_and_who_refuses() -> None:
    """Exactly one sight for each address and port."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as other:
        open_port, closed_port = listening.getsockname()[1], other.getsockname()[1]
        other.close()

        seen = await vantage.look(["127.0.0.1"], [open_port, closed_port], within_s=0.2)

    assert seen == (Sight("127.0.0.1", open_port, How.CONNECTED), Sight("127.0.0.1", closed_port, How.REFUSED))
