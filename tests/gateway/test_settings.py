from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.devices import MqttAddress
from gateway.settings import BadSettings, Settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEETPUSH_HTTP_PORT", raising=False)
    return tmp_path


def test_flag_over_variable_over_file_over_default(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().http_port == 8080
    (nowhere / "fleetpush.toml").write_text("http_port = 1\n")
    assert Settings.load().http_port == 1
    monkeypatch.setenv("FLEETPUSH_HTTP_PORT", "2")
    assert Settings.load().http_port == 2
    assert Settings.load(http_port=3).http_port == 3


def test_another_file_can_be_named(nowhere: Path) -> None:
    (nowhere / "other.toml").write_text("mailbox_deliveries = 5\n")
    assert Settings.load(nowhere / "other.toml").mailbox_deliveries == 5
    with pytest.raises(BadSettings, match="no such file"):
        Settings.load(nowhere / "missing.toml")


def test_an_installed_environment_may_bring_its_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Debian package's does. A file in the working directory wins, and one that is named."""
    (nowhere / "environment").mkdir()
    monkeypatch.setattr(sys, "prefix", str(nowhere / "environment"))
    assert Settings.load().http_port == 8080
    (nowhere / "environment" / "fleetpush.toml").write_text("http_port = 4\n")
    assert Settings.load().http_port == 4
    (nowhere / "environment" / "fleetpush.toml").write_text("http_port = 'x'\n")
    with pytest.raises(BadSettings, match=r"http_port in .*/environment/fleetpush\.toml"):
        Settings.load()
    (nowhere / "fleetpush.toml").write_text("http_port = 1\n")
    assert Settings.load().http_port == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http_prt = 1", "did you mean 'http_port'"),
        ("http_port = 'x'", "http_port in fleetpush.toml"),
        ("http_port =", "fleetpush.toml"),
        ("max_payload = 1000000", "less than or equal to 262144"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(nowhere: Path, text: str, says: str) -> None:
    (nowhere / "fleetpush.toml").write_text(text)
    with pytest.raises(BadSettings) as mistake:
        Settings.load()
    assert says in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_mistake_in_a_variable_or_flag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPUSH_HTTP_PORT", "many")
    with pytest.raises(BadSettings, match="FLEETPUSH_HTTP_PORT: 'many'"):
        Settings.load()
    with pytest.raises(BadSettings, match="--mqtt-port"):
        Settings.load(http_port=1, mqtt_port=70_000)


def test_bytes_may_be_written_with_their_unit(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, number in (("32 MiB", 32 << 20), ("512KiB", 512 << 10), ("1 gib", 1 << 30), ("4,096", 4096), ("70", 70)):
        monkeypatch.setenv("FLEETPUSH_DISK_RESERVE", text)
        assert Settings.load().disk_reserve == number
    Path("fleetpush.toml").write_text('mailbox_bytes = "8 MiB"\nmax_attachment = 70_000')
    settings = Settings.load(max_payload="8 KiB", attachment_storage="2 GiB")
    assert (settings.mailbox_bytes, settings.max_attachment) == (8 << 20, 70_000)
    assert (settings.max_payload, settings.attachment_storage) == (8192, 2 << 30)
    for text in ("32 MB", "much", "-1", "1.5 GiB", "1,2", ""):
        monkeypatch.setenv("FLEETPUSH_DISK_RESERVE", text)
        with pytest.raises(BadSettings, match=rf"FLEETPUSH_DISK_RESERVE: '{text}': a number of bytes, .* 32 MiB"):
            Settings.load()
    monkeypatch.delenv("FLEETPUSH_DISK_RESERVE")
    with pytest.raises(BadSettings, match=r"--max-payload: '1 MiB': .*less than or equal to 262144"):
        Settings.load(max_payload="1 MiB")


def test_addresses_are_addresses(nowhere: Path) -> None:
    for bind in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        assert Settings.load(bind=bind).loopback
    with pytest.raises(BadSettings, match="--bind"):
        Settings.load(bind="my host")


@pytest.mark.parametrize(
    "url", ["https://push.example", "http://10.0.0.5:8080", "https://[2001:db8::1]:8443", "https://localhost"]
)
def test_the_public_url_is_an_origin(nowhere: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert Settings.load().public_url is None
    Path("fleetpush.toml").write_text(f"public_url = '{url}'")
    assert Settings.load().public_url == url
    monkeypatch.setenv("FLEETPUSH_PUBLIC_URL", "HTTPS://Push.Example:443")
    assert Settings.load().public_url == "https://push.example:443"
    assert Settings.load(public_url=url).public_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "push.example",
        "ftp://push.example",
        "https://",
        "https://push.example/",
        "https://push.example/push",
        "https://push.example?a=b",
        "https://push.example#a",
        "https://user@push.example",
        "https://push.example:",
        "https://push.example:0",
        "https://push.example:65536",
        "https://push example",
        "https://[2001:db8::1",
        "https://[1:2]",
        "https://push.example\n",
    ],
)
def test_anything_else_is_no_public_url(url: str) -> None:
    with pytest.raises(BadSettings, match=r"--public-url: .*no origin") as mistake:
        Settings.load(public_url=url)
    assert "\n" not in str(mistake.value)


def test_lists_come_from_flags_variables_and_the_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().trusted_proxies == ()
    Path("fleetpush.toml").write_text('trusted_proxies = ["10.0.0.0/8", "::1"]')
    assert Settings.load().trusted_proxies == ("10.0.0.0/8", "::1")
    monkeypatch.setenv("FLEETPUSH_TRUSTED_PROXIES", "192.0.2.1, 192.0.2.2")
    assert Settings.load().trusted_proxies == ("192.0.2.1", "192.0.2.2")
    assert Settings.load(trusted_proxies=["192.0.2.3"]).trusted_proxies == ("192.0.2.3",)


def test_each_of_the_two_has_a_port_of_its_own(nowhere: Path) -> None:
    with pytest.raises(BadSettings, match="mqtt_port and http_port are both 8080: each needs a port of its own"):
        Settings.load(mqtt_port=8080)
    assert Settings.load(mqtt_port=0, http_port=0).mqtt_port == 0


def test_a_faster_clock_is_for_loopback() -> None:
    assert Settings.load(clock_speed=10).clock_speed == 10
    with pytest.raises(BadSettings, match="loopback"):
        Settings.load(clock_speed=10, bind="0.0.0.0", insecure=True)


def test_an_identity_provider_needs_to_know_who_asks_and_who_may_what(nowhere: Path) -> None:
    issuer = "https://id.example/realms/shops"
    settings = Settings.load(oidc_issuer=issuer, oidc_client_id="x", oidc_roles=("CN=Shops,OU=Groups=viewer@hotel",))
    assert settings.oidc_issuer == issuer
    for missing in ({"oidc_client_id": "x"}, {"oidc_roles": ("a=admin",)}):
        with pytest.raises(BadSettings, match="oidc_client_id, and oidc_roles"):
            Settings.load(oidc_issuer=issuer, **missing)


@pytest.mark.parametrize(
    "issuer",
    [
        "id.example",
        "http://id.example",
        "https://u@id.example",
        "https://id.example/?x=1",
        "https://[id",
        "ftp://x",
        "",
    ],
)
def test_an_issuer_is_an_address_with_tls(nowhere: Path, issuer: str) -> None:
    with pytest.raises(BadSettings, match="--oidc-issuer"):
        Settings.load(oidc_issuer=issuer, oidc_client_id="x", oidc_roles=("a=admin",))


@pytest.mark.parametrize(
    "role", ["admins", "admins=root", "=admin", "admins=admin@", "admins=admin@No App", "a=admin@b@c"]
)
def test_a_role_is_written_as_value_role_and_app(nowhere: Path, role: str) -> None:
    with pytest.raises(BadSettings, match="VALUE=ROLE@APP"):
        Settings.load(oidc_roles=(role,))


NODE: dict[str, Any] = {"database": "postgresql://fleetpush@127.0.0.1/ledger", "node_url": "http://127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"database": None}, "which database"),
        ({"node_url": "http://0.0.0.0:8080"}, "none that others can reach"),
        ({"node_url": "http://[::]:8080"}, "none that others can reach"),
        ({"node_url": "10.0.0.5:8080"}, "no origin"),
        ({"node_url": "http://10.0.0.5:8080/nodes"}, "no origin"),
        ({"node_url": "http://10.0.0.5:8080"}, "listens on 127.0.0.1 alone"),
        ({"http_port": 0}, "a port that stays"),
        ({"clock_speed": 2}, "clock_speed is 1"),
    ],
)
def test_a_node_that_others_would_not_find_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        Settings.load(**(NODE | given))


def test_a_node_is_found_by_name_or_address() -> None:
    assert Settings.load(**NODE).node_url == "http://127.0.0.1:8080"
    elsewhere = NODE | {"bind": "10.0.0.5", "insecure": True}
    for url in ("http://10.0.0.5:8080", "https://node1.example", "http://[2001:db8::5]:8080"):
        assert Settings.load(**(elsewhere | {"node_url": url})).node_url == url


@pytest.mark.parametrize(
    "url", ["push.example:8883", "mqtts://push.example", "https://push.example:443", "mqtt://:1883"]
)
def test_devices_are_sent_to_no_place_that_is_none(url: str) -> None:
    with pytest.raises(BadSettings, match="no address of MQTT"):
        Settings.load(public_mqtt=url)
    assert Settings.load(public_mqtt="MQTTS://Push.example:8883").public_mqtt == "mqtts://push.example:8883"


def test_devices_are_told_the_balancer() -> None:
    own = MqttAddress("10.0.0.11", 1883, False, "wss://push.example/mqtt")
    assert own.reached_at(None) == own
    assert own.reached_at("mqtts://push.example:8883") == ("push.example", 8883, True, "wss://push.example/mqtt")
    assert own.reached_at("mqtt://[2001:db8::5]:1883")[:3] == ("2001:db8::5", 1883, False)
