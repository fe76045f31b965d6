from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.listener_config import BadListenerConfig, addresses, load_listener_config
from gateway.settings import Settings
from tests.certificates import Authority


def at(folder: Path, **given: Any) -> list[str]:
    settings = Settings.load(data_dir=folder, **given)
    return [str(address) for address in addresses(settings, load_listener_config(settings))]


def test_an_address_that_others_reach_needs_tls_or_a_word(tmp_path: Path) -> None:
    for bind in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(BadListenerConfig, match=r"tls init.*--insecure"):
            at(tmp_path, bind=bind)
        assert len(at(tmp_path, bind=bind, insecure=True)) == 1
    assert at(tmp_path, bind="localhost", mqtt_port=0) == ["mqtt://127.0.0.1:0"]
    with pytest.raises(BadListenerConfig, match="listen"):
        at(tmp_path, listen=["ws://0.0.0.0:9001/mqtt"])
    with pytest.raises(BadListenerConfig, match="certificate"):
        at(tmp_path, listen=["mqtts://127.0.0.1:8883"])


def test_with_a_certificate_the_main_port_speaks_tls(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server", "localhost")
    given = {"tls_cert": pair.certificate, "tls_key": pair.key}
    assert at(tmp_path, bind="0.0.0.0", **given) == ["mqtts://0.0.0.0:1883"]
    assert at(tmp_path, listen=["ws://127.0.0.1:0", "unix:/run/f.sock"], **given)[1:] == [
        "ws://127.0.0.1:0/mqtt",
        "unix:/run/f.sock",
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"listen": ["http://127.0.0.1:1"]}, "mqtt://"),
        ({"listen": ["mqtt://kiosk:1"]}, "0.0.0.0"),
        ({"listen": ["mqtt://127.0.0.1:0?proxy=v2"]}, "--trusted-proxies"),
        ({"listen": ["mqtt://127.0.0.1:0?proxy=v1"]}, "proxy=v2"),
        ({"trusted_proxies": ["proxy.example"]}, "proxy.example"),
        ({"ws_origins": ["kiosk.example"]}, "https://"),
        ({"tls_cert": "missing.pem", "tls_key": "missing.key"}, "missing.pem"),
        ({"tls_cert": "missing.pem"}, "tls_key"),
        ({"client_certificates": "required"}, "tls init"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, given: dict[str, Any], named: str) -> None:
    with pytest.raises(BadListenerConfig, match=named):
        at(tmp_path, **given)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("one", "localhost"), authority.issue("other", "localhost")
    with pytest.raises(BadListenerConfig, match="not the key"):
        at(tmp_path, tls_cert=one.certificate, tls_key=other.key)
    with pytest.raises(BadListenerConfig, match="--tls-ca"):
        at(tmp_path, tls_cert=one.certificate, tls_key=one.key, client_certificates="required")
