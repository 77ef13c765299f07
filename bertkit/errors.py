"""What can go wrong, as a tree.

::

    BertkitError          every fault that bertkit names; the command line prints it on one line and exits 1
    ├── TaskError         a task's name or its file: unknown name, unknown key, missing key
    ├── ConfigError       a setting: unknown name, wrong type, out of range
    ├── DataError         examples: file:line, column and value
    ├── ModelError        an encoder or a saved model: not found, not loadable, labels that do not fit
    └── RunError          a run folder: missing, unfinished, damaged, locked, disk full

A message is one sentence that says what is wrong, the value, where it is, and what to do next.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What reading JSON that holds something else than it should may raise; ``1e310`` is a number, and no integer."""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """What is not on this machine and could not be fetched: the parts of a message, to make one of two."""

    what: str
    """``encoder 'owner/name'``."""
    state: str
    """``is not in the cache``."""
    reason: str
    """Why it could not be fetched: ``the Hub at ... cannot be reached (...)``."""
    ways: str
    """What to give instead: ``--data DIR``."""


class BertkitError(Exception):
    """A fault that bertkit can name. Its text is one line, fit to be shown as it is."""

    absence: Absence | None = None
    """Set where the fault is that something could not be had without the Hub."""
    absences: tuple[Absence, ...] = ()
    """All that could not be had so, ``absence`` first."""
    rank: int | None = None
    """Set where it is the fault of one of several processes, and another raises it, too."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class TaskError(BertkitError):
    """A task could not be found, or its file is not a task."""


class ConfigError(BertkitError):
    """A setting has an unknown name, a wrong type or a value out of range."""


class DataError(BertkitError):
    """Examples could not be read, or hold something that training cannot use."""


class ModelError(BertkitError):
    """An encoder or a saved model could not be found, loaded or matched to the task."""


class RunError(BertkitError):
    """A run folder is missing, unfinished, damaged or cannot be written."""


def absent(kind: type[BertkitError], *absences: Absence) -> BertkitError:
    """Return the error of one or two things that are missing for the same reason, which is told once."""
    one, *others = absences
    subject = f"The {one.what} {one.state}"
    if [other.state for other in others] == [one.state]:
        subject = f"Neither the {one.what} nor the {others[0].what} {one.state.replace('is not', 'is')}"
    elif others:
        subject += f", the {others[0].what} {others[0].state}"
    ways = "; ".join(absence.ways for absence in absences)
    cache = "; or a cache that holds both" if others else ", or a cache that holds it"
    error = kind(f"{subject}, and {one.reason}. Ways out: {ways}{cache} (HF_HOME).")
    error.absence, error.absences = one, absences
    return error


def together(faults: Sequence[BertkitError]) -> BertkitError:
    """Return one error for faults that were found side by side; it is of the first one's kind."""
    if len(faults) == 1:
        return faults[0]
    absences = [fault.absence for fault in faults if fault.absence]
    if len(absences) == len(faults):
        return absent(type(faults[0]), *absences)
    return type(faults[0])(" Also: ".join(str(fault) for fault in faults))


def looked_for(name: str | Path, kind: type[BertkitError], what: str) -> Path:
    """Return the path of a name, the home folder in place of ``~``, whether something is there or not.

    Args:
        name: of a file or a folder.
        kind: of the error.
        what: it is the name of, for the message: ``The encoder``.

    Raises:
        BertkitError: if one cannot look: too long a name, a folder that is shut, no such home.
    """
    try:
        path = Path(name).expanduser()
        if path.exists():
            (path / "-").exists()
        path.resolve()  # links that go in a circle
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).removesuffix(".")
        raise kind(f"{what} {name} cannot be looked for: {reason}.") from error
    return path


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``choices``, or an empty string."""
    near = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def joined(problems: Iterable[str], *, most: int = 8) -> str:
    """Join several problems of one file into one message, the first ``most`` of them."""
    listed = list(problems)
    rest = len(listed) - most
    return "; ".join(listed[:most]) + (f"; and {rest} more" if rest > 0 else "")


def sentence(problems: Iterable[str]) -> str:
    """Join problems as :func:`joined` does and end with a full stop, where no question stands at the end."""
    text = joined(problems)
    return text if text.endswith("?") else f"{text}."


SECRETS = re.compile(
    r"(?P<address>://[^:/@\s]*:)[^@\s/]+(?=@)"  # a password: of a proxy, a mirror, a database
    r"|(?P<user>://)(?:hf|api_org)_\w+(?=@)"
    r"|\b(?:hf|api_org|gh[pousr])_[A-Za-z0-9]{8,}|\b(?:github_pat|wandb_v1)_\w{8,}"  # the Hub, GitHub, W&B
    r"|(?P<header>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{8,}"
)


def hide_secrets(text: str) -> str:
    """Return a text with ``***`` in place of passwords in addresses and of what has the form of a token."""
    return SECRETS.sub(lambda found: f"{found['address'] or found['user'] or found['header'] or ''}***", text)


def one_line(text: str) -> str:
    """Make a message one line that tells no secret and does nothing to a terminal, whatever data is in it."""
    folded = hide_secrets(" ".join(text.split()))
    return "".join(c for c in folded if c.isprintable())
