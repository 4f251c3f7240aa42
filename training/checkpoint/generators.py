"""Random generators of this process, which decide dropout."""

import torch


def local_generators(device: torch.device) -> dict[str, torch.Tensor]:
    """Their states: the CPU's, and the GPU's where there is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_rank(seed: int, rank: int, step: int) -> None:
    """Ranks draw different dropout masks, and always the same ones for a seed."""
    torch.manual_seed((seed * 1_000_003 + rank) * 1_000_003 + step)
