"""`mvx_logger.formats.syslog`: whatever an event holds, it is one message that a strict reader takes apart again."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destinations import make_event, make_rich_events
from mvx_logger import LogEvent, LogEventMeta
from mvx_logger.errors import LogConfigurationError
from mvx_logger.formats.json import decode_event, encode_event, to_plain
from mvx_logger.formats.syslog import SyslogFormatter
from mvx_logger.model import LogEventOrigin, LogException, LogStack
from syslog_helpers import ID, check_same, parse_3164, parse_5424, written

HUGE = 10_000_000

texts = (
    st.text(max_size=20)
    | st.text(st.characters(), max_size=5)
    | st.text(' "\\][=\n\r\t\0<>@1\ufeff\u2028é', max_size=8)
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("b"), inner, max_size=3),
    max_leaves=8,
)
names = texts | st.sampled_from(["a", "a.b", "user", "x" * 32, "x" * 33])
optional = st.none() | texts
metas = st.builds(LogEventMeta, optional, texts, optional, optional, st.none() | st.integers(0, 10_000), optional)
events = st.builds(
    LogEvent,
    st.sampled_from([10, 20, 30, 40, 50]) | st.integers(-5, 100),
    metas,
    optional,
    st.floats(0, 4e9) | st.floats(),
    st.dictionaries(names, values, max_size=6),
    message=optional,
    exception=st.none() | st.builds(LogException, texts, texts, texts),
    stack=st.none() | st.builds(LogStack, texts),
    origin=st.none()
    | st.builds(
        LogEventOrigin,
        system=st.just("logging"),
        level_name=optional,
        process_id=st.none() | st.integers(1, 100_000),
        thread_name=optional,
    ),
)


class TestRfc5424:
    @given(event=events)
    def test_any_event_is_a_message_that_reads_back_as_the_same(self, event: LogEvent) -> None:
        """Whatever an event holds: one line by the grammar, and all of its values in it."""
        message = parse_5424(SyslogFormatter(max_message_size=HUGE).format(event, ID))
        check_same(message, event)

    @given(event=events, size=st.integers(480, 2_000), bom=st.booleans(), structured=st.booleans())
    def test_no_message_is_larger_than_allowed(self, event: LogEvent, size: int, bom: bool, structured: bool) -> None:
        """A message that has to be cut is still one by the grammar, tells so, and has its id."""
        options: Any = {"bom": bom, "structured_data": structured}
        whole = SyslogFormatter(max_message_size=HUGE, **options).format(event, ID)
        data = SyslogFormatter(max_message_size=size, **options).format(event, ID)
        message = parse_5424(data)
        if len(whole) <= size:
            assert data == whole
        else:
            assert len(data) <= size
            if structured:
                assert message.data["mvx@32473"]["id"] == ID
                assert message.data["mvx@32473"]["truncated"] == str(len(whole))

    @given(
        event=events,
        header=st.lists(st.text("é x{}]" + "abc" * 5, max_size=300), min_size=4, max_size=4),
        size=st.integers(480, 1_200),
    )
    def test_a_header_has_its_limits(self, event: LogEvent, header: list[str], size: int) -> None:
        """However long the names in the header are, they fit, and leave room for the id."""
        host, app, process, msgid = [text.replace("{", "{{").replace("}", "}}") for text in header]
        formatter = SyslogFormatter(
            hostname=host, app_name=app, procid=process, msgid=msgid, max_message_size=size, enterprise_id="1" * 22
        )
        data = formatter.format(event, ID)
        assert len(data) <= size
        assert parse_5424(data).data["mvx@" + "1" * 22]["id"] == ID

    @pytest.mark.parametrize("number", range(5))
    def test_rich_events(self, number: int) -> None:
        """The events that all destinations are tried with."""
        event = make_rich_events()[number]
        check_same(parse_5424(SyslogFormatter().format(event, ID)), event)

    def test_an_ordinary_event_to_the_letter(self) -> None:
        """What stands in the docs."""
        event = LogEvent(
            20,
            LogEventMeta("shop.orders", "order.created", "order-42", "/srv/shop.py", 117, "place"),
            "success",
            1_778_596_225.000123,
            {"total": 12.5, "user": {"name": "Ann"}},
        )
        formatter = SyslogFormatter(hostname="web1", app_name="shop", procid="4711")
        assert formatter.format(event, "7").decode() == (
            "<14>1 2026-05-12T14:30:25.000123Z web1 shop 4711 order.created "
            '[mvx@32473 id="7" namespace="shop.orders" event="order.created" level="INFO" source="/srv/shop.py:117" '
            'func="place" entity_id="order-42" outcome="success"][payload@32473 total="12.5" user.name="Ann"] '
            "shop.orders.order-42.order.created [success]"
        )

    def test_what_closes_a_value_or_a_message_does_not(self) -> None:
        """Quotes, brackets and line feeds in any field are content."""
        evil = '"]\n<0>1 - - - - - - gotcha\r\n5 <0>1 \\'
        event = LogEvent(20, LogEventMeta(evil, evil, evil, evil, 1, evil), evil, 0.0, {evil: evil, "a": evil}, evil)
        data = SyslogFormatter(app_name="{event}", hostname="{event}", procid="{event}").format(event, ID)
        assert b"\n" not in data
        message = parse_5424(data)
        assert set(message.data) == {"mvx@32473", "payload@32473"}
        assert message.data["payload@32473"]["a"] == written(evil)

    def test_keys_that_are_no_names_are_in_a_json_object(self) -> None:
        """A key with a space, one that is too long, and one that another one takes."""
        payload = {
            "a": {"b": 1}, "a.b": 2, "with space": 3, "x" * 33: "four", "": 5, "é": 6, "ok": {"not ok": 7}, "e": {},
            "c.d": 8, "c": {"d": 9},
        }  # fmt: skip
        data = parse_5424(SyslogFormatter().format(LogEvent(20, LogEventMeta(None, "x"), None, 0, payload)))
        assert data.data["payload@32473"] == {"a.b": "1", "e": "{}", "c.d": "8"}
        assert json.loads(data.data["mvx@32473"]["payload"]) == {
            "a.b": 2, "with space": 3, "x" * 33: "four", "": 5, "é": 6, "ok": {"not ok": 7},
            "c": {"d": 9},
        }  # fmt: skip

    def test_long_values_are_cut_and_short_ones_stay(self) -> None:
        """What is short is there as a whole, also behind what is long."""
        event = make_event(7, first="x" * 5_000, second="é" * 5_000, short="here", path="\\" * 5_000)
        message = parse_5424(SyslogFormatter(max_message_size=2_000).format(event, ID))
        payload = message.data["payload@32473"]
        assert payload["number"] == "7"
        assert payload["short"] == "here"
        assert re.fullmatch(r"x{100,}\.\.\.", payload["first"])
        assert re.fullmatch(r"é{50,}\.\.\.", payload["second"])
        assert re.fullmatch(r"\\{50,}\.\.\.", payload["path"])
        assert message.text == "shop.orders.order-7.order.7 [success]"
        assert int(message.data["mvx@32473"]["truncated"]) > 20_000

    def test_a_text_that_is_cut_ends_with_dots(self) -> None:
        """The message is cut like a value."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"a": 1}, "é" * 5_000)
        message = parse_5424(SyslogFormatter(max_message_size=1_000).format(event, ID))
        assert re.fullmatch(r"é{300,}\.\.\.", message.text)
        assert message.data["payload@32473"] == {"a": "1"}

    @pytest.mark.parametrize("options", [{}, {"structured_data": False}, {"rfc": "3164"}])
    def test_a_long_text_takes_all_the_room(self, options: Any) -> None:
        """To the last byte, and not one more."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {}, "y" * 5_000)
        for size in (480, 481, 1_000, 4_999):
            assert len(SyslogFormatter(max_message_size=size, **options).format(event, ID)) == size

    def test_a_document_is_whole_or_not_there(self) -> None:
        """A JSON object that does not fit is left out."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"no name": "x" * 5_000, "a": 1})
        own = parse_5424(SyslogFormatter(max_message_size=1_000).format(event, ID)).data["mvx@32473"]
        assert "payload" not in own
        assert "truncated" in own

    def test_thousands_of_keys(self) -> None:
        """As many as fit, in order."""
        event = make_event(1, **{f"key{number}": number for number in range(5_000)})
        data = SyslogFormatter(max_message_size=2_048).format(event, ID)
        assert len(data) <= 2_048
        assert parse_5424(data).data["payload@32473"]["key0"] == "0"

    def test_without_structured_data(self) -> None:
        """The text says it all."""
        event = make_rich_events()[4]
        message = parse_5424(SyslogFormatter(structured_data=False).format(event, ID))
        assert message.data == {}
        assert "order A-1 of 2" in message.text
        assert "ValueError: no such shop" in message.text
        message = parse_5424(SyslogFormatter(structured_data=False).format(make_event(3), ID))
        assert message.text == "shop.orders.order-3.order.3 [success] {'number': 3}"

    def test_a_byte_order_mark_is_for_what_is_not_ascii(self) -> None:
        """As RFC 5424 wants it, where it is asked for."""
        formatter = SyslogFormatter(bom=True)
        event = LogEvent(20, LogEventMeta(None, "grün"), None, 0.0, {})
        assert parse_5424(formatter.format(event)).text == "\ufeffgrün"
        assert parse_5424(formatter.format(make_event(1))).text.startswith("shop")
        assert parse_5424(SyslogFormatter().format(event)).text == "grün"

    def test_a_time_that_cannot_be_told(self) -> None:
        """The header has none, and the structured data has the number."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 1e18, {})
        message = parse_5424(SyslogFormatter().format(event))
        assert message.timestamp is None
        assert message.data["mvx@32473"] == {"event": "x", "level": "INFO", "time": "1e+18"}

    def test_fields_of_any_type(self) -> None:
        """A field that has a type that it must not have is put into words."""

        class Odd:
            def __str__(self) -> str:
                raise RuntimeError

        meta: Any = LogEventMeta(7, ("a", 1), Odd())  # type: ignore[arg-type]
        odd: Any = {"a": Odd(), 5: "five", "b": {1: {"c": b"\xff"}}}
        event = LogEvent("20", meta, 4, "later", odd)  # type: ignore[arg-type]
        message = parse_5424(SyslogFormatter().format(event, ID))
        assert message.data["mvx@32473"]["namespace"] == "7"
        assert message.data["payload@32473"]["5"] == "five"
        assert message.data["payload@32473"]["a"] == "<Odd>"
        parse_3164(SyslogFormatter(rfc="3164").format(event, ID))


class TestRfc3164:
    @given(event=events, local=st.booleans(), size=st.integers(480, 2_000))
    def test_any_event_is_a_line_without_controls(self, event: LogEvent, local: bool, size: int) -> None:
        """Whatever an event holds: one line by the grammar, not longer than allowed."""
        data = SyslogFormatter(rfc="3164", local=local, max_message_size=size).format(event, ID)
        message = parse_3164(data, local=local)
        assert len(data) <= size
        process = os.getpid() if event.origin is None or event.origin.process_id is None else event.origin.process_id
        assert message.procid == str(process)

    def test_an_ordinary_event_to_the_letter(self) -> None:
        """With HOSTNAME over a network, and without it in the local form; the time is local."""
        options: Any = {"rfc": "3164", "app_name": "shop", "procid": "4711", "facility": "local3"}
        moment = time.mktime((2026, 5, 2, 14, 30, 25, 0, 0, -1))
        event = LogEvent(40, LogEventMeta("shop", "order.failed", "order-42"), "failed", moment + 0.5, {"total": 12.5})
        text = "shop[4711]: shop.order-42.order.failed [failed] {'total': 12.5}"
        assert SyslogFormatter(hostname="web1", **options).format(event).decode() == f"<155>May  2 14:30:25 web1 {text}"
        assert SyslogFormatter(local=True, **options).format(event).decode() == f"<155>May  2 14:30:25 {text}"
        host = socket.gethostname().partition(".")[0]
        assert SyslogFormatter(**options).format(event).decode() == f"<155>May  2 14:30:25 {host} {text}"

    def test_a_tag_has_no_brackets_and_32_characters(self) -> None:
        """What ends a tag is no part of it."""
        formatter = SyslogFormatter(rfc="3164", app_name="a[b]: c" + "d" * 40, procid="]: <x>")
        message = parse_3164(formatter.format(make_event(1)))
        assert message.app_name == "a_b___c" + "d" * 25
        assert message.procid == "___<x>"

    def test_no_procid(self) -> None:
        """``-`` leaves the number out."""
        data = SyslogFormatter(rfc="3164", app_name="shop", procid="-").format(make_event(1))
        assert b" shop: shop.orders" in data

    def test_tracebacks_are_in_the_text(self) -> None:
        """In one line."""
        message = parse_3164(SyslogFormatter(rfc="3164", max_message_size=8_192).format(make_rich_events()[4]))
        assert r"Traceback (most recent call last):\n  File" in message.text

    def test_what_is_too_long_ends_with_dots(self) -> None:
        """No character is cut in two."""
        for size in range(480, 490):
            data = SyslogFormatter(rfc="3164", max_message_size=size).format(make_event(1, text="é" * 1_000))
            assert size - 1 <= len(data) <= size
            assert parse_3164(data).text.endswith("é...")

    def test_a_time_that_cannot_be_told_is_now(self) -> None:
        """There is no other way to say nothing."""
        for moment in (float("nan"), float("inf"), 1e30):
            parse_3164(SyslogFormatter(rfc="3164").format(LogEvent(20, LogEventMeta(None, "x"), None, moment, {})))


class TestOptions:
    @pytest.mark.parametrize(
        ("level", "severity"), [(5, 7), (10, 7), (19, 7), (20, 6), (25, 5), (30, 4), (35, 4), (40, 3), (50, 2), (99, 2)]
    )
    def test_levels(self, level: int, severity: int) -> None:
        """Each level has the severity of the standard one below it; between INFO and WARNING there is notice."""
        event = LogEvent(level, LogEventMeta(None, "x"), None, 0.0, {})
        message = parse_5424(SyslogFormatter(facility="local7").format(event))
        assert (message.facility, message.severity) == (23, severity)

    @pytest.mark.parametrize("given_as", [{"INFO": "notice", 45: "alert", 60: 0}, ["INFO:notice", "45:alert", "60:0"]])
    def test_severities_of_ones_own(self, given_as: Any) -> None:
        """By name or number, as a mapping or as in a URL."""
        formatter = SyslogFormatter(severity=given_as, facility=0)
        for level, severity in ((10, 7), (20, 5), (30, 4), (44, 3), (45, 1), (50, 2), (60, 0)):
            event = LogEvent(level, LogEventMeta(None, "x"), None, 0.0, {})
            assert parse_5424(formatter.format(event)).severity == severity

    def test_the_name_of_a_custom_level_is_in_the_data(self) -> None:
        """With its number."""
        origin = LogEventOrigin(system="logging", level_name="AUDIT")
        event = LogEvent(35, LogEventMeta(None, "x"), None, 0.0, {}, origin=origin)
        own = parse_5424(SyslogFormatter().format(event)).data["mvx@32473"]
        assert (own["level"], own["level_no"]) == ("AUDIT", "35")

    def test_templates(self) -> None:
        """Fields of the header come from the event."""
        formatter = SyslogFormatter(
            app_name="{namespace}", hostname="{payload.host|nowhere}", procid="{payload.number}", msgid="{level}"
        )
        message = parse_5424(formatter.format(make_event(5)))
        assert message[3:7] == ("nowhere", "shop.orders", "5", "info")
        assert message.data["mvx@32473"]["namespace"] == "shop.orders"

    def test_defaults(self) -> None:
        """This host, this program, this process."""
        message = parse_5424(SyslogFormatter().format(make_event(5)))
        assert message.facility == 1
        assert message.hostname == socket.gethostname()
        assert message.procid == str(os.getpid())
        assert message.app_name

    def test_enterprise_id(self) -> None:
        """Ids of structured data are of the number that is given."""
        event = make_rich_events()[4]
        check_same(parse_5424(SyslogFormatter(enterprise_id=4711).format(event, ID)), event, enterprise="4711")
        data = parse_5424(SyslogFormatter(enterprise_id="4711.8").format(event, ID)).data
        assert set(data) == {"mvx@4711.8", "exception@4711.8"}

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"rfc": "5425"}, ValueError, "rfc: '5425'"),
            ({"facility": "local8"}, LogConfigurationError, "facility: 'local8' is neither a number from 0 to 23"),
            ({"facility": 24}, LogConfigurationError, "facility: 24"),
            ({"facility": True}, TypeError, "facility: expected a name or a number"),
            ({"severity": {"INFO": "loud"}}, LogConfigurationError, "severity: 'loud'"),
            ({"severity": {"LOUD": "info"}}, LogConfigurationError, "severity: 'LOUD' is not a level"),
            ({"severity": ["25"]}, LogConfigurationError, "severity: expected a mapping"),
            ({"severity": "25:notice"}, LogConfigurationError, "severity: expected a mapping"),
            ({"app_name": "{nobody}"}, LogConfigurationError, "app_name: there is no field"),
            ({"hostname": 1}, TypeError, "hostname: expected a str"),
            ({"procid": "}"}, LogConfigurationError, "procid: a single"),
            ({"msgid": "{"}, LogConfigurationError, "msgid: a single"),
            ({"enterprise_id": "mvx"}, ValueError, "enterprise_id: expected a number"),
            ({"enterprise_id": "1" * 23}, ValueError, "enterprise_id: expected a number"),
            ({"enterprise_id": True}, ValueError, "enterprise_id: expected a number"),
            ({"max_message_size": 479}, ValueError, "max_message_size: expected 480 or more"),
            ({"max_message_size": 1e4}, TypeError, "max_message_size: expected an int"),
            ({"bom": 1}, TypeError, "bom: expected a bool"),
            ({"structured_data": "no"}, TypeError, "structured_data: expected a bool"),
        ],
    )
    def test_what_is_wrong_is_named(self, options: Any, error: type[Exception], text: str) -> None:
        """Each error names the option, and what would be right."""
        with pytest.raises(error, match=re.escape(text)):
            SyslogFormatter(**options)


def test_the_readers_of_these_tests_are_strict() -> None:
    """What the RFC forbids is refused."""
    good = SyslogFormatter().format(make_event(1), ID)
    for old, new in (
        (b"<14>1", b"<014>1"), (b"<14>1", b"<192>1"), (b"<14>1", b"<14>2"), (b"id=", b"i d="), (b"Z ", b" "),
        (b"[mvx@", b"[mvx@32473][mvx@"), (b'"INFO"', b'"IN]FO"'), (b'"INFO"', b'"IN"FO"'), (b'"INFO"', b'"IN\\FO"'),
        (b'"INFO"', b'"IN\nFO"'), (b"] shop", b"]shop"), (b"[success]", b"\xff"), (b"T", b"t"), (b"mvx@", b"mvx"),
    ):  # fmt: skip
        assert old in good
        with pytest.raises(AssertionError):
            parse_5424(good.replace(old, new, 1))
    old_good = SyslogFormatter(rfc="3164").format(make_event(1))
    for old, new in ((b"May 28", b"Mai 28"), (b"]: ", b"] "), (b"order-1", b"order\x001"), (b"<14>", b"14")):
        assert old in old_good
        with pytest.raises(AssertionError):
            parse_3164(old_good.replace(old, new, 1))
    assert to_plain(decode_event(encode_event(make_event(1))).payload) == {"number": 1}
