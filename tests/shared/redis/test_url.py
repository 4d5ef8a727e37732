"""Redis URLs: their options, and errors that contain no part of a password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from shared.errors import SettingsError
from shared.redis.client import connect
from shared.redis.url import RedisUrl, read_url


def test_a_plain_url_names_a_server() -> None:
    url = read_url("redis://user:pass@h:1/2")
    options = {"username": "user", "password": "pass", "host": "h", "port": 1, "db": 2}
    assert url == RedisUrl(options)


def test_a_sentinel_url_names_sentinels_master_and_database() -> None:
    url = read_url("redis+sentinel://user:p%40ss@a:1,b,[::1]:3/the-master/2")
    assert url == RedisUrl(
        options={"username": "user", "password": "p@ss", "db": 2},
        service="the-master",
        sentinels=(("a", 1), ("b", 26379), ("::1", 3)),
        sentinel_options={},
    )


def test_an_at_sign_in_the_query_does_not_end_the_credentials() -> None:
    url = read_url("redis+sentinel://a,b:2/m?sentinel_password=s@t")
    assert url.sentinels == (("a", 26379), ("b", 2))
    assert url.sentinel_options == {"password": "s@t"}


def test_sentinels_have_their_own_credentials_and_share_certificates() -> None:
    url = read_url(
        "rediss+sentinel://:secret@a/m?sentinel_username=s&sentinel_password=t&ssl_ca_certs=ca.pem"
    )
    tls = {"ssl_ca_certs": "ca.pem", "ssl_check_hostname": True}
    assert url.sentinel_options == {"username": "s", "password": "t"} | tls
    assert url.options["password"] == "secret"
    assert tls.items() <= url.options.items()


def test_host_names_are_checked_unless_the_url_disables_it() -> None:
    assert read_url("rediss://h").options["ssl_check_hostname"]
    assert not read_url("rediss://h?ssl_check_hostname=no").options["ssl_check_hostname"]
    assert "ssl_check_hostname" not in read_url("rediss://h?ssl_cert_reqs=none").options


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://a:1", "name of the master"),
        ("redis+sentinel://a,,b/m", "without a host"),
        ("redis+sentinel://a:99999/m", "port a number up to 65535"),
        ("redis+sentinel://a/m?db=x", "'db' must be a number"),
        ("redis+sentinel://a/m/x", "database"),
        ("sentinel://a/m", "schemes"),
    ],
)
def test_an_incomplete_sentinel_url_is_an_error(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/2",
        "redis://",
        "redis:///3",
        "redis://:1",
        "redis://user@h",
        "redis://:p%25%2F%3f%23%40w@[::1]:7/0?max_connections=3&client_name=me",
        "rediss://u:p@h?ssl_ca_certs=a%20b.pem&ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1&password=p",
        "unix://u:p@/run/a%23b.sock",
    ],
)
def test_options_equal_the_options_of_redis_py(url: str) -> None:
    assert read_url(url).options == dict(parse_url(url))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_percent_encoded_password_is_decoded(password: str) -> None:
    for host in ("redis://:{}@h/1", "rediss://:{}@h", "unix://:{}@/s", "redis+sentinel://:{}@a/m"):
        assert read_url(host.format(quote(password, safe=""))).options["password"] == password


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_error_contains_a_part_of_the_password(middle: str) -> None:
    """The password consists of three-letter words that occur in no message."""
    password = f"Qzx{middle}Jqv"
    for host in ("redis://{}@h:1/0", "redis://:{}@h?db=1", "redis://u:{}@h", "unix://:{}@/s"):
        try:
            connect(host.format(password), name="test")
        except SettingsError as error:
            assert error.__cause__ is None
            assert "Qzx" not in error.message
            assert "Jqv" not in error.message


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel"])
@pytest.mark.parametrize(
    "password",
    [
        "a/b",
        "a#b",
        "a?b",
        "a@b",
        "a%b",
        "50%",
        "12/34",
        "12#34",
        "1?x=2",
        "1?db=2",
        "a b",
        "/",
        "a/?b",
    ],
)
def test_a_password_without_percent_encoding_is_an_error(scheme: str, password: str) -> None:
    host = "/s" if scheme == "unix" else "h/m"
    for user in ("", "user"):
        with pytest.raises(ValueError, match="percent-encoded") as caught:
            read_url(f"{scheme}://{user}:{password}@{host}")
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "option",
    [
        *("decode_responses=True", "encoding=latin-1", "encoding_errors=ignore", "protocol=3"),
        *("single_connection_client=1", "health_check_interval=1", "socket_timeout=1"),
        *("retry_on_timeout=no", "retry_on_error=x", "parser_class=x", "ssl_ca_certs=ca.pem"),
        *("host=elsewhere", "sentinel_password=x", "nonsense=1"),
    ],
)
def test_an_unknown_option_is_an_error_with_its_name(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(ValueError, match=f"'{name}' is not allowed; these are: db, "):
        read_url(f"redis://h?{option}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("db=-1", "'db' must be a number"),
        ("max_connections=many", "'max_connections' must be a number"),
        ("ssl_check_hostname=perhaps", "'ssl_check_hostname' must be yes or no"),
        ("db", "'db' must be a number"),
        ("=1", "name=value"),
    ],
)
def test_a_wrong_value_is_an_error_with_the_name_of_its_option(option: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_url(f"rediss://h?{option}")


def test_the_scheme_selects_the_connection_class() -> None:
    assert "connection_class" not in read_url("redis://h").options
    assert read_url("rediss://h").options["connection_class"] is SSLConnection
    assert read_url("unix:///s").options["connection_class"] is UnixDomainSocketConnection


def test_a_line_break_after_the_url_is_ignored() -> None:
    assert read_url("redis://h/1\n") == read_url("redis://h/1")


def test_a_url_outside_utf_8_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_url("redis://:\udcff@h")  # how Python reads the byte 0xff of a variable
