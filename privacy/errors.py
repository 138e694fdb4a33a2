"""Every failure this library reports on purpose.

SottovoceError
├── ConfigError           the experiment or command asks for something impossible -> correct the named key
├── DataError             an input file does not hold what was promised           -> correct the named file, column, row
├── BudgetError           the next release would overspend                        -> do not release; end or plan anew
├── LedgerError           the ledger was changed, cut or rolled back              -> stop; restore it, tell the auditor
├── UpdateError           one reply of a round is unusable                        -> drop it, the round goes on
├── AggregationError      a secure sum cannot be unmasked                         -> nobody's part is known; ask anew
├── CheckpointError       a checkpoint cannot be read or does not belong here     -> take an older one
├── GateError             a release gate failed                                   -> nothing was written; see the gate
├── BundleError           the bundle is not fit to load                           -> keep the old one
│   ├── SignatureError    too few valid signatures
│   ├── RollbackError     not newer than the one already trusted
│   ├── ExpiredError      trusted once, too old now
│   ├── DigestError       a file differs from its manifest entry
│   ├── SchemaError       features this device cannot produce
│   └── GoldenError       the model does not score as it did where it was evaluated
├── TransferError         an update server cannot be reached or breaks off       -> keep the bundle; ask again later
└── DeviceError           the device's store, catalogue or consent cannot be used -> see the message; defaults apply

Anything else that escapes is a bug in sottovoce, never a bad input. Wrong calls by a programmer stay `ValueError`
and `TypeError`.
"""


class SottovoceError(Exception):
    """Base of all reported failures: what happened, and what to do about it.

    Args:
        what: one line saying what happened, with the file, key or row concerned.
        todo: one line saying what to do.
    """

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo


class ConfigError(SottovoceError):
    """The experiment or the command asks for something impossible."""


class DataError(SottovoceError):
    """An input file does not hold what was promised."""


class BudgetError(SottovoceError):
    """The next release would overspend the privacy budget."""


class LedgerError(SottovoceError):
    """The ledger was changed, cut or rolled back."""


class UpdateError(SottovoceError):
    """One reply of a round is unusable."""


class AggregationError(SottovoceError):
    """A secure sum cannot be unmasked; no part of it is known either."""


class CheckpointError(SottovoceError):
    """A checkpoint cannot be read or does not belong to this run."""


class GateError(SottovoceError):
    """A release gate failed; nothing was written."""


class BundleError(SottovoceError):
    """The bundle is not fit to load; the old one stays."""


class SignatureError(BundleError):
    """Fewer valid signatures than the threshold."""


class RollbackError(BundleError):
    """Not newer than the version already trusted."""


class ExpiredError(BundleError):
    """Past its expiry."""


class DigestError(BundleError):
    """A file is missing, added or differs from its manifest entry."""


class SchemaError(BundleError):
    """The bundle needs features this device cannot produce."""


class GoldenError(BundleError):
    """The model does not score here as it did where it was evaluated."""


class TransferError(SottovoceError):
    """An update server cannot be reached, breaks off, or does not serve what its index says."""


class DeviceError(SottovoceError):
    """The device's store, catalogue or consent cannot be used."""
