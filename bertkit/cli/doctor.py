"""``bertkit doctor``."""

import typer

from bertkit.cli import console, options


def command(json: options.Json = False, offline: options.Offline = False) -> None:
    """Show versions, device, precision, Hub, cache and installed encoders; exit 1 where training can't work."""
    from dataclasses import asdict

    from bertkit.workflows.doctor import doctor

    findings = doctor(offline=offline)
    if json:
        console.emit_json([asdict(finding) for finding in findings])
    else:
        console.table("", ("", "subject", "detail"), [(f.state, f.subject, f.detail) for f in findings])
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
