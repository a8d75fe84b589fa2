"""The state folder: keys, store, journal anchor, vault, settings. Made once, opened by every command, whole or named.

keys/            the authority's, the controller's, the operators' and the journal's keys and certificates
store.sqlite     hosts, operations, incidents, journal (unless fireline.toml names another store)
journal.anchor   the journal's head, signed, kept apart from the store so that a cut-off end is noticed
vault/           evidence
profiles/        capture profiles of your own
runbooks/        the operators' own runbooks, besides the built-in ones
runs.sqlite      which runs are to be gone on with (DBOS); what they did is in the record
runs/            a file for each run that a process on this machine drives
fireline.toml    settings, all optional
policy.toml      what needs the approval of other operators
"""

import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fireline_controller import config, pki
from fireline_controller.model import ConfigError, Entry, StoreError
from fireline_controller.store import Store


@dataclass(frozen=True)
class State:
    """An opened state folder."""

    folder: Path
    settings: config.Settings
    authority: pki.Authority

    @property
    def store_url(self) -> str:
        """Where the record is, as SQLAlchemy has it."""
        return self.settings.store.url or f"sqlite:///{self.folder / 'store.sqlite'}"

    def open_store(self) -> Store:
        """Open the record.

        Raises:
            StoreError: it can't be opened.
        """
        anchor = self.folder / "journal.anchor"
        return Store.open(self.store_url, journal_key=self.authority.journal_key, anchor_path=anchor)


def make(folder: Path, *, operator: str, now: datetime) -> State | None:
    """Make a state folder; None when it is there and complete: then nothing was changed.

    Raises:
        ConfigError: the settings in it are wrong.
        StoreError: it is half made or broken, which is named, or can't be written.
    """
    if (folder / "keys").exists() or (folder / "store.sqlite").exists():
        there = open_state(folder)
        return there if _begun(there, operator, now) else None
    settings = config.load(folder / "fireline.toml")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for part in ("vault", "profiles"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: can't be made: {error.strerror}") from None
    state = State(folder, settings, pki.create(folder / "keys", operator=operator, now=now))
    _begun(state, operator, now)
    return state


def _begun(state: State, operator: str, now: datetime) -> bool:
    """Write the journal's first line, the last step of making; false when it is there."""
    data = {"ca_sha256": state.authority.ca_sha256}
    entry = Entry("controller.made", operator, now, "state folder made", data=data)
    store = state.open_store()
    try:
        is_empty = store.read_now(lambda tx: tx.head()[0] == 0)
        if is_empty:
            store.run_now(lambda tx: tx.append(entry))
        return is_empty
    finally:
        store.close()


def open_state(folder: Path) -> State:
    """Open a state folder.

    Raises:
        ConfigError: it is not there, or the settings in it are wrong.
        StoreError: it is open to others or not whole; each missing or broken part is named.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no state folder; make one: fireline init --state {folder}")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise StoreError(f"{folder}: mode is {mode:04o}, wanted 0700: it holds keys; run: chmod 700 {folder}")
    settings = config.load(folder / "fireline.toml")
    missing = [part for part in ("keys", "vault", *_own_store(settings)) if not (folder / part).exists()]
    if missing:
        there = [p.name for p in sorted(folder.iterdir())]
        raise StoreError(
            f"{folder}: half made: {', '.join(missing)} missing, found {', '.join(there) or 'nothing'}."
            " If `fireline init` was interrupted, remove the folder and run it again;"
            " if not, restore the missing part from a backup"
        )
    return State(folder, settings, pki.load(folder / "keys"))


def _own_store(settings: config.Settings) -> tuple[str, ...]:
    return () if settings.store.url else ("store.sqlite", "journal.anchor")
