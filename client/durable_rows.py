"""Rows in memory and, as far as the disk allows, in a sealed file: what to do for each way in which that fails.

===================================  ==============================================================================
what is found                        what happens
===================================  ==============================================================================
no key, another key                  the file is removed; a new one under a new key
no SQLite file, another layout       likewise
damaged page, file cut off           what can be read from either end goes to a new file under a new key
damaged row                          it is dropped; the others go to a new file under a new key
the key cannot be asked now          memory only; the file is left alone
in use, read-only, failing disk      memory only, filled from a copy of the sealed bytes where that can be made
full disk while writing              memory; written with the next change that fits
damage while writing                 everything in memory goes to a new file under a new key
===================================  ==============================================================================
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from sottovoce.client import sealed_file
from sottovoce.client.keystore import Keystore
from sottovoce.client.sealed_file import FAULTS, Reading, SealedFile, sealed_size
from sottovoce.client.store_rows import Row, decode_row, encode_row
from sottovoce.privacy.errors import DeviceError

_MOST_NOTES = 32


class DurableRows:
    """Numbered rows. Opening them never fails.

    Args:
        path: of the file, in a folder where nothing else writes.
        keystore: holds its key.
        wait_s: how long to wait for another process.

    Attributes:
        rows: by number, in the order in which they came in.
        sizes: bytes on the disk, by number.
        notes: what went wrong so far, and what was done about it; the newest 32.
        fault: why nothing is written now: `locked`, `read-only`, `full`, `disk`, `damaged` or `key`; empty while all
            is well.
        complete: False when rows may be missing that were there before.
    """

    def __init__(self, path: Path, keystore: Keystore, wait_s: float) -> None:
        self.rows: dict[int, Row] = {}
        self.sizes: dict[int, int] = {}
        self.notes: list[str] = []
        self.fault = ""
        self.complete = True
        self._path = path
        self._keystore = keystore
        self._file: SealedFile | None = None
        self._next = 1
        self._late: set[int] = set()
        self._dead: set[int] = set()
        self._open(wait_s)

    def change(
        self, new: Iterable[Row], gone: Collection[int] = (), clean: bool = False, wait: bool = True
    ) -> tuple[list[int], bool]:
        """Add rows and remove others: in memory at once, and on the disk in one step.

        Args:
            new: rows; what they become in memory is what would be read back.
            gone: numbers.
            clean: leave nothing of what is removed in the write-ahead log.
            wait: for the disk; otherwise the next change that waits writes this one too.

        Returns:
            The new numbers, and whether everything is on the disk.

        Raises:
            DeviceError: a row that cannot be kept; nothing happened.
        """
        plain = [encode_row(row) for row in new]
        self._forget(gone)
        numbers = [self._take(self._next, data) for data in plain]
        self._late.update(numbers)
        return numbers, wait and self._write(clean)

    def rewrite(self, new: Iterable[Row], gone: Collection[int]) -> list[int]:
        """The same, with every row sealed anew, so that a copy of a removed row can never be put back.

        Returns:
            The new numbers.

        Raises:
            DeviceError: memory is as asked for, but the disk still has the old rows.
        """
        plain = [encode_row(row) for row in new]
        self._forget(gone)
        numbers = [self._take(self._next, data) for data in plain]
        self._late.update(numbers)
        try:
            if self._file is None:
                raise DeviceError(self.fault or "the store is closed", "")
            self._file.rewrite({number: encode_row(row) for number, row in self.rows.items()})
        except (*FAULTS, DeviceError) as error:
            self._note(_why(error), f"deleting failed: {error}")
            raise DeviceError(
                f"{self._path}: it is forgotten, but the disk could not be written ({error})",
                "free or repair the disk and delete again; until then a restart brings it back",
            ) from error
        self._late.clear()
        self._dead.clear()
        self.fault = ""
        return numbers

    def anew(self) -> None:
        """Destroy key and file, and write what is in memory to a new file under a new key.

        Raises:
            DeviceError: key or file may still be there.
        """
        if self.fault == "locked":
            raise DeviceError(f"{self._path} is in use by another process", "let that process do it, or end it")
        self._shut()
        try:
            key = self._keystore.create()
            sealed_file.remove(self._path)
            self._file = SealedFile(self._path, key)
            self._file.change({number: encode_row(row) for number, row in self.rows.items()})
        except (*FAULTS, DeviceError) as error:
            self._shut()
            self._note(_why(error), f"no new file: {error}")
            raise DeviceError(
                f"{self._path} could not be made anew: {error}", "free or repair the disk and try again"
            ) from error
        self._late.clear()
        self._dead.clear()
        self.fault = ""

    def close(self) -> None:
        """Write what is not written yet, as far as possible, and give the file back."""
        if self._late or self._dead:
            self._write(clean=False)
        self._shut()

    def note(self, text: str) -> None:
        """Say what went wrong."""
        self.notes.append(text)
        del self.notes[:-_MOST_NOTES]

    def _open(self, wait_s: float) -> None:
        try:
            key = self._keystore.load()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._path.exists() and self._path.stat().st_size > 0
        except (*FAULTS, DeviceError) as error:
            self._note(_why(error), f"memory only: {error}", gap=True)
            return
        reading = Reading({})
        if key is not None:
            if not found:
                self.note("there is a key but no file: what was kept is gone")
                self.complete = False
            read = self._read(key, wait_s)
            if read is None:  # it is not ours to write
                return
            reading = read
        elif found:
            self.note("the key is lost: what was kept cannot be read and is removed")
            self.complete = False
        unread = sum(self._unreadable(number, plain) for number, plain in reading.rows.items())
        self._next = reading.highest + 1
        if reading.broken or unread:
            self.note(f"{len(reading.broken) + unread} rows could not be read and are removed")
            self.complete = False
        # Where a row is damaged the tree around it may be, so that nothing more is written to that file.
        if reading.torn or reading.broken or self._file is None:
            if reading.torn:
                self.note(f"the file was damaged: {len(self.rows)} rows were saved to a new one")
                self.complete = False
            self._anew_if_possible()
        elif self._dead:
            self._write(clean=True)

    def _read(self, key: bytes, wait_s: float) -> Reading | None:
        """What the file holds; it stays open, unless it is damaged. None when it cannot be had for writing."""
        try:
            self._file = SealedFile(self._path, key, wait_s)
            return self._file.read()
        except FAULTS as error:
            self._shut()
            if _why(error) == "damaged":
                return Reading({}, torn=True)
            self._note(_why(error), f"memory only: {error}")
        try:
            copy = sealed_file.read_copy(self._path, key)
        except FAULTS as error:
            if sealed_file.fault(error) in ("damaged", "read-only"):  # a copy may be written: its header says otherwise
                return Reading({}, torn=True)
            self._note(self.fault, f"nor could it be copied: {error}", gap=True)
            return None
        for number, plain in copy.rows.items():
            self._unreadable(number, plain)
        self._dead.clear()
        self._next = copy.highest + 1
        self.complete = not (copy.torn or copy.broken)
        return None

    def _unreadable(self, number: int, plain: bytes) -> bool:
        """Take a row that was read; True when this version cannot."""
        row = decode_row(plain)
        if row is None:
            self._dead.add(number)
            return True
        self._hold(number, row, plain)
        return False

    def _take(self, number: int, plain: bytes) -> int:
        """Take a new row as it would be read back."""
        row = decode_row(plain)
        if row is None:
            raise ValueError("a row that was just written cannot be read")
        self._hold(number, row, plain)
        return number

    def _hold(self, number: int, row: Row, plain: bytes) -> None:
        self.rows[number] = row
        self.sizes[number] = sealed_size(plain)
        self._next = max(self._next, number + 1)

    def _forget(self, gone: Collection[int]) -> None:
        for number in gone:
            del self.rows[number], self.sizes[number]
            if number in self._late:
                self._late.discard(number)
            else:
                self._dead.add(number)

    def _write(self, clean: bool) -> bool:
        """Bring the disk up to memory; what fails is tried again with the next change."""
        if self._file is None:
            return False
        try:
            self._file.change({number: encode_row(self.rows[number]) for number in sorted(self._late)}, self._dead)
            self._late.clear()
            self._dead.clear()
            if clean:
                self._file.clean()
        except FAULTS as error:
            self._note(_why(error), f"not written: {error}")
            return self._anew_if_possible() if self.fault == "damaged" else False
        self.fault = ""
        return True

    def _anew_if_possible(self) -> bool:
        try:
            self.anew()
        except DeviceError:
            return False
        return True

    def _note(self, fault: str, text: str, gap: bool = False) -> None:
        if fault != self.fault or gap:
            self.note(text)
        self.fault = fault
        self.complete = self.complete and not gap

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _why(error: BaseException) -> str:
    """See `DurableRows.fault`."""
    return "key" if isinstance(error, DeviceError) else sealed_file.fault(error)
