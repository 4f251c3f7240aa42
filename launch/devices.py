"""Which of a machine's GPUs a process may use. Pure."""

from collections.abc import Mapping


def visible(uuids: Mapping[int, str], devices: str | None) -> list[int]:
    """Which GPUs, by the driver's index, CUDA_VISIBLE_DEVICES lets a process use, in its order; None is all."""
    if devices is None:
        return list(uuids)
    chosen = []
    for name in (part.strip() for part in devices.split(",")):
        matches = [
            index
            for index, uuid in uuids.items()
            if name == str(index) or (name[:1].isalpha() and uuid.startswith(name))
        ]
        if not matches:  # CUDA ignores what follows the first name that is no GPU
            break
        chosen.append(matches[0])
    return chosen
