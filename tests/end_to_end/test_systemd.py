"""The shipped units under a real systemd, hardened as they are: a reload, a restart, a stalled loop, a wrong start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.systemd import machine

DEPLOY = Path(__file__).resolve().parents[2] / "gateway" / "deploy"
SCRIPT = r"""
fact() { echo "$1=${2//$'\n'/ }" >> facts; }
shown() { systemctl show -P "$1" fleetpush.service; }
call() {
    key="Authorization: Bearer $(cat /var/lib/fleetpush/data/admin.key)"
    curl -s -m 20 -o /dev/null -w '%{http_code}' -H "$key" -H 'Content-Type: application/json' "$@"
}
knock() { curl -s -o /dev/null -m 60 -w '%{http_code} %{exitcode}\n' http://127.0.0.1:8080/healthz; }

systemctl start fleetpush.service; fact started $?
fact status "$(shown StatusText)"
for name in Uid CapBnd NoNewPrivs Seccomp; do
    fact $name "$(grep -oP "^$name:\s+\K\S+" /proc/$(shown MainPID)/status)"
done
fact enrolled "$(call -d '{"device_id": "kiosk-1"}' http://127.0.0.1:8080/v1/devices)"
fact pushed "$(call -d '{"target": {"all": true}}' http://127.0.0.1:8080/v1/pushes)"
systemctl reload fleetpush.service; fact reloaded "$? $(shown ActiveState)"
systemctl stop fleetpush.service; fact stopped "$? $(shown Result) $(shown ExecMainStatus)"

systemctl start fleetpush.socket fleetpush.service; fact with_sockets $?
( while [ ! -e enough ]; do knock; done > codes ) &
timeout 10 bash -c 'until [ -s codes ]; do :; done'
systemctl restart fleetpush.service; fact restarted $?
touch enough; wait
fact codes "$(sort codes | uniq -c | tr -s ' ')"

printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' > /etc/units/fleetpush.service.d/watchdog.conf
systemctl daemon-reload; systemctl restart fleetpush.service
first=$(shown MainPID)
sleep 5; fact pinged "$([ $(shown MainPID) = $first ] && echo yes)"
kill -STOP $first
for _ in $(seq 200); do [ "$(shown NRestarts) $(shown ActiveState)" = "1 active" ] && break; sleep 0.1; done
fact after_watchdog "$(shown NRestarts) $(shown ActiveState)"

echo 'nonsense = 1' >> /etc/fleetpush/fleetpush.toml
systemctl restart fleetpush.service
sleep 4; fact wrong "$(shown ActiveState) $(shown ExecMainStatus) $(shown NRestarts)"
"""


@pytest.mark.full_only  # half a minute of a machine; what each line does is tested one by one
def test_the_shipped_units_under_systemd(tmp_path: Path) -> None:
    with machine(tmp_path, DEPLOY, SCRIPT, seconds=150) as facts:
        assert (facts["started"], facts["status"]) == ("0", "serving 0 connections")
        assert facts["Uid"] != "0"
        assert int(facts["CapBnd"], 16) == 0
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert (facts["enrolled"], facts["pushed"]) == ("201", "202")
        assert facts["reloaded"] == "0 active"
        assert facts["stopped"] == "0 success 0"
        assert (facts["with_sockets"], facts["restarted"]) == ("0", "0")
        assert facts["codes"].split()[1:] == ["200", "0"], "no connection was refused"
        assert facts["pinged"] == "yes"
        assert facts["after_watchdog"] == "1 active"
        assert facts["wrong"] == "failed 2 0"
        log = (tmp_path / "stderr").read_text()
    assert "unknown setting 'nonsense'" in log
    assert "Traceback" not in log
