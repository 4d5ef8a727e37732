"""URLs of Redis: what they say, and what errors may repeat of them."""

import pytest

from shared.redis_url import RedisUrl, read_url, without_passwords


def test_a_plain_url_names_redis_itself() -> None:
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


def test_an_at_sign_in_the_query_is_no_end_of_credentials() -> None:
    url = read_url("redis+sentinel://a,b:2/m?sentinel_password=s@t")
    assert url.sentinels == (("a", 26379), ("b", 2))
    assert url.sentinel_options == {"password": "s@t"}


def test_sentinels_have_credentials_of_their_own_and_share_certificates() -> None:
    url = read_url(
        "rediss+sentinel://:secret@a/m?sentinel_username=s&sentinel_password=t&ssl_ca_certs=ca.pem"
    )
    tls = {"ssl_ca_certs": "ca.pem", "ssl_check_hostname": True}
    assert url.sentinel_options == {"username": "s", "password": "t"} | tls
    assert url.options["password"] == "secret"
    assert tls.items() <= url.options.items()


def test_host_names_are_checked_unless_the_url_says_otherwise() -> None:
    assert read_url("rediss://h").options["ssl_check_hostname"]
    assert not read_url("rediss://h?ssl_check_hostname=no").options["ssl_check_hostname"]
    assert "ssl_check_hostname" not in read_url("rediss://h?ssl_cert_reqs=none").options


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://a:1", "name of the master"),
        ("redis+sentinel://a,,b/m", "without a host"),
        ("redis+sentinel://a:99999/m", "Port out of range"),
        ("redis+sentinel://a/m?db=x", "'db'"),
        ("sentinel://a/m", "schemes"),
    ],
)
def test_a_sentinel_url_that_says_too_little_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@h:1/2",
        "redis://user:hush@h",
        "redis://user:hush@with@h/2",
        "unix:///redis.sock?db=1&password=hush",
        "redis+sentinel://u:hush@a:1,b:2/m/0?sentinel_password=hush&ssl_ca_certs=ca.pem",
    ],
)
def test_passwords_are_left_out(url: str) -> None:
    assert "hush" not in without_passwords(url)
    assert "***" in without_passwords(url)


def test_what_is_no_password_stays() -> None:
    for url in ("redis://h:6379/0", "unix:///redis.sock?db=1", "redis+sentinel://a:1,b:2/m"):
        assert without_passwords(url) == url
