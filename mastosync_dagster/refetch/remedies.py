"""What can be done about objects that are missing, failed or damaged.

``tootctl media refresh`` and ``tootctl accounts refresh`` fetch remote files again; no command does that
for custom emoji and preview cards (Mastodon's ``lib/mastodon/cli``). Local uploads exist nowhere else, but what
Mastodon makes from them it makes again: ``reprocess!`` of kt-paperclip's ``attachment.rb`` writes the named style
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon import Rows, is_remote, stored_objects, unavailable_domains
from mastosync_dagster.records.outcomes import HARMLESS, Outcome
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.records.manifest import ManifestLine

FETCH_AGAIN = "fetch it again from its server"
NOTHING_TO_DO = "nothing to do: its absence is harmless"
ROW_GONE = "nothing to do: its row is gone"
ROW_CHANGED = "nothing to do: its row has another file by now"
SYNC_AGAIN = "sync it again; the reason says what to change first"
SOURCE_DAMAGED = (
    "the destination has it as it was; the source's is damaged, or was replaced by hand: copy this one back while"
    " Mastodon uses the source; if the source's is right, mastosync sync --overwrite takes it"
)
COMPARE = "compare source and destination: mastosync sync --overwrite takes the source's; nothing was overwritten"
NO_POST = "of another server, in no post and of no account: Mastodon does not show it"
NO_HANDLE = (
    "of another server: tootctl can fetch it again by the account's handle, and the database's user may not read"
    " accounts.username"
)
EMOJI = "delete this copy of the emoji in the administration: Mastodon fetches it again with the next post that uses it"
CARD = "Mastodon fetches it again when the link is posted again, two weeks after it was fetched last at the earliest"
REMOTE = "of another server: tootctl can fetch it again; if the database is reachable, this report prints the command"
UNKNOWN = "not known whether it is of another server; if the database is reachable, this report shows it"

_HANDLE = "username"
"""A column of accounts that a role need not read."""

RAILS_RUNNER = "RAILS_ENV=production bin/rails runner"
MADE_AGAIN = "Mastodon makes it from its original, which is there"
UNAVAILABLE = "its server has not answered Mastodon for a week: nothing can fetch it unless it comes back"

_LOST = "lost: it was uploaded here, and the source does not have it; without a backup of it "
_LOST_BY_TABLE = {
    "media_attachments": f"{_LOST}nobody does",
    "accounts": f"{_LOST}its owner can upload another one",
    "custom_emojis": f"{_LOST}upload it again in the administration",
    "site_uploads": f"{_LOST}upload it again in the administration",
    "backups": "lost, or expired: its owner can ask for a new archive",
}
_MODELS = {
    "media_attachments": "MediaAttachment",
    "accounts": "Account",
    "custom_emojis": "CustomEmoji",
    "site_uploads": "SiteUpload",
}
FETCHES = "tootctl "
"""How each command begins that has Mastodon fetch files of a row again: also what it still has of them."""
_IDS = (
    f'CSV.foreach("missing.csv", headers: true).select {{ |line| line["command"].to_s.start_with?("{FETCHES}") }}'
    '.map { |line| line["id"].to_i }.uniq.each_slice(1000)'
)
ALL_AT_ONCE = {
    # As `tootctl media remove` leaves them: Mastodon fetches a file without a name when somebody looks at it.
    "media_attachments": f'require "csv"; {_IDS} {{ |ids|'
    " MediaAttachment.remote.where(id: ids).update_all(file_file_name: nil) }",
    # As `tootctl accounts refresh` does it.
    "accounts": f'require "csv"; {_IDS} {{ |ids| Account.remote.where(id: ids).find_each {{ |account|'
    " begin; account.reset_avatar!; account.reset_header!; account.save; rescue => e; warn(account.acct); end } }",
}
"""Ruby that has Mastodon fetch all remote files of a CSV report again, by table.

Not those of servers that are gone, and of rows whose original is there: it clears the names of files.
"""
_NOT_THERE = frozenset({Outcome.MISSING, Outcome.FAILED})
_WITHOUT_COMMAND = {"custom_emojis": EMOJI, "preview_cards": CARD}


@dataclass(frozen=True, slots=True)
class Remedy:
    """A manifest line, and what can be done about its object.

    Attributes:
        remote: Whether the object is another server's; None: not known.
        command: To be run on Mastodon's machine; None: no command helps.
        words: What to do, or what the command does, in words.
    """

    line: ManifestLine
    remote: bool | None
    command: str | None
    words: str


@dataclass(frozen=True)
class Remedies:
    """Finds out what can be done about objects, a page of manifest lines at a time.

    ``prefix`` is the destination's, with which the keys of the lines begin. Without the database, if it is not
    reachable, the manifest lines alone decide.
    """

    prefix: str
    database: Database | None = None

    def of(self, table: str, lines: Sequence[ManifestLine]) -> Iterator[Remedy]:
        """Yield each line of a table (some thousands at the most) with what can be done about it.

        Raises:
            DatabaseReadError: The rows could not be read, after all retries.
            NotMastodonError: A table or column does not exist.
        """
        rows = self._rows(table, [line for line in lines if _is_lost(line)])
        accounts = self._accounts(row.get("account_id") for row in rows.values()) if rows else {}
        page = _Page(
            accounts,
            self._unavailable((rows or {}).values(), accounts or {}),
            # Lines of one row stand together; where a page ends between them, the command finds no original.
            frozenset((line.row_id, line.part) for line in lines if line.outcome in _NOT_THERE),
        )
        for line in lines:
            if not _is_lost(line):
                yield Remedy(line, line.remote, None, _words_if_not_lost(line))
            elif rows is None:
                yield _by_manifest(table, line)
            else:
                yield self._by_row(table, line, rows.get(line.row_id), page)

    def _rows(self, table: str, lines: Sequence[ManifestLine]) -> dict[int, Mapping[str, object]] | None:
        if self.database is None:
            return None
        more = ("account_id", "status_id", _HANDLE, "domain")
        with Rows(self.database, table, more_columns=more) as rows:
            return {row["id"]: row for row in rows.of(sorted({line.row_id for line in lines}))}

    def _accounts(self, ids: Iterable[object]) -> dict[object, str] | None:
        """Return the handles of those accounts that are remote; None: the user may not read them."""
        wanted = sorted({row_id for row_id in ids if isinstance(row_id, int)})
        if not wanted or self.database is None:
            return {}
        if not self.database.schema.has("accounts", _HANDLE):
            return None
        with Rows(self.database, "accounts", more_columns=(_HANDLE,)) as rows:
            return {row["id"]: f"{row[_HANDLE]}@{row['domain']}" for row in rows.of(wanted) if row["domain"]}

    def _unavailable(self, rows: Iterable[Mapping[str, object]], accounts: Mapping[object, str]) -> frozenset[str]:
        """Return the servers of rows and accounts that have not answered Mastodon for a week."""
        if self.database is None:
            return frozenset()
        domains = {str(row["domain"]) for row in rows if row.get("domain")} | set(map(_domain, accounts.values()))
        return frozenset(unavailable_domains(self.database, domains) if domains else ())

    def _by_row(self, table: str, line: ManifestLine, row: Mapping[str, object] | None, page: _Page) -> Remedy:
        if row is None:
            return Remedy(line, line.remote, None, ROW_GONE)
        if line.key.removeprefix(self.prefix) not in {stored.key for stored in stored_objects(table, row)}:
            return Remedy(line, line.remote, None, ROW_CHANGED)
        remote = is_remote(table, row)
        if (command := _made_again(table, line, page)) is not None:
            return Remedy(line, remote, command, MADE_AGAIN)
        if remote:
            return _fetched_again(table, line, row, page)
        return Remedy(line, remote=False, command=None, words=_lost_words(table))


class _Page(NamedTuple):
    """What is known of a page's lines besides their rows.

    Attributes:
        accounts: Handles of the remote accounts of media, by id; None: the user may not read them.
        unavailable: Domains of servers that do not answer.
        not_there: Row and part of each line whose object is missing or failed.
    """

    accounts: Mapping[object, str] | None
    unavailable: frozenset[str]
    not_there: frozenset[tuple[int, str]]


def _domain(handle: str) -> str:
    return handle.rpartition("@")[2]


def _fetched_again(table: str, line: ManifestLine, row: Mapping[str, object], page: _Page) -> Remedy:
    """Return what can be done about an object that other servers may still have."""
    account = (page.accounts or {}).get(row.get("account_id"))
    if table == "accounts" and row.get("domain") and _HANDLE in row:
        account = f"{row[_HANDLE]}@{row['domain']}"
        command = f"tootctl accounts refresh {quote(account)}"
    elif table == "media_attachments" and row.get("status_id") is not None:
        command = f"tootctl media refresh --status {row['status_id']} --force"
    elif table == "media_attachments" and account is not None:
        command = f"tootctl media refresh --account {quote(account)} --force"
    elif table == "accounts" or (page.accounts is None and row.get("account_id") is not None):
        return Remedy(line, remote=True, command=None, words=NO_HANDLE)
    else:
        return Remedy(line, remote=True, command=None, words=_WITHOUT_COMMAND.get(table, NO_POST))
    if account is not None and _domain(account) in page.unavailable:
        return Remedy(line, remote=True, command=None, words=UNAVAILABLE)
    return Remedy(line, remote=True, command=command, words=FETCH_AGAIN)


def _made_again(table: str, line: ManifestLine, page: _Page) -> str | None:
    """Return the command by which Mastodon makes an object from its original; None: that is lost as well."""
    attachment, _, style = line.part.partition("/")
    if style == "original" or (line.row_id, f"{attachment}/original") in page.not_there or table not in _MODELS:
        return None
    ruby = f'{_MODELS[table]}.find({line.row_id}).{attachment}.reprocess!("{style}")'
    return f"{RAILS_RUNNER} {quote(ruby)}"


def _is_lost(line: ManifestLine) -> bool:
    return line.outcome is Outcome.MISSING and line.detail != HARMLESS


def _words_if_not_lost(line: ManifestLine) -> str:
    if line.outcome is Outcome.FAILED:
        return COMPARE if line.reason is Reason.SIDES_DIFFER else SYNC_AGAIN
    return NOTHING_TO_DO if line.outcome is Outcome.MISSING else SOURCE_DAMAGED


def _by_manifest(table: str, line: ManifestLine) -> Remedy:
    if line.remote is None:
        return Remedy(line, None, None, UNKNOWN)
    return Remedy(line, line.remote, None, _WITHOUT_COMMAND.get(table, REMOTE) if line.remote else _lost_words(table))


def _lost_words(table: str) -> str:
    return _LOST_BY_TABLE.get(table, f"{_LOST}upload it again")
