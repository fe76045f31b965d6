"""`fleetpush templates`: contents of pushes by name, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import (
    AsJson,
    DataDir,
    ServerUrl,
    Values,
    client_of,
    command_group,
    json_in,
    json_of,
    name_and_value,
    name_and_version,
)
from gateway.cli.push import print_rendered
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, fail, note, print_facts, print_json

templates = command_group("Set, list, show, preview, remove the templates that pushes are made with.")

TemplateName = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Its name, as pushes have it")]


@templates.command("set")
def templates_set(
    name: TemplateName,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Its content as JSON, - for stdin; or use the options")
    ] = None,
    title: Annotated[str | None, typer.Option(help="First line of the notification, in Liquid")] = None,
    body: Annotated[str | None, typer.Option(help="Text of the notification, in Liquid")] = None,
    channel: Annotated[str | None, typer.Option(help="Channel by which people can mute it")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for, for people")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Save a template: a new version, unless nothing has changed."""
    content: dict[str, Any] = {"channel": channel, "description": description}
    notification = {field: text for field, text in (("title", title), ("body", body)) if text is not None}
    content = {field: value for field, value in content.items() if value is not None}
    if notification:
        content["notification"] = notification
    if file is not None:
        if content:
            fail("a file has the whole content: give either it or options", 2)
        content = json_in(file)
    if not content:
        fail(f"what should it say? Give a file, or --title and --body: {PROGRAM} templates set lunch --title Lunch", 2)
    with client_of(server, data_dir) as client:
        saved = client.call("PUT", f"/v1/templates/{segment(name)}", json=content)
    if as_json:
        print_json(saved)
    else:
        note(f"{name} is at version {saved['version']}")


@templates.command("list")
def templates_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All templates, by name."""
    columns: Columns = {"template": "name", "version": "version", "bytes": "size", "updated at": "updated_at"}
    empty = f"No templates yet. Make one: {PROGRAM} templates set lunch --title 'Lunch' --body '{{{{ values.dish }}}}'"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/templates", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@templates.command("show")
def templates_show(
    name: TemplateName,
    version: Annotated[int | None, typer.Option(min=1, help="One of the 20 newest. Default: the newest")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One template: its content, and which versions are kept."""
    path = f"/v1/templates/{segment(name)}"
    with client_of(server, data_dir) as client:
        found = client.call("GET", path if version is None else f"{path}/versions/{version}")
    if as_json:
        print_json(found)
        return
    facts = {field: value for field, value in found.items() if field not in ("content", "versions")} | found["content"]
    if "versions" in found:
        facts["versions"] = ", ".join(str(kept["version"]) for kept in found["versions"])
    print_facts(facts)


@templates.command("remove")
def templates_remove(name: TemplateName, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a template with all its versions. What was sent with it stays as it was."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/templates/{segment(name)}")
    note(f"removed {name}")


@templates.command("preview")
def templates_preview(
    name: Annotated[str, typer.Argument(metavar="TEMPLATE[@VERSION]", help="Its name, as pushes have it")],
    device: Annotated[str, typer.Argument(metavar="ID", help="The device that would get it")],
    value: Values = None,
    data: Annotated[str | None, typer.Option(help="JSON instead of the template's data")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="One of the 20 newest. Default: the newest")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Render a template for a device, as a push would be; nothing is sent. What the device lacks is an error."""
    body: dict[str, Any] = {"device": device}
    name, named = name_and_version(name, "TEMPLATE")
    if named is not None and version is not None and named != version:
        fail(f"which version: {named}, or {version}?", 2)
    version = named if version is None else version
    if value:
        body["values"] = dict(name_and_value(text, "--value") for text in value)
    if version is not None:
        body["version"] = version
    if data is not None:
        body["data"] = json_of(data, "--data")
    with client_of(server, data_dir) as client:
        rendered = client.call("POST", f"/v1/templates/{segment(name)}/preview", json=body)
    print_rendered(rendered, device, as_json)
