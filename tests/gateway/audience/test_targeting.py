from __future__ import annotations

from gateway.audience.targeting import device_rows, select_sql
from gateway.delivery.push import Target
from tests.gateway.delivery.machinery import add_device, fresh_database


def test_only_live_devices_of_the_app_are_addressed() -> None:
    connection = fresh_database()
    connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'shop', 0)")
    for number in (1, 2, 3):
        add_device(connection, number, f"d{number}")
        connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'lobby', ?)", (number,))
    connection.execute("UPDATE device SET removed_at = 1 WHERE no = 2")
    add_device(connection, 4, "foreign")
    connection.execute("UPDATE device SET app_no = 2 WHERE no = 4")
    assert device_rows(connection, 1, ["d1", "d2", "d3", "foreign", "nobody"]) == {"d1": 1, "d3": 3}
    for target in (Target(all=True), Target(tag="lobby")):
        select, parameters = select_sql(1, target)
        assert connection.execute(select, parameters).fetchall() == [(1,), (3,)]
    select, parameters = select_sql(1, Target(tag="roof"))
    assert connection.execute(select, parameters).fetchall() == []
    connection.close()
