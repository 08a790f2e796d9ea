"""The contract of a sink's options, as a table that its author fills in.

::

    class TestMySinkOptions(SinkOptionsConformance):
        sink_class = MySink
        options = {"host": "127.0.0.1", "port": 1}
        urls = {"my://:a-secret-token@one:7000": {"host": "one", "port": 7000, "token": "a-secret-token"}}
        wrong_urls = {"my://one:x": "port"}
        wrong_options = [({"port": 0}, "port: expected 1 to 65535")]
        other_resource = {"host": "two"}
        same_resource = {"token": "another"}
        secrets = {"token": "a-secret-token"}
        clients = {"acme_client": "pip install acme-client"}

No server is needed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from .. import selflog
from ..bridge.config import find_sink_class, plan_sink, resolve_sink, sink_from_url
from ..errors import LogConfigurationError, LoggerError
from ..model import LogEvent, LogEventMeta
from ..options import check_options, get_options

__all__ = ["SinkOptionsConformance"]


_PARTS = {
    "test_a_url_says_what_keywords_say": "urls",
    "test_a_wrong_url_is_refused": "wrong_urls",
    "test_a_wrong_option_is_named": "wrong_options",
    "test_an_unknown_option_of_a_url_is_named": "urls",
    "test_no_secret_is_told": "secrets",
    "test_a_missing_client_is_told": "clients",
    "test_clients_are_not_imported_before_use": "clients",
}
"""The tests that need a part of the table."""


class SinkOptionsConformance:
    """Subclass it in a test module, under a name that pytest collects, and fill in the attributes.

    Attributes:
        sink_class: The class to test.
        options: Options that are enough to create a sink. Nothing has to listen where they point.
        urls: What each URL says, as keyword arguments. Each of ``url_schemes`` has to be among them.
        wrong_urls: URLs that are refused, with a part of the error.
        wrong_options: Options that are refused, with the beginning of the error: it names the option. `options` stand
            beside them.
        constructor_checks: ``create`` itself refuses wrong options, too. What is configured is checked before it is called.
        other_resource: Options that each send events to another place.
        same_resource: Options that each make another sink for the same place.
        secrets: Options with values that nobody may ever see.
        beside_secrets: Options without which these are not allowed, e.g. a username.
        clients: Packages that are imported when a sink starts, with what the error says where one is missing.
        client_options: Options without which a package is not needed, by the package.
        patience: How long anything may take, in seconds.
    """

    sink_class: ClassVar[type[Any]]
    options: ClassVar[Mapping[str, Any]] = {}
    urls: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    wrong_urls: ClassVar[Mapping[str, str]] = {}
    wrong_options: ClassVar[Sequence[tuple[Mapping[str, Any], str]]] = ()
    constructor_checks: ClassVar[bool] = False
    other_resource: ClassVar[Mapping[str, Any]] = {}
    same_resource: ClassVar[Mapping[str, Any]] = {}
    secrets: ClassVar[Mapping[str, str]] = {}
    beside_secrets: ClassVar[Mapping[str, Any]] = {}
    clients: ClassVar[Mapping[str, str]] = {}
    client_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    patience: ClassVar[float] = 30.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What needs a part of the table that is empty is no test, rather than one that is skipped."""
        super().__init_subclass__(**kwargs)
        for test, part in _PARTS.items():
            if test not in vars(cls):
                setattr(cls, test, vars(SinkOptionsConformance)[test] if getattr(cls, part) else None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each line of the table."""
        cls: Any = metafunc.cls
        names = set(metafunc.fixturenames)
        if {"url", "keywords"} <= names:
            metafunc.parametrize(("url", "keywords"), list(cls.urls.items()), ids=list(cls.urls))
        elif {"wrong_url", "text"} <= names:
            metafunc.parametrize(("wrong_url", "text"), list(cls.wrong_urls.items()), ids=list(cls.wrong_urls))
        elif {"wrong", "text"} <= names:
            metafunc.parametrize(("wrong", "text"), cls.wrong_options, ids=[text for _, text in cls.wrong_options])
        elif "client" in names:
            metafunc.parametrize("client", list(cls.clients))

    @pytest.fixture(autouse=True)
    def _reports(self) -> Iterator[None]:
        self.reports: list[str] = []
        selflog.redirect(lambda report: self.reports.append(repr(report)))
        interval = selflog.get_interval()
        selflog.set_interval(0)
        yield
        selflog.redirect(None)
        selflog.set_interval(interval)

    # ------------------------------------------------------------------ options and URLs

    def test_a_url_says_what_keywords_say(self, url: str, keywords: Mapping[str, Any]) -> None:
        """A URL, a mapping and keyword arguments make the same sink."""
        plan = plan_sink(url)
        assert plan.sink_cls is self.sink_class
        assert dict(plan.options) == check_options(self.sink_class, keywords)
        assert plan.descriptor == self.sink_class.build_descriptor(**keywords)
        assert plan.descriptor == plan_sink({"class": self.sink_class, **keywords}).descriptor

    def test_its_schemes(self) -> None:
        """Each scheme finds the class, and is in the table."""
        schemes = set(getattr(self.sink_class, "url_schemes", ()))
        for scheme in schemes:
            assert find_sink_class(scheme) is self.sink_class, f"{scheme} is the scheme of another class"
        missing = schemes - {url.partition(":")[0] for url in self.urls}
        assert not missing, f"`urls` has no URL with {', '.join(sorted(missing))}"

    def test_a_wrong_url_is_refused(self, wrong_url: str, text: str) -> None:
        """The error says what is wrong, and quotes no secret."""
        with pytest.raises(LoggerError) as caught:
            _close(sink_from_url(wrong_url))
        assert text in str(caught.value)
        self._check_silent(str(caught.value))

    def test_a_wrong_option_is_named(self, wrong: Mapping[str, Any], text: str) -> None:
        """The error begins with the option, says what would be right, and quotes no secret."""
        options = {**self.options, **wrong}
        with pytest.raises(LoggerError) as caught:
            _release(resolve_sink({"class": self.sink_class, **options}))
        errors = list(_chain(caught.value))
        told = [error.removeprefix("sink.") for error in errors]
        assert any(error.startswith(text) for error in told), f"no error begins with {text!r}: {errors}"
        if self.constructor_checks:
            name = text.partition(":")[0].partition("[")[0].partition(".")[0]
            with pytest.raises((LoggerError, TypeError, ValueError)) as created:
                self.sink_class.create(**options)[1]()
            errors.append(str(created.value))
            assert name in errors[-1], f"create() does not name {name}: {errors[-1]}"
        self._check_silent(*errors)

    def test_an_unknown_option_is_named(self) -> None:
        """By keyword and in a mapping."""
        with pytest.raises((LoggerError, TypeError, ValueError), match="no_such_option"):
            self.sink_class.build_descriptor(**self.options, no_such_option=1)
        with pytest.raises(LogConfigurationError, match="no_such_option"):
            plan_sink({"class": self.sink_class, **self.options, "no_such_option": 1})

    def test_an_unknown_option_of_a_url_is_named(self) -> None:
        """In the query, whatever the scheme."""
        for scheme in getattr(self.sink_class, "url_schemes", ()):
            url = next(url for url in self.urls if url.startswith(f"{scheme}:"))
            with pytest.raises(LogConfigurationError, match="no_such_option"):
                plan_sink(f"{url}{'&' if '?' in url else '?'}no_such_option=1")

    def test_a_required_option_is_asked_for(self) -> None:
        """The error names what is missing."""
        for option in get_options(self.sink_class).values():
            if option.required and option.name in self.options:
                options = {name: value for name, value in self.options.items() if name != option.name}
                with pytest.raises(LogConfigurationError, match=rf"^{option.name}: missing"):
                    check_options(self.sink_class, options)

    # ------------------------------------------------------------------ descriptors

    def test_equal_options_are_one_sink(self) -> None:
        """Descriptors of equal options are equal, and can be hashed."""
        one, other = (self.sink_class.build_descriptor(**self.options) for _ in range(2))
        assert one == other
        assert hash(one) == hash(other)

    def test_the_resource_is_where_events_go(self) -> None:
        """Every option makes a difference; those that say where events go make another resource."""
        base = self.sink_class.build_descriptor(**self.options)
        for name, value in self.other_resource.items():
            found = self.sink_class.build_descriptor(**{**self.options, name: value})
            assert found.resource_key != base.resource_key, f"{name} does not say where events go"
        for name, value in self.same_resource.items():
            found = self.sink_class.build_descriptor(**{**self.options, name: value})
            assert found.resource_key == base.resource_key, f"{name} says where events go"
            assert found != base, f"{name} makes no difference"

    def test_no_secret_is_told(self) -> None:
        """Not by a descriptor, ``repr``, the statistics, an error, or what the logger reports of itself."""
        options = {**self.options, **self.beside_secrets, **self.secrets}
        descriptor = self.sink_class.build_descriptor(**options)
        for name, secret in self.secrets.items():
            other = self.sink_class.build_descriptor(**{**options, name: f"{secret}-2"})
            assert other != descriptor, f"{name} makes no difference"
            assert other.resource_key == descriptor.resource_key, f"{name} is no resource"
        texts = [repr(descriptor), repr(descriptor.to_log_payload())]
        with pytest.raises((LoggerError, TypeError, ValueError)) as caught:
            check_options(self.sink_class, {**options, "no_such_option": 1})
        texts.append(str(caught.value))
        sink, close = self.sink_class.create(**options, **({"shutdown_timeout": 0.0} if _has_worker(self) else {}))
        try:
            sink.log(LogEvent(20, LogEventMeta("conformance", "secret"), None, 0.0, {}))
            deadline = time.monotonic() + self.patience
            while _has_worker(self) and sink.stats().last_error is None and time.monotonic() < deadline:
                time.sleep(0.005)
            texts += [repr(sink), repr(sink.stats()) if hasattr(sink, "stats") else ""]
        finally:
            close()
        self._check_silent(*texts, *self.reports)

    # ------------------------------------------------------------------ client libraries

    def test_a_missing_client_is_told(self, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error says what to install."""
        monkeypatch.setitem(sys.modules, client, None)
        with pytest.raises(LoggerError) as caught:
            self.sink_class.create(**{**self.options, **self.client_options.get(client, {})})[1]()
        assert self.clients[client] in str(caught.value)

    def test_clients_are_not_imported_before_use(self) -> None:
        """A program that only names the sink, or has it in its configuration, does not pay for them."""
        module, name = self.sink_class.__module__, self.sink_class.__qualname__
        program = (
            f"import sys, {module}; {module}.{name}.build_descriptor(**{dict(self.options)!r}); "
            f"print([name for name in {list(self.clients)!r} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
        assert done.stdout.strip() == "[]", f"imported too early: {done.stdout}"

    def _check_silent(self, *texts: str) -> None:
        for text in texts:
            found = [name for name, secret in self.secrets.items() if secret in text]
            assert not found, f"the value of {found[0]} is in {text!r}"


def _has_worker(test: SinkOptionsConformance) -> bool:
    from ..delivery.sink import AsyncioLogSink

    return issubclass(test.sink_class, AsyncioLogSink)


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__


def _close(sink: Any) -> None:
    if hasattr(sink, "close"):
        sink.close()


def _release(lease: Any) -> None:
    lease.release()
