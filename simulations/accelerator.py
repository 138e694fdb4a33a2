"""Where the fleet's arithmetic happens: on the processor, or on a graphics card where one is at hand."""

import torch

from sottovoce.privacy.errors import ConfigError


def require_accelerator(name: str) -> torch.device:
    """The torch device of this name, which is there and can be used.

    Args:
        name: such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        # Naming a card succeeds anywhere; only using it tells.
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"--device {name}: {why}", "use --device cpu, or a torch built for this card") from None
    return device
