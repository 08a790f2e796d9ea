"""Foreign texts without their secrets: `mask_secrets`, `describe_error`."""

from __future__ import annotations

import json
import re
import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mvx_logger import masking
from mvx_logger.masking import MAX_LENGTH, describe_error, mask_secrets
from mvx_logger.payload import DEFAULT_REDACT_KEYS

URLS = [
    ("no route to postgres://bob:HIDE@db:5432/shop", "no route to postgres://bob:***@db:5432/shop"),
    ("amqp://guest:HI@DE@mq:5672//", "amqp://guest:***@mq:5672//"),
    ("redis://:HIDE@localhost:6379/0", "redis://:***@localhost:6379/0"),
    ("mongodb://a:HIDE@h1:27017,h2:27017/?x=y@z", "mongodb://a:***@h1:27017,h2:27017/?x=y@z"),
    ("amqp://a:HIDE@h1,amqp://b:HIDE@h2", "amqp://a:***@h1,amqp://b:***@h2"),
    ("mysql+pymysql://u:HIDE@[::1]:3306", "mysql+pymysql://u:***@[::1]:3306"),
    ("('amqp://u:HIDE@h', 5)", "('amqp://u:***@h', 5)"),
    ('{"url":"amqp://u:HIDE@h","mail":"a@b"}', '{"url":"amqp://u:***@h","mail":"a@b"}'),
    ("<amqp://u:HIDE@h>", "<amqp://u:***@h>"),
    ("bob:HIDE@tcp(db:3306)/shop", "bob:***@tcp(db:3306)/shop"),
    # Not escaped, as it should be: then a parser takes it for the port, and complains.
    ("amqp://bob:HI/DE@host/vhost", "amqp://bob:***@host/vhost"),
    ("amqp://bob:HI?DE@host", "amqp://bob:***@host"),
    ("amqp://bob:HI//DE@host", "amqp://bob:***@host"),
    ("//bob:HIDE@host/x", "//bob:***@host/x"),
    ('amqp://bob:HI"DE@host', "amqp://bob:***@host"),
    ("cut off: 'amqp://bob:HIDE", "cut off: 'amqp://bob:***"),
    # A token in place of a user.
    ("https://HIDE5678901234567890@ingest.example.com/1", "https://***@ingest.example.com/1"),
]

PAIRS = [
    # DSNs and queries
    ("host=h password=HIDE dbname=x", "host=h password=*** dbname=x"),
    ("Server=h;Password=HI;DE,2;Database=d", "Server=h;Password=***;Database=d"),
    ("AccountName=a;AccountKey=HIDE+/==;EndpointSuffix=x", "AccountName=a;AccountKey=***;EndpointSuffix=x"),
    ("GET /x?token=HIDE&a=b HTTP/1.1", "GET /x?token=***&a=b HTTP/1.1"),
    ("https://h/x?sig=HIDE%2F&se=5", "https://h/x?sig=***&se=5"),
    ("/login?next=%2Fx%3Fa%3Db%26token%3DHIDE", "/login?next=%2Fx%3Fa%3Db%26token%3D***"),
    ("MYAPP_DB_PASSWORD=HIDE", "MYAPP_DB_PASSWORD=***"),
    ("spring.datasource.password=HIDE", "spring.datasource.password=***"),
    ("password2 = HIDE", "password2 = ***"),
    ("(token=HIDE) or (token=HI)DE!x y", "(token=***) or (token=*** y"),
    # headers
    ("Authorization: Bearer HIDE", "Authorization: ***"),
    ("authorization=Bearer HIDE rest", "authorization=*** rest"),
    ("failed (Proxy-Authorization: Basic HIDE HIDE)", "failed (Proxy-Authorization: ***"),
    ("X-Api-Key: HIDE HIDE\nHost: h", "X-Api-Key: ***\nHost: h"),
    ("> x-shop-token: HIDE HIDE\n> host: h", "> x-shop-token: ***\n> host: h"),
    ("Host: h\r\nX-Api-Key: HIDE HIDE\r\nAccept: *", "Host: h\r\nX-Api-Key: ***\r\nAccept: *"),
    ("Set-Cookie: a=HIDE; Path=/", "Set-Cookie: ***"),
    (
        repr(b"GET / HTTP/1.1\r\nauthorization: Bearer HIDE\r\nCookie: a=HIDE; b=HIDE\r\nHost: h"),
        repr(b"GET / HTTP/1.1\r\nauthorization: ***\r\nCookie: ***\r\nHost: h"),
    ),
    (repr([(b"authorization", b"Bearer HIDE"), (b"host", b"h")]), "[(b'authorization', b'***'), (b'host', b'h')]"),
    ("curl -H 'Authorization: Bearer HIDE' https://host", "curl -H 'Authorization: ***' https://host"),
    ("Bearer HIDE was rejected", "Bearer *** was rejected"),
    ("sent basic HIDE== to h", "sent basic *** to h"),
    # JSON and reprs
    ('{"password": "HI\\"DE", "a": 1}', '{"password": "***", "a": 1}'),
    (json.dumps(json.dumps({"password": "HIDE", "a": 1})), r'"{\"password\": \"***\", \"a\": 1}"'),
    (json.dumps(json.dumps({"password": 'HI"DE\\', "a": 1})), r'"{\"password\": \"***\", \"a\": 1}"'),
    (repr(json.dumps({"password": 'HI"DE', "a": 1})), """'{"password": "***", "a": 1}'"""),
    (json.dumps({"password": "HIDE\\", "a": 1}), '{"password": "***", "a": 1}'),
    ('{"apiKey":"HIDE","url":"https://h"}', '{"apiKey":"***","url":"https://h"}'),
    ("{'headers': {'Authorization': 'Bearer HIDE'}}", "{'headers': {'Authorization': '***'}}"),
    ('{"pin": 1, "otp": HIDE}', '{"pin": 1, "otp": ***}'),
    ("cookies={'a': 'HIDE', 'b': [')HIDE']}, timeout=5", "cookies=***, timeout=5"),
    ("connect(host='h', password='HIDE', x=1)", "connect(host='h', password='***', x=1)"),
    ("connect(password=HIDE)", "connect(password=***)"),
    ("Settings(token=b'HIDE')", "Settings(token=b'***')"),
    ("environ['DB_PASSWORD'] = 'HIDE'", "environ['DB_PASSWORD'] = '***'"),
    ("'password' => 'HIDE'", "'password' => '***'"),
    ("assert password != 'HIDE'", "assert password != '***'"),
    ("myAccessToken: 'HIDE'", "myAccessToken: '***'"),
    ('"password": "HIDE that does not end', '"password": "***'),
    # command lines and sentences
    ("mysql --password HIDE -h x", "mysql --password *** -h x"),
    ("['mysql', '--password', 'HIDE', '-v']", "['mysql', '--password', '***', '-v']"),
    ("curl --api-key=HIDE", "curl --api-key=***"),
    ("invalid token 'HIDE' for x", "invalid token '***' for x"),
    ("login failed: token=HIDE.", "login failed: token=***."),
]

HARMLESS = [
    "",
    "connection refused",
    "redis://localhost:6379/0 is down",
    "kafka: h1:9092,h2:9092",
    "see (http://host:8080).",
    "http://[::1]:80/x",
    "http://host:8080/users/a@b.c",
    "ssh://git@github.com/x",
    "git@github.com:org/repo.git",
    "mail a@b.c at 12:30",
    r"C:\Users\a@b",
    'password authentication failed for user "bob"',
    "KeyError: 'password'",
    "missing 1 required keyword-only argument: 'password'",
    "Basic authentication required",
    "the bearer token has expired",
    'Bearer realm="x", error="invalid_token"',
    "tokens=5 max_tokens: 7 monkey: 3 author=x compass: north",
    "the secret is out",
    "password=",
    "password='' user=''",
]


class TestKnownForms:
    @pytest.mark.parametrize(("text", "masked"), [*URLS, *PAIRS])
    def test_the_secret_is_gone_and_the_rest_is_there(self, text: str, masked: str) -> None:
        """Which server, which user, which parameter: all but the secret helps whoever reads it."""
        assert "HI" in text
        assert mask_secrets(text) == masked

    @pytest.mark.parametrize("text", HARMLESS)
    def test_what_is_no_secret_stays(self, text: str) -> None:
        """A text without secrets is told word for word."""
        assert mask_secrets(text) == text

    @pytest.mark.parametrize(("text", "masked"), [*URLS, *PAIRS])
    def test_twice_is_as_good_as_once(self, text: str, masked: str) -> None:
        """A text that was masked below is not damaged above."""
        assert mask_secrets(masked) == masked

    @pytest.mark.parametrize("key", sorted(DEFAULT_REDACT_KEYS))
    def test_names_are_those_of_payloads(self, key: str) -> None:
        """Whatever loses its value in a payload does so in a text, in any case, alone and as the end of a name."""
        for name in (key, key.upper(), key.title(), f"my_{key}", f"X-Shop-{key}"):
            for text in (
                f"{name}=zq7",
                f"{name}: zq7",
                f'"{name}": "zq7"',
                f"'{name}': b'zq7'",
                f"?a=b&{name}=zq7&c=d",
            ):
                assert "zq7" not in mask_secrets(text), text


# Unmistakable: none of them is in a template by chance.
pieces = st.lists(st.sampled_from(["Zq7x", "kW3v", "0Jh5", "xX9q"]), min_size=1, max_size=4)
# "a,b=c" may be one value or two.
punctuation = re.sub("[=:]", "", string.punctuation)
no_quotes = re.sub("[\"'`<>]", "", string.punctuation)


@st.composite
def raw_secrets(draw: st.DrawFn, between: str) -> str:
    """A secret that is written as it is, with any punctuation inside."""
    parts = draw(pieces)
    glue = [draw(st.text(between, max_size=3)) for _ in parts]
    return "".join(part + text for part, text in zip(parts[:-1], glue, strict=False)) + parts[-1]


def assert_gone(masked: str) -> None:
    assert not re.search("Zq7x|kW3v|0Jh5|xX9q", masked), masked


class TestAnySecret:
    @given(secret=raw_secrets(punctuation))
    def test_written_as_it_is_after_a_name(self, secret: str) -> None:
        """No punctuation in a password lets its second half through."""
        for template in (
            "password={} x=1",
            "?token={}",
            "a;Password={}",
            "x-api-key: {}",
            "(secret={})",
            "'api_key={}'",
        ):
            assert_gone(mask_secrets(template.format(secret)))

    # With an "@" and a "/", or another "://", nobody can tell where it ends.
    @given(secret=raw_secrets(re.sub("[@:]", "", no_quotes)) | raw_secrets(re.sub("[/?#]", "", no_quotes)))
    def test_written_as_it_is_in_a_url(self, secret: str) -> None:
        """Also where it should have been escaped, and was not."""
        for template in ("amqp://bob:{}@host:5672/v", "'amqp://:{}@host'", "x (amqp://bob:{}@host)"):
            assert_gone(mask_secrets(template.format(secret)))

    @given(secret=st.text(min_size=1).map(lambda text: f"Zq7x{text}kW3v"))
    def test_quoted(self, secret: str) -> None:
        """By Python, by JSON, by a URL: whatever it is made of, it is gone and nothing else is."""
        assert mask_secrets(f"f(password={secret!r}, x=1)") in ("f(password='***', x=1)", 'f(password="***", x=1)')
        data = {"password": secret, "user": "bob"}
        assert mask_secrets(json.dumps(data)) == '{"password": "***", "user": "bob"}'
        assert mask_secrets(repr(data)).endswith(", 'user': 'bob'}")
        assert_gone(mask_secrets(repr(data)))
        assert_gone(mask_secrets(json.dumps({"body": json.dumps(data)})))
        assert_gone(mask_secrets(json.dumps({"body": json.dumps({"body": json.dumps(data)})})))
        encoded = secret.encode("utf-8", "surrogatepass")
        assert mask_secrets(f"amqp://bob:{quote(encoded, safe='')}@h/v") == "amqp://bob:***@h/v"
        assert mask_secrets(f"/x?token={quote(encoded, safe='')}&a=b") == "/x?token=***&a=b"


class Loud(str):
    """A str that fights back."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")

    __contains__ = find = lower = __getitem__  # type: ignore[assignment]


class TestHostileTexts:
    @given(st.text())
    @example("\ud800password=\udfff x")
    def test_no_text_raises(self, text: str) -> None:
        """Any text at all, lone surrogates too, gives a text that is not too long."""
        masked = mask_secrets(text)
        assert type(masked) is str
        assert len(masked) <= MAX_LENGTH

    @given(
        st.lists(st.sampled_from([*"\"'`\\:/@=[]{}()<>,;&%-_. \n\r", "password", "token", "//", "Bearer ", "a", "3D"]))
    )
    def test_no_mixture_of_what_matters_raises(self, parts: list[str]) -> None:
        """All that the patterns look for, in any order."""
        assert len(mask_secrets("".join(parts))) <= max(MAX_LENGTH, 3 * len("".join(parts)))

    @pytest.mark.parametrize(
        "unit",
        [
            "a", " ", ".", "-", "\\", "\"'", "@", ":", "/", "//", "[", "{(", "password=", "password:", "token='", 'token="',
            'token=\\"', 'token=["\\"', "token=a,", "token=,", 'token=,b"  ', "http://a:", "x://a:b@", "a:b@c,", "\ntoken:",
            "'token:x ", "Authorization:", "Bearer ", "bearer  a= ", "--token ", "aB", "%26token%3D", "password ", "a\\",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("begin", ["", "token=", "http://a:", "token: [", 'x="'])
    def test_the_time_grows_with_the_length_only(self, begin: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A destination that answers with an evil text stops nothing: were one pattern quadratic, this would not end."""
        monkeypatch.setattr(masking, "_WINDOW", 1 << 30)
        masked = mask_secrets(begin + unit * (200_000 // len(unit)))
        assert len(masked) <= MAX_LENGTH

    def test_a_long_text_is_cut(self) -> None:
        """The beginning is kept, and one sees that there was more."""
        assert mask_secrets("x" * MAX_LENGTH) == "x" * MAX_LENGTH
        masked = mask_secrets("no such host: " + "x " * 10_000_000)
        assert len(masked) == MAX_LENGTH
        assert masked.startswith("no such host: x x")
        assert masked.endswith("...")

    @pytest.mark.parametrize("length", [*range(3_950, 4_060, 3), 5_000])
    def test_a_secret_at_the_cut_stays_hidden(self, length: int) -> None:
        """Half of a URL, or of a quoted value, does not look like a secret any more; it is not told all the same."""
        for secret in (
            "bob:Zq7xZq7xZq7xZq7xZq7xZq7x@host",
            "'password': 'Zq7x Zq7x Zq7x Zq7x'",
            "token=Zq7xZq7xZq7xZq7xZq7x",
        ):
            # What is masked at the beginning makes room for the end.
            begin = f"password='{'x' * (length - 30)}' "
            assert_gone(mask_secrets(begin + secret + " and more" * 1_000))

    def test_a_str_that_fights_back(self) -> None:
        """What it is made of counts, not what its methods do."""
        assert mask_secrets(Loud("token=Zq7x")) == "token=***"

    def test_no_text_at_all(self) -> None:
        """Whoever passes something else is told nothing."""
        assert mask_secrets(5) == "***"  # type: ignore[arg-type]


class TestDescribeError:
    def test_type_and_text(self) -> None:
        """As `LogSinkStats.last_error` has it."""
        assert describe_error(OSError("refused")) == "OSError: refused"
        assert describe_error(ValueError("amqp://a:Zq7x@h is wrong")) == "ValueError: amqp://a:***@h is wrong"
        assert describe_error(KeyError("password")) == "KeyError: 'password'"

    def test_without_text(self) -> None:
        """The name of the type is enough."""
        assert describe_error(TimeoutError()) == "TimeoutError"
        assert describe_error(KeyboardInterrupt()) == "KeyboardInterrupt"

    def test_an_exception_that_has_no_text_to_give(self) -> None:
        """One whose `__str__` raises, or returns no str, is still told of."""

        class Broken(Exception):
            def __str__(self) -> str:
                raise self

        class Wrong(Exception):
            def __str__(self) -> str:
                return 5  # type: ignore[return-value]

        class Odd(Exception):
            def __str__(self) -> str:
                return Loud("token=Zq7x")

        assert describe_error(Broken()) == "Broken"
        assert describe_error(Wrong()) == "Wrong"
        assert describe_error(Odd()) == "Odd: token=***"

    def test_the_type_is_no_name_of_a_secret(self) -> None:
        """`AccessToken: ...` of an exception of that name keeps its text."""

        class InvalidToken(Exception):
            pass

        assert describe_error(InvalidToken("it has expired")) == "InvalidToken: it has expired"

    def test_a_text_of_many_megabytes(self) -> None:
        """A server that answers with its whole life story fills neither memory nor screen."""
        text = describe_error(ValueError("x" * 50_000_000))
        assert len(text) <= MAX_LENGTH + len("ValueError: ")
