"""`kubebee lb`: names of frontends, and its tables as text and documents."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from kubebee.cli import main
from kubebee.cli.lb import load
from kubebee.cli.lb import tables as view
from kubebee.cli.lb.load import Load
from kubebee.cli.lb.naming import End, EndError, FrontendNotFoundError, find_frontends, parse_end, parse_range
from kubebee.cli.live import as_text
from kubebee.lb.flows import FoundFlow, state_of
from kubebee.lb.layout import Flow, FlowFlag, FlowKey, FrontendValue, Stat
from kubebee.lb.model import Backend, Protocol, parse_address
from kubebee.lb.reading import Shown
from support.lb_tables import backend as backend_value
from support.lb_tables import key, shop, tables

VERBS = ("list", "get", "flows", "top", "trace")


def shown(address: str, port: int = 80, protocol: Protocol = Protocol.TCP) -> Shown:
    return shop().shown(key(address, port, protocol))


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "port", "protocol"),
    [
        ("192.0.2.7", "192.0.2.7", 0, None),
        ("192.0.2.7:80", "192.0.2.7", 80, None),
        ("192.0.2.7:53/udp", "192.0.2.7", 53, Protocol.UDP),
        ("192.0.2.7/TCP", "192.0.2.7", 0, Protocol.TCP),
        ("[2001:db8::7]:443/TCP", "2001:db8::7", 443, Protocol.TCP),
        ("[2001:db8::7]", "2001:db8::7", 0, None),
        ("2001:db8::7", "2001:db8::7", 0, None),
    ],
)
def test_an_end_is_read_as_people_write_it(
    text: str, address: str, port: int, protocol: Protocol | None
) -> None:
    assert parse_end(text) == End(parse_address(address), port, protocol)


@pytest.mark.parametrize(
    "text", ["", "shop/web", "192.0.2:80", "192.0.2.7:65536", "192.0.2.7:80/ICMP", "[::1"]
)
def test_what_is_no_end_says_how_to_write_one(text: str) -> None:
    with pytest.raises(EndError) as error:
        parse_end(text)
    assert "192.0.2.7:80" in error.value.hint


@pytest.mark.parametrize(
    ("text", "prefix", "port"),
    [
        ("192.0.2.7", "192.0.2.7/32", 0),
        ("192.0.2.7:40000", "192.0.2.7/32", 40000),
        ("192.0.2.7/24", "192.0.2.0/24", 0),
        ("2001:db8::7/32", "2001:db8::/32", 0),
    ],
)
def test_a_range_of_clients_is_read(text: str, prefix: str, port: int) -> None:
    found, of = parse_range(text)
    assert (str(found), of) == (prefix, port)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.96.0.10:80/TCP", ["10.96.0.10:80/TCP"]),
        ("10.96.0.10", ["10.96.0.10:53/UDP", "10.96.0.10:80/TCP"]),
        ("Service/shop/web:dns", ["10.96.0.10:53/UDP"]),
        ("shop/web:http", ["10.96.0.10:80/TCP", "192.0.2.10:80/TCP"]),
        ("shop/web", ["10.96.0.10:53/UDP", "10.96.0.10:80/TCP", "192.0.2.10:80/TCP"]),
        ("own", ["10.96.0.99:80/TCP"]),
    ],
)
def test_a_frontend_is_found_by_address_and_by_name(text: str, found: list[str]) -> None:
    assert [str(key) for _, key in find_frontends([shop()], text)] == found


def test_a_name_that_nothing_has_suggests_one_that_is_near() -> None:
    with pytest.raises(FrontendNotFoundError) as error:
        find_frontends([shop()], "shop/wep:http")
    assert "shop/web:http" in error.value.hint


# -- list and get --------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_list_counts_backends_that_take_connections_of_those_that_stay() -> None:
    listed = words(view.list_table([(each, Stat(30, 1800, 5)) for each in shop().every()]))
    assert listed == [
        "FRONTEND NAME FORWARDING AFFINITY BACKENDS CONNECTIONS PACKETS",
        "10.96.0.10:53/UDP Service/shop/web:dns SNAT 3h 0/0 5 30",
        "10.96.0.10:80/TCP Service/shop/web:http SNAT - 1/2 5 30",
        "10.96.0.99:80/TCP ServiceLB/own:none SNAT - 0/0 5 30",
        "192.0.2.10:80/TCP Service/shop/web:http SNAT - 2/2 5 30",
    ]


def test_nothing_to_list_is_said() -> None:
    assert (view.list_table([]), view.flows_table([])) == ("no frontends", "no flows")


def detail(of: Shown) -> view.Detail:
    stats = {member.number: Stat(10, 600, member.number) for member in of.members}
    return view.Detail(of, Stat(99, 5940, 7), stats, {0: 211, 3: 101}, {0: 211, 3: 106, 4: 105})


def test_a_frontend_is_shown_with_its_backends_states_and_shares() -> None:
    text = words(view.detail_text(detail(shown("10.96.0.10"))))
    assert text[-4:] == [
        "BACKEND STATE WEIGHT SHARE NEXT HOP CONNECTIONS PACKETS",
        "10.2.1.2:8080 Active 1 100.0% lo 02:00:00:00:00:02 0 10",
        "10.2.2.2:8080 NoNewConnections 0 0.0% lo 02:00:00:00:00:02 1 10",
        "10.2.3.2:8080 Draining 1 0.0% lo 02:00:00:00:00:02 2 10",
    ]
    assert {"Name: Service/shop/web:http", "May come: everybody", "Tables: 211 slots"} <= set(text)


def test_where_sockets_have_another_table_both_shares_are_shown() -> None:
    text = words(view.detail_text(detail(shown("192.0.2.10"))))
    assert text[-3:] == [
        "BACKEND STATE WEIGHT OUTSIDE INSIDE NEXT HOP CONNECTIONS PACKETS",
        "10.2.1.2:8080 Active 1 100.0% 50.2% lo 02:00:00:00:00:02 3 10",
        "10.2.2.2:8080 Active 1 0.0% 49.8% lo 02:00:00:00:00:02 4 10",
    ]
    assert "May come: from 192.0.2.0/24, and processes of this node" in text


def test_a_frontend_without_backends_says_what_happens_to_clients() -> None:
    assert words(view.detail_text(detail(shown("10.96.0.99"))))[-1] == "no backends: packets are dropped"
    refused = words(view.detail_text(detail(shown("10.96.0.10", 53, Protocol.UDP))))
    assert refused[-1] == "no backends: clients are refused"


def test_documents_have_what_the_tables_have() -> None:
    found = view.detail_document(detail(shown("192.0.2.10")))
    assert found["sourceRanges"] == ["192.0.2.0/24"]
    assert found["slots"] == {"outside": 101, "inside": 211}
    backends = found["backends"]
    assert isinstance(backends, list)
    assert [(each["address"], each["slots"]) for each in backends] == [
        ("10.2.1.2", {"outside": 101, "inside": 106}),
        ("10.2.2.2", {"outside": 0, "inside": 105}),
    ]
    listed = view.list_document(shown("10.96.0.10"), Stat(30, 1800, 5))
    assert listed["backends"] == {"active": 1, "total": 2, "draining": 1}


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (5425, "1h30m"), (10800, "3h"), (90061, "1d1h")]
)
def test_times_have_two_units_at_most(number: int, text: str) -> None:
    assert view.seconds(number) == text


# -- flows ---------------------------------------------------------------------------------------------------

FIN, RST, SEEN = FlowFlag.FIN, FlowFlag.RST, FlowFlag.SEEN


@pytest.mark.parametrize(
    ("protocol", "client", "backend", "state"),
    [
        (6, 0, 0, "Opening"),
        (6, 0, SEEN, "Established"),
        (6, FIN, SEEN, "Closing"),
        (6, FIN, SEEN | FIN, "Closed"),
        (6, 0, SEEN | RST, "Reset"),
        (17, 0, 0, "Unanswered"),
        (17, 0, SEEN, "Answered"),
    ],
)
def test_a_flow_has_a_state_in_one_word(protocol: int, client: int, backend: int, state: str) -> None:
    assert state_of(protocol, client, backend) == state


def flow(backend: int = 0) -> FoundFlow:
    ends = FlowKey(parse_address("198.51.100.7"), parse_address("10.96.0.10"), 40000, 80, 6)
    kept = Flow(0, backend, parse_address("10.0.0.1"), 61234, 0)
    return FoundFlow(ends, kept, backend, 12.4, "Established", 8000)


def test_a_flow_is_a_row_with_both_ends_and_times() -> None:
    row = words(view.flows_table([(flow(), Backend(parse_address("10.2.1.2"), 8080))]))[1]
    assert row == "198.51.100.7:40000 10.96.0.10:80/TCP 10.2.1.2:8080 10.0.0.1:61234 Established 12s 2h13m"


def test_a_flow_of_a_backend_that_is_not_known_shows_its_number() -> None:
    assert "number 9" in view.flows_table([(flow(9), None)])
    assert view.flow_document(flow(9), None)["backend"] is None


# -- top -----------------------------------------------------------------------------------------------------


def taken(at: float, packets: dict[str, int]) -> Load:
    every = {key(address): FrontendValue(size=101, id=number) for number, address in enumerate(packets)}
    backends = {number: backend_value("10.2.1.2", 8080, number) for number in range(len(packets))}
    of = tables(every, backends, {})
    stats = [(shown, Stat(packets[str(shown.key).partition(":")[0]], 0, 1)) for shown in of.every()]
    return Load(at, tuple(stats), {(shown.key, shown.members[0].number): stat for shown, stat in stats})


def test_the_busiest_frontend_of_the_last_second_comes_first() -> None:
    before = taken(1.0, {"10.96.0.1": 5000, "10.96.0.2": 10, "10.96.0.3": 10})
    now = taken(3.0, {"10.96.0.1": 5002, "10.96.0.2": 210, "10.96.0.3": 10})
    lines = words(as_text(load.render(now, before, limit=2)))
    backend = "10.2.1.2:8080"
    firsts = ["FRONTEND", "10.96.0.2:80/TCP", backend, "10.96.0.1:80/TCP", backend, "and"]
    assert [line.split()[0] for line in lines] == firsts
    assert lines[1] == "10.96.0.2:80/TCP - 1 0 210 100 0"


def test_a_rate_that_is_not_known_is_null_in_documents() -> None:
    before, now = taken(1.0, {"10.96.0.1": 5}), taken(2.0, {"10.96.0.1": 9, "10.96.0.2": 1})
    rates = {each["frontend"]: each["packetsPerSecond"] for each in load.document(now, before, 10)}
    assert rates == {"10.96.0.1:80/TCP": 4.0, "10.96.0.2:80/TCP": None}


# -- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples(verb: str) -> None:
    text = CliRunner().invoke(main.cli, ["lb", verb, "--help"]).output
    assert f"  kubebee lb {verb} " in text.partition("Examples:\n")[2]
