"""What the sinks of `mvx_logger.sinks` use of `mvx_logger.options`, `mvx_logger.tls` and `mvx_logger.formats.template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger import EventTemplate, LogConfigurationError, LogEvent, LogEventMeta, make_tls_context
from mvx_logger.options import check_own_options, options_from_url, parse_servers, require_extra
from servers import Certificates, make_certificates


class Target:
    def __init__(
        self, *, host: str = "localhost", port: int = 1, kind: Literal["a", "b"] = "a", **async_options: Any
    ) -> None:
        """Nothing."""


PARTS = {"hostname": "host", "port": "port", "username": "user", "password": "password", "path": "place"}


class TestOwnOptions:
    def test_defaults_and_what_was_given(self) -> None:
        found = check_own_options(Target, {"self": 1, "host": "x", "async_options": {}})
        assert found == {"host": "x", "port": 1, "kind": "a"}

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"port": "1"}, "port: expected int"),
            ({"kind": "c"}, "kind: .*'a', 'b'"),
            ({"port": 0}, "port: expected 1 to 9, got 0"),
            ({"port": 10}, "port: expected 1 to 9, got 10"),
        ],
    )
    def test_what_is_wrong_is_named(self, given: dict[str, Any], text: str) -> None:
        with pytest.raises(LogConfigurationError, match=text):
            check_own_options(Target, given, {"port": (1, 9)})


class TestUrls:
    def test_all_parts_and_their_escapes(self) -> None:
        url = urlsplit("x://me%40home:p%2Fw@there:7/a%20b/c?y=1")
        assert options_from_url(Target, url, PARTS) == {
            "host": "there", "port": 7, "user": "me@home", "password": "p/w", "place": "a b/c",
        }  # fmt: skip
        assert options_from_url(Target, urlsplit("x:"), PARTS) == {}

    def test_several_servers_are_one_part(self) -> None:
        parts = {"netloc": "servers", "password": "password"}
        found = options_from_url(Target, urlsplit("x://:pw@one:1,two:2"), parts)
        assert found == {"servers": "one:1,two:2", "password": "pw"}

    @pytest.mark.parametrize(
        ("url", "parts", "text"),
        [
            ("x://host", {}, "no option for the hostname of a URL; it takes nothing but a query"),
            ("x://h/secret", {"hostname": "host"}, "no option for the path of a URL; it takes hostname"),
            ("x://h:secret", PARTS, "the port in the URL is not a number"),
            ("x://h:99999", PARTS, "the port in the URL is not a number"),
        ],
    )
    def test_what_is_no_option_is_named_and_not_quoted(self, url: str, parts: dict[str, str], text: str) -> None:
        with pytest.raises(LogConfigurationError, match=text) as caught:
            options_from_url(Target, urlsplit(url), parts)
        assert "secret" not in str(caught.value)


class TestServers:
    def test_forms(self) -> None:
        assert parse_servers("one,two:2, [::1]:3 ,[::2]", port=9) == [("one", 9), ("two", 2), ("::1", 3), ("::2", 9)]
        assert parse_servers(["one:1"], port=9) == [("one", 1)]

    @pytest.mark.parametrize("value", ["", ",", [], "a:b", "a:0", "a:1/x", "a:70000", "u:secret@h", "[::1"])
    def test_what_is_none(self, value: Any) -> None:
        with pytest.raises(LogConfigurationError, match=r"^nodes: ") as caught:
            parse_servers(value, port=1, path="nodes")
        assert "secret" not in str(caught.value)


def test_a_missing_package_is_named_with_what_to_install() -> None:
    with pytest.raises(LogConfigurationError, match=r"'nowhere' is missing: pip install 'mvx-logger\[shop\]'"):
        require_extra("shop", "nowhere.at_all")
    assert require_extra("shop", "urllib.parse").urlsplit is urlsplit


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class TestTls:
    def test_it_verifies(self, certificates: Certificates) -> None:
        import ssl

        context = make_tls_context(
            tls_ca=certificates.ca, tls_cert=certificates.client[0], tls_key=certificates.client[1]
        )
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert len(context.get_ca_certs()) == 1

    def test_what_is_wrong_is_named(self, certificates: Certificates, tmp_path: Path) -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("no certificate")
        for options, text in (
            ({"tls_ca": "/nowhere.pem"}, "tls_ca: there is no file '/nowhere.pem'"),
            ({"tls_ca": str(broken)}, "tls_ca: .* no certificates in PEM"),
            ({"tls_cert": str(broken)}, "tls_cert: .*cannot be used"),
            ({"tls_cert": certificates.client[0], "tls_key": certificates.right[1]}, "tls_cert: .*cannot be used"),
            ({"tls_key": certificates.client[1]}, "tls_key: needs tls_cert"),
        ):
            with pytest.raises(LogConfigurationError, match=text):
                make_tls_context(**options)


def make_event(**payload: Any) -> LogEvent:
    return LogEvent(20, LogEventMeta("shop.orders", "created", "o-1"), None, 1_780_000_000.25, payload, message="hi")


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("", ""),
            ("plain", "plain"),
            ("logs.{namespace}.{level}", "logs.shop.orders.info"),
            ("{event}/{entity_id}/{level_no}/{message}", "created/o-1/20/hi"),
            ("{outcome}", ""),
            ("{outcome|none}", "none"),
            ("{payload.user.id}-{payload.n}", "7-0"),
            ("{payload.nothing|x}{payload.user.nothing|y}{payload.n.deeper|z}", "xyz"),
            ("{time:%Y.%m.%d %H:%M:%S.%f}", "2026.05.28 20:26:40.250000"),
            ("{time:%Y.%m.%d}", "2026.05.28"),
            ("{{literal}} {{{event}}}", "{literal} {created}"),
        ],
    )
    def test_fields(self, template: str, text: str) -> None:
        assert EventTemplate(template).format(make_event(user={"id": 7}, n=0)) == text

    def test_what_is_constant(self) -> None:
        assert EventTemplate("logs{{}}").is_constant
        assert not EventTemplate("{event}").is_constant

    def test_only_fields_are_cleaned(self) -> None:
        template = EventTemplate("a.b.{namespace}", clean=lambda text: text.replace(".", "_"))
        assert template.format(make_event()) == "a.b.shop_orders"

    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("{nosuch}", "key: there is no field {nosuch}; there are: .*namespace"),
            ("{time}", "there is no field"),
            ("{event:%Y}", "only time takes a format"),
            ("{payload.}", "there is no field"),
            ("a { b", "key: a single '{' at position 2"),
            ("a } b", "key: a single '}' at position 2"),
        ],
    )
    def test_what_is_wrong_is_named(self, template: str, text: str) -> None:
        with pytest.raises(LogConfigurationError, match=text):
            EventTemplate(template, option="key")

    def test_a_type_that_is_wrong(self) -> None:
        with pytest.raises(TypeError, match="key: expected a str, got int"):
            EventTemplate(1, option="key")  # type: ignore[arg-type]

    @given(st.text())
    def test_text_outside_of_fields_stays(self, text: str) -> None:
        escaped = text.replace("{", "{{").replace("}", "}}")
        assert EventTemplate(f"{escaped}{{event}}").format(make_event()) == f"{text}created"

    def test_nothing_raises(self) -> None:
        class Bad:
            def __str__(self) -> str:
                raise ValueError

        event = LogEvent(20, LogEventMeta(None, "e"), None, float("nan"), {"bad": Bad()})
        template = EventTemplate("{payload.bad|x}{time:%Y|y}{namespace|z}{time:%Y%f|w}")
        assert template.format(event) == "xyzw"
