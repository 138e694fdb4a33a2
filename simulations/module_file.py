"""Load a module of one's own from the Python file that a user names on the command line.

Nothing else ever names code to load: neither an experiment, nor a run folder, nor a checkpoint, nor a message.
"""

import importlib.util
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from sottovoce.client.own_model import OwnModel
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import ConfigError, SottovoceError

HOW = "write --module FILE.py:FACTORY, where FACTORY(schema) returns a torch.nn.Module or an OwnModel"


def load_module(told: str | None, schema: FeatureSchema, seed: int) -> OwnModel | None:
    """Run the file and call its factory; None for None.

    Args:
        told: "FILE.py:FACTORY".
        schema: handed to the factory.
        seed: of torch's generator while the module is made, so that a run resumes with the module it began with.

    Raises:
        ConfigError: no such file or factory, its code fails, or the module cannot be trained by a fleet.
    """
    if told is None:
        return None
    place, colon, factory = told.rpartition(":")
    path = Path(place)
    if not colon or path.suffix != ".py" or not factory.isidentifier():
        raise ConfigError(f"--module {told}: not FILE.py:FACTORY", HOW)
    if not path.is_file():
        raise ConfigError(f"--module {place}: no such file", HOW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            code = _run(path)
            if not callable(make := getattr(code, factory, None)):
                raise ConfigError(f"--module {place}: has no function {factory!r}", HOW)
            made = make(schema)
        except SottovoceError:
            raise
        except Exception as error:  # whatever somebody else's code raises
            raise ConfigError(f"--module {told}: {_told(error)}", f"correct {place}") from error
    if isinstance(made, OwnModel):
        return made
    if not isinstance(made, nn.Module):
        raise ConfigError(f"--module {told}: returned a {type(made).__name__}", HOW)
    return OwnModel(made, schema)


def _run(path: Path) -> object:
    name = f"sottovoce_module_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--module {path}: not a Python file", HOW)
    code = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up there.
    sys.modules[name] = code
    spec.loader.exec_module(code)
    return code


def _told(error: Exception) -> str:
    """Type, first line and place of an error in somebody else's code."""
    first = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    if isinstance(error, SyntaxError):
        return first  # says where by itself
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{first} ({Path(last.filename).name}, line {last.lineno})"
