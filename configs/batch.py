"""How a step's rows are shared out: devices x rows of a forward pass x forward passes make up the global batch."""

from __future__ import annotations

from configs.errors import RecipeError

SHOWN = 12  # combinations that an error lists


def share_out(global_batch: int, devices: int, micro_batch: int | None, accumulation: int | None) -> tuple[int, int]:
    """Rows of one forward pass on one device, and forward passes of a step, from those given; with neither, one pass.

    RecipeError with the combinations that make up the global batch where these do not.
    """
    rows, remainder = divmod(global_batch, devices)
    micro = micro_batch or (rows // accumulation if accumulation else rows)
    passes = accumulation or (rows // micro if micro else 0)
    if remainder or micro * passes != rows or not rows:
        given = [f"train.devices = {devices}"]
        given += [f"train.micro_batch = {micro_batch}"] if micro_batch is not None else []
        given += [f"train.accumulation = {accumulation}"] if accumulation is not None else []
        raise RecipeError(
            f"{', '.join(given)} can't make up train.global_batch = {global_batch} rows; "
            f"possible (devices x micro_batch x accumulation): {_listed(global_batch, devices)}"
        )
    return micro, passes


def _listed(global_batch: int, devices: int) -> str:
    """Combinations with this number of devices; with other numbers where there are none."""
    numbers = [devices] if global_batch % devices == 0 else _divisors(global_batch)
    found = [f"{n} x {micro} x {global_batch // n // micro}" for n in numbers for micro in reversed(_divisors(global_batch // n))]
    return ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
