"""The reference pages, made of what they describe: the settings, the catalogue of errors, the registry of metrics.

The pages of the HTTP API and of the command line are long enough for modules of their own (`http_api`, `command_line`).
`python -m tests.documents` writes all of them; `test_reference` compares them with what is in the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.api.operation_problems import WITHOUT_KEY, operations_by_code
from gateway.errors import CATALOGUE, problem
from gateway.settings import PREFIX, described_settings
from tests.documents import command_line, http_api
from tests.documents.markdown import table
from tests.gateway.in_process import InProcessGateway, openapi_document

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by `python -m tests.documents`; a test compares. Change what it describes instead. -->"
EXAMPLE_PATH: Final = "/v1/devices/kiosk-9"
EXAMPLE: Final = problem("device_not_found", "no device 'kiosk-9' in this app; enrol it with POST /v1/devices")
SUFFIXES: Final = {"counter": "_total", "info": "_info"}
"""Of the names of samples, by the type of a metric."""


def pages(gateway: InProcessGateway) -> dict[str, str]:
    """The text of each page, by its name in `docs/reference`."""
    texts = {
        "http-api.md": http_api.page(openapi_document()),
        "settings.md": settings_page(),
        "command-line.md": command_line.page(),
        "errors.md": errors_page(),
        "metrics.md": metrics_page(gateway),
    }
    return {name: text.replace("\n", f"\n\n{MADE}\n", 1) for name, text in texts.items()}


def settings_page() -> str:
    settings = described_settings()
    rows = [(f"`{setting.name}`", setting.default, setting.values, setting.text) for setting in settings]
    without_flag = ", ".join(f"`{setting.name}`" for setting in settings if not setting.has_flag)
    return f"""# Settings

A setting `name` is the flag `--name` of `fleetpush serve` (with hyphens), the variable `{PREFIX}NAME`, or the key
`name` in `fleetpush.toml`. A flag wins over a variable, a variable over the file. `--config FILE` names another file;
without it `fleetpush.toml` is looked for where `serve` is started, or another command, and then in the folder of the
installed environment (`sys.prefix`), where the Debian package has a link to `/etc/fleetpush/fleetpush.toml`.

Several values of one setting are separated by commas in a variable, are a list in the file, and a repeated flag on the
command line. Bytes are a number, or one with its unit: `32 MiB` (`KiB`, `MiB`, `GiB`). A variable that begins with
`{PREFIX}` and belongs to no setting is refused at the start, so that a misspelt one is noticed.

{table(("setting", "default", "values", "meaning"), rows)}

A few settings have no flag: {without_flag}.

Commands that talk to a server, on whatever machine, read more variables:

| variable | meaning |
| --- | --- |
| `FLEETPUSH_URL` | Address of the server, such as `https://push.example`. |
| `FLEETPUSH_KEY` | API key that requests are made with. |
| `FLEETPUSH_CA` | File (PEM) of the authority that issued the server's certificate, if the system does not know it. |
| `FLEETPUSH_BRIDGE_PASSWORD` | Password of [`bridge`](../home-assistant.md) for your own MQTT broker. |
"""


def errors_page() -> str:
    document = openapi_document()
    answering = operations_by_code(document)
    everywhere = sum(len(operations) for operations in document["paths"].values())
    with_key = {
        f"{method.upper()} {path}"
        for path, found in document["paths"].items()
        for method in found
        if path.startswith("/v1/") and (method, path) not in WITHOUT_KEY
    }

    def whose(found: Sequence[str]) -> str:
        if len(found) == everywhere:
            return "every operation"
        if with_key.issubset(found):
            others = [f"`{operation}`" for operation in found if operation not in with_key]
            return ", ".join(["every operation that needs a key", *others])
        return f"{len(found)} operations" if len(found) > 6 else ", ".join(f"`{operation}`" for operation in found)

    rows = [
        (str(row.status), f"`{code}`", "yes" if row.retryable else "no", row.when, whose(answering[code]))
        for code, row in CATALOGUE.items()
    ]
    return f"""# Errors

Every refusal of the HTTP API is a problem document (RFC 9457, `application/problem+json`). `GET {EXAMPLE_PATH}`
answers:

```json
{json.dumps(EXAMPLE.document(), indent=2)}
```

`code` is for programs and does not change. `detail` is for people and says what to do. `retryable` says whether the
same request may succeed later; with 429 and 503 the header `Retry-After` says when. The server itself explains each
code at `/docs/problems`, with all operations that answer it.

{table(("status", "code", "retry", "when", "answered by"), rows)}

`outcome_unknown` is retryable for a request that carries an `Idempotency-Key`: sent again with the same key, it is
stored once. An item of a batch or of a bulk enrolment that is refused has a problem of its own in the answer, while the
others are accepted.
"""


def metrics_page(gateway: InProcessGateway) -> str:
    gateway.components.certificate_ends = {"server": 0.0, "ca": 0.0}
    rows = []
    for family in sorted(gateway.components.metrics._registry.collect(), key=lambda family: family.name):
        if family.name.startswith("fleetpush_"):
            kind, name = family.type, family.name + SUFFIXES.get(family.type, "")
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
            names = [label for label in (*getattr(family, "_labelnames", ()), *labels) if label != "le"]
            rows.append(
                (f"`{name}`", kind, ", ".join(f"`{label}`" for label in dict.fromkeys(names)), family.documentation)
            )
    return f"""# Metrics

`GET /metrics` answers Prometheus text, without a key unless the setting `metrics_key` names one. No label names an app,
a device or a push, so the number of time series does not grow with the fleet. The usual `process_` metrics are there as
well. Which of them to watch, and when to be woken, is in [Metrics, health and logs](../operate/monitoring.md).

{table(("metric", "type", "labels", "meaning"), rows)}

Counters start at 0 with the process. `fleetpush_tls_certificate_days_left` is there when the server speaks TLS.
"""


def write(texts: Mapping[str, str]) -> Iterable[Path]:
    """Write what has changed; the files that did."""
    for name, text in texts.items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            yield path
